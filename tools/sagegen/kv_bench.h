// `sagegen kv bench`: how long decode attention takes on caches of few bits, beside one of 16 bits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sagegen/runtime/stopwatch.h"
#include "tools/sagegen/kv_kernels.h"

namespace sagegen::cli {

struct KvBenchCommand {
  std::string device = "auto", ptx;
  int batch = 8;
  std::int64_t tokens = 0;                        // of each sequence; 0: some, from 2048 on
  std::optional<runtime::Deployment> deployment;  // none: graph on a GPU, eager in the emulator
};

// Calls of one query for each sequence, whole as an engine makes them: the kernel, its splits, their merge. On a GPU times, and
// bytes of the cache for each; in the emulator counts of instructions, which are no times. All pairs of a context take turns, on
// one pool, whose pages a sequence has in no order. No map: all pairs that a cache has. What kernels compute is not looked at.
Exit kv_bench(const std::optional<kv::Map>& map, const KvModel& model,
              const KvBenchCommand& command, Output& output);

}  // namespace sagegen::cli
