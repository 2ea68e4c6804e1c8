// Kernels for tests of where PTX is kept and of which target's is taken.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/artifacts/store.h"
#include "sagegen/runtime/artifacts.h"

namespace sagegen::test {

inline KernelSpec attention_spec(Target target) {
  // FP16 PV is a valid kernel on every target.
  const QuantSpec quant = default_quant(Target{.sm = 80});
  const AttentionProblem problem;
  return canonical({.kind = KernelKind::attention,
                    .problem = problem,
                    .quant = quant,
                    .schedule = default_schedule(problem, quant, Target{.sm = 80}),
                    .target = target});
}

// A store with this attention kernel for the given targets; the text is the target's name.
class Set {
 public:
  explicit Set(const std::vector<Target>& targets) {
    std::map<std::string, std::string> texts;
    for (const Target target : targets) texts[key(attention_spec(target))] = to_string(target);
    source_ =
        runtime::source_of({.where = "is in the set",
                            .advice = "ask for another",
                            .find = [texts](const std::string& name) -> std::optional<std::string> {
                              const auto found = texts.find(name);
                              if (found == texts.end()) return std::nullopt;
                              return found->second;
                            },
                            .keys =
                                [texts] {
                                  std::vector<std::string> keys;
                                  for (const auto& [name, text] : texts) keys.push_back(name);
                                  return keys;
                                }});
  }
  std::string find(Target target) const { return source_(attention_spec(target)); }
  std::string find(const KernelSpec& spec) const { return source_(spec); }
  const runtime::PtxSource& source() const { return source_; }

 private:
  runtime::PtxSource source_;
};

}  // namespace sagegen::test
