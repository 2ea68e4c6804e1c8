// PTX by key, wherever it is kept, and the source that finds kernels in it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/bundle.h"

namespace sagegen::runtime {

struct PtxStore {
  std::string where;   // after "no PTX of KEY": "is embedded", "in DIRECTORY"
  std::string advice;  // how to get more, as the end of a sentence
  std::function<std::optional<std::string>(const std::string& key)> find;
  std::function<std::vector<std::string>()> keys;  // for messages
  // Machine code of the PTX of a key; may be absent.
  std::function<std::optional<MachineCode>(const std::string& key, Target target)> assembled = {};
};

PtxStore store_of(const Bundle& bundle, std::string where, std::string advice);

// See sagegen/runtime/artifacts.h for the rule.
ArtifactSource source_of(PtxStore store);

}  // namespace sagegen::runtime
