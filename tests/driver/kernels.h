// Kernels for tests of where PTX is kept and of which target's is taken.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/artifacts/store.h"
#include "sagegen/runtime/artifacts.h"
#include "templates/attention/spec.h"

namespace sagegen::test {

// FP16 PV is a valid kernel on every target.
inline sagegen::Kernel attention_for(Target target) {
  return sagegen::Kernel(attention::family(), attention::usual_spec(Target{.sm = 80}),
                         Target{.sm = 80})
      .on(target);
}

// A store with this attention kernel for the given targets; the text is the target's name.
class Set {
 public:
  explicit Set(const std::vector<Target>& targets) {
    std::map<std::string, std::string> texts;
    for (const Target target : targets) texts[attention_for(target).key()] = to_string(target);
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
  std::string find(Target target) const { return source_(attention_for(target))->code; }
  std::string find(const sagegen::Kernel& kernel) const { return source_(kernel)->code; }
  const runtime::ArtifactSource& source() const { return source_; }

 private:
  runtime::ArtifactSource source_;
};

}  // namespace sagegen::test
