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
  const std::int64_t o_tile = schedule.cta_q * channels * bits(problem.io) / 8;
  return std::max(q_tile + schedule.stages * (k_tile + v_tile), o_tile);
}

namespace {

constexpr std::int64_t kF32 = 4;    // bytes
constexpr int kRowsPerPass = 8;     // rows that the threads of a quantization kernel hold at a time
constexpr int kKeysPerVBlock = 64;  // keys of a block of quantize_v

// One f32 per channel.
std::int64_t per_channel(const KernelSpec& spec) { return kF32 * spec.problem.head_dim; }

std::int64_t quantization_smem(const KernelSpec& spec) {
  const std::int64_t channels = spec.problem.head_dim;
  const bool smooth = spec.quant.smoothing == Smoothing::k;
  const bool v_quantized = v_is_quantized(spec.problem, spec.quant);
  const bool per_block = spec.quant.granularity == Granularity::per_block;
  const std::int64_t warp_maxima = per_block ? kF32 * channels / 32 : 0;
  switch (spec.kind) {
    case KernelKind::kv_statistics:
      return kRowsPerPass * per_channel(spec) * (int{smooth} + int{v_quantized});
    case KernelKind::quantize_q:
      return warp_maxima;
    case KernelKind::quantize_k:
      return (smooth ? per_channel(spec) : 0) + warp_maxima;
    case KernelKind::quantize_v: {
      // The tile as it comes and as it leaves; codes of f16 keep their place.
      const std::int64_t tiles =
          kKeysPerVBlock * channels * (bits(spec.problem.io) + bits(spec.quant.pv)) / 8;
      return per_channel(spec) + (spec.quant.pv == DType::e4m3 ? tiles : 0);
    }
    case KernelKind::attention:
      break;
  }
  return 0;
}

}  // namespace

KernelResources resources(const KernelSpec& spec) {
  if (spec.kind == KernelKind::attention) {
    return {.threads = static_cast<int>(std::int64_t{spec.schedule.warps} * 32),
            .dynamic_smem =
                static_cast<int>(detail::attention_smem(spec.problem, spec.quant, spec.schedule))};
  }
  return {.threads = spec.problem.head_dim,
          .dynamic_smem = static_cast<int>(quantization_smem(spec))};
}

}  // namespace sagegen
