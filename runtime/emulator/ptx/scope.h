// Names visible at a point of a PTX text: registers, variables and labels in nested { } scopes. Names of
// inner scopes get a suffix ("p@3") that no PTX identifier can have, so they are unique per function.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/emulator/ptx/lexer.h"
#include "runtime/emulator/ptx/module.h"

namespace sagegen::emulator::ptx {

enum class NameKind { reg, vector2, vector4, variable };  // vectors: registers of .v2 and .v4

struct ResolvedName {
  NameKind kind = NameKind::reg;
  std::string unique;
};

// A symbol operand that may be a label declared further on.
struct LabelReference {
  std::string name;
  std::size_t instruction = 0;
  std::size_t operand = 0;
};

class ScopeStack {
 public:
  // The outermost scope holds the module's variables, the next one a function's parameters, registers,
  // variables and labels.
  void open();
  // Writes the unique names of the labels that this scope declares into `body`; references to others
  // are passed outwards.
  void close(std::vector<Instruction>& body);
  std::size_t depth() const { return scopes_.size(); }

  // Each returns the unique name. Throws ParseError if the name is taken in the innermost scope.
  std::string declare(const Token& name, NameKind kind);
  std::string declare_label(const Token& name);
  // A register of .v2 or .v4: `out` gets name.x, name.y and so on.
  void declare_vector(const Token& name, NameKind kind, Register::Type type,
                      std::vector<Register>& out);
  // Registers name0 .. name(count - 1), appended to `out`.
  void declare_range(const Token& name, std::uint64_t count, Register::Type type,
                     std::vector<Register>& out);

  std::optional<ResolvedName> find(std::string_view name) const;

  void refer_to_label(LabelReference reference);
  // References that no scope closed so far could resolve.
  const std::vector<LabelReference>& unresolved() const { return scopes_.back().references; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };
  template <typename Value>
  using Map = std::unordered_map<std::string, Value, Hash, std::equal_to<>>;
  struct Scope {
    std::string suffix;
    Map<NameKind> names;
    Map<std::uint64_t> ranges;  // prefix -> count
    Map<bool> labels;
    std::vector<LabelReference> references;
  };
  static std::optional<NameKind> find_in(const Scope& scope, std::string_view name);

  std::vector<Scope> scopes_;
  int opened_ = 0;
};

// How many registers a name of this kind stands for.
inline std::size_t elements_of(NameKind kind) {
  return kind == NameKind::vector2 ? 2 : kind == NameKind::vector4 ? 4 : 1;
}
// The register of an element of a vector: "v.x@3" for element 0 of "v@3".
std::string element_name(std::string_view unique, std::size_t element);

}  // namespace sagegen::emulator::ptx
