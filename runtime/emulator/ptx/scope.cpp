#include "runtime/emulator/ptx/scope.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace sagegen::emulator::ptx {

void ScopeStack::open() {
  Scope scope;
  // Names of the module and of a function's own scope stay as they are written.
  if (scopes_.size() >= 2) scope.suffix = fmt::format("@{}", ++opened_);
  scopes_.push_back(std::move(scope));
}

void ScopeStack::close(std::vector<Instruction>& body) {
  Scope scope = std::move(scopes_.back());
  scopes_.pop_back();
  for (LabelReference& reference : scope.references) {
    if (scope.labels.contains(reference.name)) {
      body[reference.instruction].operands[reference.operand].text = reference.name + scope.suffix;
    } else {
      scopes_.back().references.push_back(std::move(reference));
    }
  }
}

std::optional<NameKind> ScopeStack::find_in(const Scope& scope, std::string_view name) {
  if (const auto found = scope.names.find(name); found != scope.names.end()) return found->second;
  if (scope.ranges.empty()) return std::nullopt;
  // "%r12" may come from %r<n> or from %r1<n>: try every split of the digits at the end.
  std::uint64_t index = 0;
  std::uint64_t place = 1;
  constexpr std::size_t kMaxDigits = 9;
  const std::size_t shortest = name.size() > kMaxDigits ? name.size() - kMaxDigits : 1;
  for (std::size_t split = name.size(); split-- > shortest;) {
    const char c = name[split];
    if (c < '0' || c > '9') break;
    index += place * static_cast<std::uint64_t>(c - '0');
    place *= 10;
    if (c == '0' && split + 1 != name.size()) continue;  // %r01 is not %r1
    const auto found = scope.ranges.find(name.substr(0, split));
    if (found != scope.ranges.end() && index < found->second) return NameKind::reg;
  }
  return std::nullopt;
}

std::optional<ResolvedName> ScopeStack::find(std::string_view name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto kind = find_in(*scope, name)) {
      std::string unique(name);
      unique += scope->suffix;
      return ResolvedName{.kind = *kind, .unique = std::move(unique)};
    }
  }
  return std::nullopt;
}

std::string ScopeStack::declare(const Token& name, NameKind kind) {
  Scope& scope = scopes_.back();
  if (find_in(scope, name.text)) {
    throw ParseError(name.line, quote(name) + " is declared twice in this scope");
  }
  scope.names.emplace(name.text, kind);
  return std::string(name.text) + scope.suffix;
}

std::string element_name(std::string_view unique, std::size_t element) {
  const std::size_t suffix = std::min(unique.find('@'), unique.size());
  return fmt::format("{}.{}{}", unique.substr(0, suffix), "xyzw"[element], unique.substr(suffix));
}

void ScopeStack::declare_vector(const Token& name, NameKind kind, Register::Type type,
                                std::vector<Register>& out) {
  const std::string unique = declare(name, kind);
  for (std::size_t i = 0; i < elements_of(kind); ++i) {
    out.push_back({.name = element_name(unique, i), .type = type});
  }
}

std::string ScopeStack::declare_label(const Token& name) {
  Scope& scope = scopes_.back();
  if (!scope.labels.emplace(name.text, true).second) {
    throw ParseError(name.line, "label " + quote(name) + " is declared twice in this scope");
  }
  return std::string(name.text) + scope.suffix;
}

void ScopeStack::declare_range(const Token& name, std::uint64_t count, Register::Type type,
                               std::vector<Register>& out) {
  Scope& scope = scopes_.back();
  const bool first_names = scope.names.empty() && scope.ranges.empty();
  for (std::uint64_t i = 0; i < count; ++i) {
    std::string text(name.text);
    text += std::to_string(i);
    if (!first_names && find_in(scope, text)) {
      throw ParseError(name.line,
                       fmt::format("{} of the range {}<{}> is declared twice in this scope",
                                   quote(text), name.text, count));
    }
    text += scope.suffix;
    out.push_back({.name = std::move(text), .type = type});
  }
  scope.ranges.emplace(name.text, count);
}

void ScopeStack::refer_to_label(LabelReference reference) {
  scopes_.back().references.push_back(std::move(reference));
}

}  // namespace sagegen::emulator::ptx
