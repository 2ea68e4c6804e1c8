// What a launch needs, as arithmetic on the spec. Templates take their sizes from the same fields,
// and the builder refuses to emit a kernel whose shared memory differs from this.
#include "generator/spec/detail.h"

namespace sagegen {

std::int64_t detail::attention_smem(const AttentionProblem& problem, const QuantSpec& quant,
                                    const TileSchedule& schedule) {
  const std::int64_t channels = problem.head_dim;
  const std::int64_t q_tile = schedule.cta_q * channels;
  const std::int64_t k_tile = schedule.cta_k * channels;
  const std::int64_t v_tile = schedule.cta_k * channels * bits(quant.pv) / 8;
  return q_tile + schedule.stages * (k_tile + v_tile);
}

KernelResources resources(const KernelSpec& spec) {
  const int channels = spec.problem.head_dim;
  switch (spec.kind) {
    case KernelKind::attention:
      return {.threads = spec.schedule.warps * 32,
              .dynamic_smem = static_cast<int>(
                  detail::attention_smem(spec.problem, spec.quant, spec.schedule))};
    case KernelKind::kv_statistics:
      return {.threads = 256, .dynamic_smem = 0};
    case KernelKind::quantize_q:
    case KernelKind::quantize_k:
      return {.threads = channels, .dynamic_smem = 0};
    case KernelKind::quantize_v:
      return {.threads = 128, .dynamic_smem = 0};
  }
  return {};
}

}  // namespace sagegen
