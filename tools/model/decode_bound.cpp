#include "tools/model/decode_bound.h"

#include <algorithm>
#include <array>
#include <utility>

namespace sagegen::model {

DecodeBound decode_bound(const Code& code, const DecodeLoop& loop, const Gpu& gpu) {
  const HotPath path = modelled_path(code, gpu);
  DecodeBound bound;
  bound.instructions = static_cast<double>(path.steps.size()) / loop.tile;
  bound.blocks = blocks_that_fit(code, loop.launch, gpu);
  const int warps = std::max(1, bound.blocks * loop.launch.threads / (kThreads * kSubcores));
  const Bounds all = bounds_of(path, gpu, warps);
  const std::array<std::pair<double, std::string_view>, 7> resources{{{all.tensor, "tensor"},
                                                                      {all.issue, "issue"},
                                                                      {all.mufu, "mufu"},
                                                                      {all.fma, "fma"},
                                                                      {all.alu, "alu"},
                                                                      {all.shared, "shared"},
                                                                      {all.stalls, "stalls"}}};
  const auto longest =
      std::max_element(resources.begin(), resources.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
  // Each sub-core has a tile of its own in that time.
  bound.busy = longest->first / (kSubcores * loop.tile);
  bound.busiest = longest->second;
  const double sm_ghz = gpu.sms * gpu.clock_ghz;  // cycles of all SMs in a nanosecond
  const auto cycles_at = [&](double tb) { return loop.token_bytes * sm_ghz / (1e3 * tb); };
  bound.memory = cycles_at(gpu.memory_tb);
  const double moved = gpu.copy_tb > 0 ? gpu.copy_tb : gpu.memory_tb;
  bound.raw_tb = loop.token_bytes * sm_ghz / (1e3 * std::max(cycles_at(moved), bound.busy));
  return bound;
}

}  // namespace sagegen::model
