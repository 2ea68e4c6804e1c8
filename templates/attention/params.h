// Launch parameters of attention. grid (LqP / cta_q, Hq, B); with pack_gqa (shared/params.h, whose block follows)
// (LqP / cta_q, Hkv, B), and what is by query here is by row: LqP is Lq * Hq / Hkv padded, and what lies in the
// workspace for [Hq, LqP] does so for [Hkv, LqP].
#pragma once

#include "sagegen/params.h"
#include "templates/shared/params.h"

namespace sagegen::attention {

struct Params {
  Address q_codes;  // s8 or s4 [B, Hq, LqP, Dc]
  Address q_scale;  // f32 [B, Hq, LqP / q_group, 8 or 1]
  Address k_codes;  // s8 or s4 [B, Hkv, LkP, Dc]
  Address k_scale;  // f32 [B, Hkv, LkP / k_group, 4 or 1]
  TensorParam v;    // codes of quantize_values, contiguous (strides unused), or the caller's V
  Address v_scale;  // f32 [B, Hkv, value_dim]; unused with the caller's V
  TensorParam o;    // out: io dtype or codes of a byte, caller's strides
  Address lse;      // out f32 [B, Hq, Lq], natural logarithm; 0 for none
  std::int32_t q_len;
  std::int32_t q_len_padded;
  std::int32_t kv_len;
  std::int32_t kv_len_padded;
  std::int32_t heads_per_kv_head;

  static constexpr std::string_view kName = "attention";
  static std::vector<ParamField> fields() {
    using P = Params;
    return {param_field("q_codes", &P::q_codes),
            param_field("q_scale", &P::q_scale),
            param_field("k_codes", &P::k_codes),
            param_field("k_scale", &P::k_scale),
            param_field("v", &P::v),
            param_field("v_scale", &P::v_scale),
            param_field("o", &P::o),
            param_field("lse", &P::lse),
            param_field("q_len", &P::q_len),
            param_field("q_len_padded", &P::q_len_padded),
            param_field("kv_len", &P::kv_len),
            param_field("kv_len_padded", &P::kv_len_padded),
            param_field("heads_per_kv_head", &P::heads_per_kv_head)};
  }
};

// With Q and K of the io dtype. The addresses and lengths of their codes above are unused then.
struct UnquantizedParams {
  TensorParam q, k;  // the caller's
  float unit;        // softmax_scale * log2(e)

  static constexpr std::string_view kName = "unquantized";
  static std::vector<ParamField> fields() {
    using P = UnquantizedParams;
    return {param_field("q", &P::q), param_field("k", &P::k), param_field("unit", &P::unit)};
  }
};

// With K smoothing.
struct SmoothingParams {
  // f32 [B, Hq, LqP], natural logarithms: what smoothing took from the scores of a row. 0 if nothing needs it.
  Address lse_correction;

  static constexpr std::string_view kName = "smoothing";
  static std::vector<ParamField> fields() {
    return {param_field("lse_correction", &SmoothingParams::lse_correction)};
  }
};

// With ValueSmoothing::mean.
struct ValueMeanParams {
  Address v_mean;  // f32 [B, Hkv, value_dim]

  static constexpr std::string_view kName = "v_mean";
  static std::vector<ParamField> fields() {
    return {param_field("v_mean", &ValueMeanParams::v_mean)};
  }
};

// With an OutputFormat of codes.
struct OutputCodeParams {
  Address scale;  // e4m3: in f32, what O is multiplied by; s8: out f32 of each row, as the LSE

  static constexpr std::string_view kName = "output_codes";
  static std::vector<ParamField> fields() {
    return {param_field("scale", &OutputCodeParams::scale)};
  }
};

// With Smoothing::qk. The launch is a part of the problem (mean_scores/params.h): batches and heads from the first
// ones on, and blocks of kMeanRows queries from the first one on, for which the scores of mean queries exist.
struct MeanScoreParams {
  Address mean_scores;  // f32 [batches, heads, blocks of the part, LkP]
  std::int32_t heads;   // Hq, with pack_gqa Hkv: the grid has those of the part
  std::int32_t first_batch, first_head, first_block;

  static constexpr std::string_view kName = "mean_scores";
  static std::vector<ParamField> fields() {
    using P = MeanScoreParams;
    return {param_field("mean_scores", &P::mean_scores), param_field("heads", &P::heads),
            param_field("first_batch", &P::first_batch), param_field("first_head", &P::first_head),
            param_field("first_block", &P::first_block)};
  }
};

// With InputSource::given and codes of Q and K. Addresses of codes above are unused then, and the strides of v count.
struct GivenParams {
  TensorParam q, k;                 // s8 or s4, packed; strides in bytes, as those of v are
  std::int32_t q_scales, k_scales;  // from one head to the next, over all batches
  float unit;                       // what the scales of Q lack: softmax_scale * log2(e), or 1

  static constexpr std::string_view kName = "given";
  static std::vector<ParamField> fields() {
    using P = GivenParams;
    return {param_field("q", &P::q), param_field("k", &P::k), param_field("q_scales", &P::q_scales),
            param_field("k_scales", &P::k_scales), param_field("unit", &P::unit)};
  }
};

// With varlen, beside QuerySequences and KeySequences (shared/params.h). Codes, scales of groups and corrections
// of the LSE lie in rows of the workspace as said there; lse is f32 [Hq, total], or [B, Hq, Lq] if nothing is packed.
struct VarlenParams {
  std::int32_t
      bottom_right;  // all bits: queries stand kv_len - q_len further among the keys; 0: no query does

  static constexpr std::string_view kName = "varlen";
  static std::vector<ParamField> fields() {
    return {param_field("bottom_right", &VarlenParams::bottom_right)};
  }
};

}  // namespace sagegen::attention
