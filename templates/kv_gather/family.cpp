#include <fmt/format.h>

#include "templates/kv_gather/params.h"
#include "templates/kv_gather/spec.h"
#include "templates/shared/quantization.h"

namespace sagegen::kv_gather {
namespace {

constexpr int kMostChannels = 256;

std::string head_dim_advice(int) {
  return fmt::format("a head has 8 to {} channels, a multiple of 8: rows are written in 16 bytes",
                     kMostChannels);
}

std::string stored(const char* tensor, int bits, KvCoding codes, DType io) {
  if (!kv_quantized(bits)) return fmt::format("{} is stored in {}", tensor, to_string(io));
  if (codes == KvCoding::channel) {
    return fmt::format(
        "{} is stored in {} bits with a scale and a zero point per channel and {} tokens", tensor,
        bits, kKvGroupTokens);
  }
  if (kv_has_zero_point(codes)) {
    return fmt::format("{} is stored in {} bits with a scale and a zero point per token and head",
                       tensor, bits);
  }
  return fmt::format("{} is stored in {} bits, {}, with a scale per token and head", tensor, bits,
                     to_string(codes));
}

std::vector<Section> describe(const View& v) {
  const Spec& s = v.spec;
  Sentences lines{fmt::format("K and V of a paged KV cache as rows of {} channels in {}",
                              s.head_dim, to_string(s.io)),
                  stored("K", s.k_bits, s.k_codes, s.io), stored("V", s.v_bits, s.v_codes, s.io)};
  if (s.rotation == Rotation::hadamard) {
    lines.push_back(
        fmt::format("K comes back from an orthonormal Hadamard matrix of each {} channels",
                    rotation_block(s.head_dim)));
  }
  if (s.smooth_k) lines.push_back("adds a frozen mean to K, f32 [kv_heads, head_dim]");
  lines.push_back(fmt::format("{} bytes of cache for a token and KV head, and {} of rows",
                              block_of(s).bytes() / kKvBlockTokens, 4 * s.head_dim));
  lines.push_back(
      fmt::format("grid (blocks of {} tokens of the longest sequence / {}, KV heads, batch)",
                  kKvBlockTokens, kWarps));
  return {{"what it computes", lines}};
}

}  // namespace

const FamilyOf<Spec>& family() {
  static const FamilyOf<Spec> family(FamilyDef<Spec>{
      .word = "kvgather",
      .title = "kv_gather",
      .room = "templates/kv_gather",
      .what = {field<&Spec::head_dim>("head_dim", "d", range(1, kMostChannels), head_dim_advice),
               field<&Spec::io>("io", "", io_types(), io_advice),
               field<&Spec::k_bits>("k_bits", "k", kv_bits()),
               joined(field<&Spec::v_bits>("v_bits", "v", kv_bits())),
               flag<&Spec::smooth_k>("smooth_k", "smk"),
               later(field<&Spec::rotation>("rotation", "",
                                            words<Rotation>({{Rotation::none, "none", "rot0"},
                                                             {Rotation::hadamard, "hadamard"}}))),
               later(field<&Spec::k_codes>("k_codes", "", kv_codes_with_channel('k'))),
               later(field<&Spec::v_codes>("v_codes", "", kv_codes('v')))},
      .rules =
          {{{[](const View& v) { return v.spec.head_dim % 8 != 0; },
             [](const View& v) {
               return fmt::format("head_dim {} is refused: {}; use {}", v.spec.head_dim,
                                  head_dim_advice(v.spec.head_dim), rounded_up(v.spec.head_dim, 8));
             }},
            {[](const View& v) {
               return !kv_codes_refusal('k', v.spec.k_bits, v.spec.k_codes).empty();
             },
             [](const View& v) { return kv_codes_refusal('k', v.spec.k_bits, v.spec.k_codes); }},
            {[](const View& v) {
               return !kv_codes_refusal('v', v.spec.v_bits, v.spec.v_codes).empty();
             },
             [](const View& v) { return kv_codes_refusal('v', v.spec.v_bits, v.spec.v_codes); }}}},
      .resources = [](const View&) { return Resources{.threads = 32 * kWarps}; },
      .params =
          [](const View& v) {
            ParamLayout layout;
            layout.add<Params>();
            if (v.spec.smooth_k) layout.add<MeanParams>();
            return layout;
          },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::kv_gather
