// `sagegen kv check`: appends to a cache of few bits and decodes from it, with the kernels that a map needs, each judged.
#pragma once

#include <cstdint>
#include <string>

#include "tools/sagegen/kv_kernels.h"

namespace sagegen::cli {

struct KvCheckCommand {
  std::string device = "emulator", ptx;
  std::string distribution = "normal";
  std::int64_t tokens = 200;
  std::uint64_t seed = 1;
};

// Of each distinct pair, three verdicts: what append has stored against K and V as they came, each element by its promise
// (templates/kv_append/spec.h); O and LSE of decode against attention in double precision over what is stored, for its
// rounding of Q (templates/decode/plan.h); and the findings of the emulator. The error of the format itself, of that
// attention against the one over exact K and V, is told and not judged.
Exit kv_check(const kv::Map& map, const KvModel& model, const KvCheckCommand& command,
              Output& output);

}  // namespace sagegen::cli
