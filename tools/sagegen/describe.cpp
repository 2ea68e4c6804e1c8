// Layouts are those of the PTX ISA ("Matrix Fragments for mma.m16n8k32" and its neighbours) and of
// sagegen/abi.h.
#include "tools/sagegen/describe.h"

#include <fmt/format.h>

namespace sagegen::cli {
namespace {

using Lines = std::vector<std::string>;

bool per_thread(const QuantSpec& quant) { return quant.granularity == Granularity::per_thread; }

Section target_section(const KernelSpec& spec) {
  const TargetInfo& info = target_info(spec.target);
  const KernelResources need = resources(spec);
  Lines lines{fmt::format("target {}: {}; PTX {}.{}", info.name, info.devices,
                          info.ptx_version / 10, info.ptx_version % 10),
              fmt::format("{} threads per block ({} warps)", need.threads, need.threads / 32)};
  if (need.dynamic_smem == 0) {
    lines.push_back("no shared memory asked for at launch");
  } else {
    constexpr int kSystemSmemPerBlock = 1024;
    lines.push_back(
        fmt::format("{} bytes of shared memory at launch, of {} that a block may have; {} blocks "
                    "fit an SM by shared memory",
                    need.dynamic_smem, info.smem_per_block,
                    info.smem_per_sm / (need.dynamic_smem + kSystemSmemPerBlock)));
  }
  return {"resources", lines};
}

std::string q_scales(const QuantSpec& quant) {
  if (per_thread(quant)) {
    return fmt::format(
        "Q: groups of {} rows with 8 scales each; row r of a group uses scale r mod 8. "
        "f32 [batch, q_heads, rows / {}, 8]",
        quant.q_group, quant.q_group);
  }
  return fmt::format("Q: one scale per {} rows. f32 [batch, q_heads, rows / {}, 1]", quant.q_group,
                     quant.q_group);
}

std::string k_scales(const QuantSpec& quant) {
  if (per_thread(quant)) {
    return fmt::format(
        "K: groups of {} rows with 4 scales each; row r of a group uses scale (r mod 8) / 2. "
        "f32 [batch, kv_heads, rows / {}, 4]",
        quant.k_group, quant.k_group);
  }
  return fmt::format("K: one scale per {} rows. f32 [batch, kv_heads, rows / {}, 1]", quant.k_group,
                     quant.k_group);
}

std::string v_codes(const AttentionProblem& problem, const QuantSpec& quant) {
  if (!v_is_quantized(problem, quant)) return "V: read as the caller gives it (f16), no scale";
  if (quant.pv == DType::e4m3) {
    return "V: e4m3 codes, one f32 scale per channel = amax / 448; stored channel-major [batch, "
           "kv_heads, "
           "channels, keys], every 16 keys in the order 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15";
  }
  return "V: f16 codes, one f32 scale per channel = amax / 1024; keys in order";
}

std::vector<Section> attention_sections(const KernelSpec& spec) {
  const AttentionProblem& p = spec.problem;
  const QuantSpec& q = spec.quant;
  const TileSchedule& s = spec.schedule;
  const int rows = s.cta_q / s.warps;
  const bool fp8 = q.pv == DType::e4m3;
  const int pv_depth = fp8 ? 32 : 16;
  const int qk_mma = rows / 16 * (s.cta_k / 8) * (p.head_dim / 32);
  const int pv_mma = rows / 16 * (p.head_dim / 8) * (s.cta_k / pv_depth);

  const Section what{
      "what it computes",
      {fmt::format("O = softmax(Q K^T * scale{}) V; head_dim {}, Q, V and O in {}",
                   p.mask == Mask::causal ? " + causal mask" : "", p.head_dim, to_string(p.io)),
       p.mask == Mask::causal
           ? "key j is visible to query i if j <= i + offset; the offset is a launch argument"
           : "every query sees every key",
       "lengths, strides, the GQA ratio and the LSE output are launch arguments"}};
  const Section quantization{
      "quantization",
      {fmt::format("Q and K: {} codes, scales {}", to_string(q.qk), to_string(q.granularity)),
       q_scales(q), k_scales(q), v_codes(p, q),
       fp8 ? "P: e4m3 with the static scale 448, against the running maximum"
           : "P: f16, between 0 and 1, against the running maximum",
       q.accumulation == Accumulation::two_level_f32
           ? fmt::format("P V: each tile of {} keys is summed from zero in the tensor core, then "
                         "added to O in "
                         "f32 registers",
                         s.cta_k)
           : "P V: the tensor core sums into O over all keys",
       "the row sum is that of the rounded P: one more channel of P V, whose V is constant"}};
  const Section tiling{
      "tiling",
      {fmt::format("a block owns {} queries of one head; each of {} warps owns {} of them", s.cta_q,
                   s.warps, rows),
       fmt::format("keys come in tiles of {}, {} tiles of K and V in flight or in use", s.cta_k,
                   s.stages),
       fmt::format("grid (padded q_len / {}, q_heads, batch)", s.cta_q),
       fmt::format("per warp and key tile: {} mma of Q K^T (m16n8k32 s8), {} mma of P V and {} of "
                   "the row sum ({})",
                   qk_mma, pv_mma, pv_mma / (p.head_dim / 8),
                   fp8 ? "m16n8k32 e4m3" : "m16n8k16 f16")}};
  const Section fragments{
      "fragments",
      {"lane l of a warp: g = l / 4, t = l mod 4",
       "Q (A of m16n8k32): registers hold rows g, g + 8, g, g + 8 at channels 4t..4t+3 (first two) "
       "and 16 + "
       "4t..16 + 4t+3 (last two)",
       "K (B of m16n8k32): registers hold key g at channels 4t..4t+3 and 16 + 4t..16 + 4t+3",
       fmt::format("scores (C): keys 2t, 2t + 1 of every 8, of queries g and g + 8{}{}",
                   rows == 32 ? ", g + 16 and g + 24" : "",
                   per_thread(q)
                       ? ": one Q scale (row mod 8 = g) and one K scale ((key mod 8) / 2 = t)"
                       : ""),
       fp8 ? "P (A of m16n8k32): the lane's own scores of 32 keys; the stored order of V's keys "
             "makes them fit"
           : "P (A of m16n8k16): the lane's own scores of 16 keys, packed in pairs",
       fmt::format("O (C): channels 2t, 2t + 1 of every 8: {} f32 registers",
                   rows / 16 * (p.head_dim / 8) * 4)}};
  return {what, quantization, tiling, fragments};
}

Section preparation_section(const KernelSpec& spec) {
  const AttentionProblem& p = spec.problem;
  const QuantSpec& q = spec.quant;
  const bool smooth = q.smoothing == Smoothing::k;
  Lines lines{fmt::format("head_dim {}, input {}", p.head_dim, to_string(p.io))};
  switch (spec.kind) {
    case KernelKind::kv_statistics:
      if (smooth)
        lines.push_back(
            "sums K over chunks of keys, per channel: the mean that smoothing subtracts");
      if (v_is_quantized(p, q))
        lines.push_back("finds the largest |V| over chunks of keys, per channel");
      lines.push_back("grid (chunks, kv_heads, batch)");
      break;
    case KernelKind::quantize_k:
      if (smooth) lines.push_back("subtracts the mean of K over all keys, per channel");
      lines.push_back(k_scales(q));
      lines.push_back(
          "scale = amax / 127 over the rows that share it; codes are rounded to nearest even");
      lines.push_back(fmt::format("grid (padded kv_len / {}, kv_heads, batch)", q.k_group));
      break;
    case KernelKind::quantize_q:
      lines.push_back(q_scales(q));
      lines.push_back(
          "the softmax scale and log2(e) are folded into the scale, so scores come out in base 2");
      lines.push_back(
          "on request computes q . mean(K), which corrects the LSE for the smoothing of K");
      lines.push_back(fmt::format("grid (padded q_len / {}, q_heads, batch)", q.q_group));
      break;
    case KernelKind::quantize_v:
      lines.push_back(v_codes(p, q));
      lines.push_back("grid (padded kv_len / 64, kv_heads, batch)");
      break;
    case KernelKind::attention:
      break;
  }
  return {"what it computes", lines};
}

}  // namespace

std::vector<Section> describe(const KernelSpec& spec) {
  std::vector<Section> sections;
  if (spec.kind == KernelKind::attention) {
    sections = attention_sections(spec);
  } else {
    sections = {preparation_section(spec)};
  }
  sections.push_back(target_section(spec));
  return sections;
}

}  // namespace sagegen::cli
