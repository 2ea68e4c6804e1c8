// `sagegen kv predict`: what bounds decode attention on caches of few bits, on each GPU that the model knows.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/sagegen/kv_kernels.h"

namespace sagegen::cli {

struct KvPredictCommand {
  std::vector<std::string> gpus;  // empty: kUsualGpus
};

// No map: all pairs that a cache has. Where ptxas is missing it says so, and that nothing is predicted.
Exit kv_predict(const std::optional<kv::Map>& map, const KvModel& model,
                const KvPredictCommand& command, Output& output);

}  // namespace sagegen::cli
