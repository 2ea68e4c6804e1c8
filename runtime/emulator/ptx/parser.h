// The recursive-descent parser behind ptx::parse; module.h has the contract.
#pragma once

#include <array>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/emulator/ptx/calls.h"
#include "runtime/emulator/ptx/lexer.h"
#include "runtime/emulator/ptx/module.h"
#include "runtime/emulator/ptx/scope.h"

namespace sagegen::emulator::ptx {

// Bounds that no kernel comes near; they keep hostile text from exhausting memory or stack.
struct Limits {
  static constexpr std::size_t kTextBytes = std::size_t{16} << 20;
  static constexpr std::size_t kInstructions = 250'000;  // per module
  static constexpr std::size_t kOperands = 1'000'000;    // per module, vector elements included
  static constexpr std::uint64_t kRegisters = 250'000;   // per module
  static constexpr std::size_t kNames = 100'000;         // variables and labels per module
  static constexpr std::size_t kModifiers = 24;          // per instruction
  static constexpr std::size_t kOperandsOfOne = 32;      // per instruction
  static constexpr std::size_t kVectorElements = 512;
  static constexpr std::size_t kScopeDepth = 64;
  static constexpr std::size_t kDimensions = 32;  // of an array
  static constexpr std::uint64_t kVariableBytes = std::uint64_t{1} << 30;
  static constexpr std::uint64_t kFilledBytes = std::uint64_t{16} << 20;  // behind short {} rows
  static constexpr std::uint64_t kAlignment = 65536;
};

class Parser {
 public:
  explicit Parser(std::string_view text);
  Module run();

 private:
  // ---- tokens ----
  const Token& current() const { return current_; }
  Token take();
  bool accept(char punctuation);
  bool accept(std::string_view dotted);
  void expect(char punctuation, std::string_view after);
  Token take_identifier(std::string_view what);
  Token take_dotted(std::string_view what);
  std::uint64_t take_integer(std::string_view what, std::uint64_t maximum);
  std::int64_t take_signed(std::string_view what);
  [[noreturn]] void fail(const std::string& text) const;
  [[noreturn]] void unexpected(std::string_view wanted) const;
  void count(std::size_t& counter, std::size_t limit, std::string_view what) const;

  // ---- module level (parser_module.cpp) ----
  void header();
  void top_level();
  void file_directive();
  void skip_braces();
  void entry(bool is_extern);
  void entry_directives(Function& function);
  int launch_bound(std::string_view directive);

  // ---- device functions (parser_function.cpp) ----
  // One that the text declares. Its body is read when a call needs it: what nobody calls may hold what
  // the emulator does not know.
  struct Declared {
    DeviceFunction function;
    Lexer lexer;    // at its signature
    Token current;  // the token there
    int line = 0;   // from here on it may be called
    bool defined = false;
    bool read = false;
  };
  void device_function();
  void signature(DeviceFunction& out);
  void formals(DeviceFunction& out, std::vector<Formal>& list, Variable::Role role);
  void skip_to_body();
  void call(Instruction& out);
  Operand arguments();
  const DeviceFunction& read_function(const std::string& name, int call_line);
  void expand_all_calls();

  // ---- declarations (parser_module.cpp) ----
  struct TypedDeclaration {
    std::uint64_t element_bytes = 0;  // of one .v2/.v4 vector or scalar
    std::uint64_t scalar_bytes = 0;
    int align = 1;
    std::string_view type;  // ".b32"
  };
  TypedDeclaration declaration_type();
  // Of a .param: has no vectors.
  TypedDeclaration parameter_type();
  void pointer_decoration();
  Variable variable(const TypedDeclaration& type, bool is_extern);
  void initializer(const TypedDeclaration& type, Variable& out);
  void initial_values(const TypedDeclaration& type, Variable& out, std::size_t depth);
  void append_initial_value(const TypedDeclaration& type, Variable& out);
  bool append_initial_address(const TypedDeclaration& type, Variable& out);
  void variables(std::vector<Variable>& out, bool is_extern, std::string_view space);
  void register_declaration(Function& function);
  NameKind vector_kind();

  // ---- function bodies (parser.cpp) ----
  void body(Function& function);
  void statement(Function& function);
  void directive(Function& function);
  void location();
  void label(Function& function, const Token& name);
  void instruction(Function& function);
  Operand operand(std::size_t instruction, std::size_t position);
  Operand simple_operand();
  Operand address();
  Operand vector();
  void displacement(Operand& out);
  void name_operand(Operand& out, const Token& name);
  void vector_operand(Operand& out, const ResolvedName& known);

  Lexer lexer_;
  Token current_;
  Module module_;
  ScopeStack scopes_;
  std::size_t text_bytes_;
  std::size_t instructions_ = 0;
  std::size_t operands_ = 0;
  std::size_t names_ = 0;
  std::uint64_t registers_ = 0;
  std::uint64_t filled_bytes_ = 0;
  std::vector<std::uint64_t> item_bytes_;  // of the last variable, by depth of braces in its values
  std::map<std::string, int, std::less<>> entries_;  // name -> line
  std::set<std::string, std::less<>> addressable_;   // .global and .const variables so far
  int source_file_ = 0;
  int source_line_ = 0;
  std::map<std::string, Declared> declared_;
};

}  // namespace sagegen::emulator::ptx
