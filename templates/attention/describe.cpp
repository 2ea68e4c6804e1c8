#include "templates/attention/describe.h"

#include <fmt/format.h>

#include <cmath>

#include "templates/attention/mods/all.h"
#include "templates/shared/params.h"

namespace sagegen::attention {
namespace {

bool per_thread(const Spec& spec) { return spec.granularity == Granularity::per_thread; }

// Empty where groups of rows share scales.
std::string own_scales(const Spec& spec, std::string_view name, std::string_view heads) {
  if (spec.granularity == Granularity::per_token)
    return fmt::format("{}: one scale per row. f32 [batch, {}, rows]", name, heads);
  if (spec.granularity == Granularity::per_tensor)
    return fmt::format("{}: one scale per {}head. f32 [batch, {}]", name,
                       name == "Q" && spec.pack_gqa ? "K and V " : "", heads);
  return "";
}

std::string q_scales(const Spec& spec) {
  const std::string_view heads = spec.pack_gqa ? "kv_heads" : "q_heads";
  if (std::string own = own_scales(spec, "Q", heads); !own.empty()) return own;
  if (per_thread(spec)) {
    return fmt::format(
        "Q: groups of {} rows with 8 scales each; row r of a group uses scale r mod 8. "
        "f32 [batch, {}, rows / {}, 8]",
        spec.q_group, heads, spec.q_group);
  }
  return fmt::format("Q: one scale per {} rows. f32 [batch, {}, rows / {}, 1]", spec.q_group, heads,
                     spec.q_group);
}

std::string q_smoothing(const Spec& spec) {
  if (spec.smoothing != Smoothing::qk) return "Q: nothing is subtracted";
  return fmt::format(
      "Q: the mean of each {} rows is subtracted first, per channel; sums of scores start from the "
      "mean's",
      kMeanRows);
}

std::string k_scales(const Spec& spec) {
  if (std::string own = own_scales(spec, "K", "kv_heads"); !own.empty()) return own;
  if (per_thread(spec)) {
    return fmt::format(
        "K: groups of {} rows with 4 scales each; row r of a group uses scale (r mod 8) / 2. "
        "f32 [batch, kv_heads, rows / {}, 4]",
        spec.k_group, spec.k_group);
  }
  return fmt::format("K: one scale per {} rows. f32 [batch, kv_heads, rows / {}, 1]", spec.k_group,
                     spec.k_group);
}

std::string v_codes(const Spec& spec) {
  if (!v_is_quantized(spec))
    return fmt::format("V: read as the caller gives it ({}), no scale", to_string(spec.io));
  return fmt::format("V{}: {} codes, one f32 scale per channel = amax / {}; {}",
                     spec.v_smoothing == ValueSmoothing::mean
                         ? " less its mean over all keys, which O gets back"
                         : "",
                     to_string(spec.pv), largest_v_code(spec.pv, code_octaves(spec).v),
                     spec.pv == DType::e4m3
                         ? "stored channel-major [batch, kv_heads, channels, keys], every 16 keys "
                           "in the order 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15"
                         : "keys in order");
}

std::string given_codes(const Spec& spec) {
  return fmt::format("codes and scales are the caller's, by strides, rows as long as the problem{}",
                     qk_is_quantized(spec)
                         ? "; the softmax scale is a launch argument unless it is in those of Q"
                         : "");
}

// Empty where nothing is.
std::string padded_channels(const Spec& spec) {
  const int codes = code_channels(spec.qk, spec.head_dim), values = value_channels(value_dim(spec));
  if (codes == spec.head_dim && values == value_dim(spec)) return "";
  return fmt::format("channels are padded with zeros: to {} in Q and K, to {} in V", codes, values);
}

std::string p_v_sums(const Spec& spec, int cta_k) {
  if (spec.accumulation == Accumulation::f32)
    return "P V: the tensor core sums into O over all keys";
  return fmt::format(
      "P V: each tile of {} keys is summed from zero in the tensor core, {}then added to O in f32 "
      "registers",
      cta_k,
      spec.accumulation == Accumulation::f32_f16
          ? fmt::format(
                "in f16, where {} keys of the largest codes come to {:.0f}, ", cta_k,
                cta_k * std::exp2(p_offset(spec)) * largest_v_code(spec.pv, code_octaves(spec).v))
          : "");
}

std::string p_format(const Spec& spec) {
  const std::string against = maximum_step(spec) == 0
                                  ? ""
                                  : ", in octaves rounded up to the next whole number (but where "
                                    "masks change scores)";
  const float slack = maximum_slack(spec);
  const std::string stays =
      slack == 0
          ? ""
          : fmt::format(", which stays while no score is more than {} octaves above it", slack);
  return fmt::format("P: {}, at most {:.0f}, against the running maximum{}{}", to_string(spec.pv),
                     std::exp2(p_offset(spec) + slack), stays, against);
}

// Empty where O is of the io dtype.
std::string output_codes(const Spec& spec) {
  switch (spec.out) {
    case OutputFormat::io:
      return "";
    case OutputFormat::e4m3:
      return "O: e4m3 codes of O times a number of the caller's, saturated at 448";
    case OutputFormat::s8:
      return spec.varlen ? "O: s8 codes, one scale per row = amax / 127. f32 [batch, q_heads, q_len], of "
                           "packed calls [q_heads, total_q]"
                         : "O: s8 codes, one scale per row = amax / 127. f32 [batch, q_heads, q_len]";
  }
  return "";
}

std::vector<std::string> quantization_lines(const Spec& spec, int cta_k) {
  std::vector<std::string> lines;
  if (qk_is_quantized(spec)) {
    lines = {
        fmt::format("Q and K: {} codes, scales {}", to_string(spec.qk),
                    to_string(spec.granularity)),
        smooths_k(spec.smoothing)
            ? "K: its mean over all keys is subtracted first, per channel; the LSE is corrected"
            : "K: nothing is subtracted",
        q_smoothing(spec), q_scales(spec), k_scales(spec)};
    if (spec.rotation == Rotation::hadamard) {
      lines.push_back(
          fmt::format("Q and K: then each {} channels of a row are multiplied by a Hadamard "
                      "matrix, which leaves "
                      "scores as they are",
                      rotation_block(spec.head_dim)));
    }
  } else {
    lines = {
        fmt::format("Q and K: read as the caller gives them ({}), no scales; Q K^T is summed "
                    "in f32, then times softmax_scale * log2(e)",
                    to_string(spec.qk))};
  }
  if (takes_given_codes(spec)) lines.push_back(given_codes(spec));
  for (const std::string& line :
       {v_codes(spec), p_format(spec), p_v_sums(spec, cta_k),
        std::string("the row sum is that of the rounded P: one more channel of P V, whose V is "
                    "constant")})
    lines.push_back(line);
  if (const std::string codes = output_codes(spec); !codes.empty()) lines.push_back(codes);
  return lines;
}

}  // namespace

std::vector<Section> describe(const View& view) {
  const Spec& spec = view.spec;
  const Schedule& s = view.schedule;
  const int rows = s.cta_q / s.warps;
  const bool fp8 = spec.pv == DType::e4m3;
  const int pv_depth = fp8 ? 32 : 16;
  const int qk_depth = product_channels(spec.qk),
            qk_run = qk_depth / 8;  // channels of an mma, of a register
  const int qk_mma = rows / 16 * (s.cta_k / 8) * (code_channels(spec.qk, spec.head_dim) / qk_depth);
  const int pv_mma = rows / 16 * (value_dim(spec) / 8) * (s.cta_k / pv_depth);

  Section what{
      "what it computes",
      {fmt::format("O = softmax(Q K^T * scale) V; head_dim {}{}, {} in {}", spec.head_dim,
                   spec.value_dim == 0 ? "" : fmt::format(", of V and O {}", spec.value_dim),
                   spec.out == OutputFormat::io ? "Q, V and O" : "Q and V", to_string(spec.io))}};
#define SAGEGEN_MOD(mod) \
  if (spec.mod) what.lines.push_back(fmt::format("{}: {}", #mod, mod::kWhat));
#include "templates/attention/mods/mods.def"
  if (what.lines.size() == 1) what.lines.push_back("every query sees every key");
  if (spec.varlen) what.lines.push_back(kPackedSequences);
  what.lines.push_back("lengths, strides, the GQA ratio and the LSE output are launch arguments");
  const Section quantization{"quantization", quantization_lines(spec, s.cta_k)};
  Section tiling{
      "tiling",
      {fmt::format("a block owns {} {}; each of {} warps owns {} of them", s.cta_q,
                   spec.pack_gqa ? "rows of Q of the heads that share one of K and V"
                                 : "queries of one head",
                   s.warps, rows),
       fmt::format("keys come in tiles of {}, {} tiles of K and V in flight or in use", s.cta_k,
                   s.stages),
       fmt::format("grid (padded {} / {}, {}, batch){}", spec.pack_gqa ? "q_len * G" : "q_len",
                   s.cta_q, spec.pack_gqa ? "kv_heads" : "q_heads",
                   spec.smoothing == Smoothing::qk ? ", or that of a part of the problem" : ""),
       fmt::format("per warp and key tile: {} mma of Q K^T (m16n8k{} {}), {} mma of P V and {} of "
                   "the row sum ({})",
                   qk_mma, qk_depth, to_string(spec.qk), pv_mma, pv_mma / (value_dim(spec) / 8),
                   fp8 ? "m16n8k32 e4m3" : fmt::format("m16n8k16 {}", to_string(spec.pv)))}};
  if (spec.pack_gqa) {
    tiling.lines.push_back(
        "row r is query r / G of head r mod G of the G = q_heads / kv_heads heads that share one "
        "of K and V, which a block reads once for all of its rows; keys are not split over blocks");
  }
  if (const std::string padded = padded_channels(spec); !padded.empty())
    tiling.lines.push_back(padded);
  const Section fragments{
      "fragments",
      {"lane l of a warp: g = l / 4, t = l mod 4",
       fmt::format("Q (A of m16n8k{0}): registers hold rows g, g + 8, g, g + 8 at channels "
                   "{1}t..{1}t+{2} (first two) and {3} + {1}t..{3} + {1}t+{2} (last two)",
                   qk_depth, qk_run, qk_run - 1, qk_depth / 2),
       fmt::format("K (B of m16n8k{0}): registers hold key g at channels {1}t..{1}t+{2} and "
                   "{3} + {1}t..{3} + {1}t+{2}",
                   qk_depth, qk_run, qk_run - 1, qk_depth / 2),
       fmt::format("scores (C): keys 2t, 2t + 1 of every 8, of queries g and g + 8{}{}",
                   rows == 32 ? ", g + 16 and g + 24" : "",
                   per_thread(spec) && qk_is_quantized(spec)
                       ? ": one Q scale (row mod 8 = g) and one K scale ((key mod 8) / 2 = t)"
                       : ""),
       fp8 ? "P (A of m16n8k32): the lane's own scores of 32 keys; the stored order of V's keys "
             "makes them fit"
           : "P (A of m16n8k16): the lane's own scores of 16 keys, packed in pairs",
       fmt::format("O (C): channels 2t, 2t + 1 of every 8: {} f32 registers",
                   rows / 16 * (value_dim(spec) / 8) * 4)}};
  return {what, quantization, tiling, fragments};
}

}  // namespace sagegen::attention
