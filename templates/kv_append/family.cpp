#include <fmt/format.h>

#include "templates/kv_append/params.h"
#include "templates/kv_append/spec.h"
#include "templates/shared/quantization.h"

namespace sagegen::kv_append {
namespace {

Values ropes() {
  return words<Rope>(
      {{Rope::none, "none"}, {Rope::neox, "neox"}, {Rope::interleaved, "interleaved"}});
}
Values rotations() {
  return words<Rotation>(
      {{Rotation::none, "none", "rot0"}, {Rotation::hadamard, "hadamard", "hadamard"}});
}
Values addressings() {
  return words<Addressing>({{Addressing::slots, "slots"}, {Addressing::pages, "pages"}});
}

std::string stored(const char* tensor, int bits, KvCoding codes, DType io) {
  if (!kv_quantized(bits)) return fmt::format("{} as {}", tensor, to_string(io));
  if (!kv_has_zero_point(codes))
    return fmt::format("{} as codes of {} bits, {}, with a scale of each token, f16", tensor, bits,
                       to_string(codes));
  return fmt::format("{} as codes of {} bits, with a scale and a zero point of each token, f16",
                     tensor, bits);
}

std::vector<Section> describe(const View& v) {
  const Spec& s = v.spec;
  const KvBlock block = block_of(s);
  Sentences lines{fmt::format("head_dim {}, input {}", s.head_dim, to_string(s.io))};
  if (s.rope != Rope::none)
    lines.push_back(fmt::format("rotary embedding of K, {}: as many channels as a launch says",
                                to_string(s.rope)));
  if (s.smooth_k) lines.push_back("subtracts a frozen mean from K, f32 [kv_heads, head_dim]");
  if (s.rotation == Rotation::hadamard) {
    lines.push_back(fmt::format("rotates each {} channels of K by an orthonormal Hadamard matrix",
                                rotation_block(s.head_dim)));
  }
  lines.push_back(stored("K", s.k_bits, s.k_codes, s.io));
  lines.push_back(stored("V", s.v_bits, s.v_codes, s.io));
  lines.push_back(fmt::format("blocks of {} tokens of a head, {} bytes: {} for each token",
                              kKvBlockTokens, block.bytes(), block.bytes() / kKvBlockTokens));
  lines.push_back(s.addressing == Addressing::slots
                      ? "each token has a slot, i64 [tokens]; a negative one is skipped"
                      : "tokens are the last ones of sequences, whose pages a table lists");
  if (s.exact) {
    lines.push_back(
        "tokens with a place in a second pool go there in 16 bits, too: V as it comes, K before it "
        "is rotated");
  }
  lines.push_back(fmt::format("grid (tokens * kv_heads / {})", rows_of_block(s)));
  return {{"what it computes", lines}};
}

}  // namespace

std::string_view to_string(Rope value) {
  switch (value) {
    case Rope::none:
      return "none";
    case Rope::neox:
      return "neox";
    case Rope::interleaved:
      return "interleaved";
  }
  return "?";
}

std::string_view to_string(Addressing value) {
  return value == Addressing::pages ? "pages" : "slots";
}

const FamilyOf<Spec>& family() {
  static const FamilyOf<Spec> family(FamilyDef<Spec>{
      .word = "kvappend",
      .title = "kv_append",
      .room = "templates/kv_append",
      .what = {field<&Spec::head_dim>("head_dim", "d", range(1, 256)),
               field<&Spec::io>("io", "", io_types(), io_advice),
               field<&Spec::k_bits>("k_bits", "k", kv_bits()),
               joined(field<&Spec::v_bits>("v_bits", "v", kv_bits())),
               later(field<&Spec::rope>("rope", "rope_", ropes())),
               flag<&Spec::smooth_k>("smooth_k", "smk"),
               later(field<&Spec::rotation>("rotation", "", rotations())),
               later(field<&Spec::addressing>("addressing", "", addressings())),
               later(field<&Spec::k_codes>("k_codes", "", kv_codes('k'))),
               later(field<&Spec::v_codes>("v_codes", "", kv_codes('v'))),
               later(flag<&Spec::exact>("exact", "exact"))},
      .rules =
          {{{[](const View& v) {
               return !kv_codes_refusal('k', v.spec.k_bits, v.spec.k_codes).empty();
             },
             [](const View& v) { return kv_codes_refusal('k', v.spec.k_bits, v.spec.k_codes); }},
            {[](const View& v) {
               return !kv_codes_refusal('v', v.spec.v_bits, v.spec.v_codes).empty();
             },
             [](const View& v) { return kv_codes_refusal('v', v.spec.v_bits, v.spec.v_codes); }},
            {[](const View& v) {
               return v.spec.exact && !kv_quantized(v.spec.k_bits) && !kv_quantized(v.spec.v_bits);
             },
             [](const View&) {
               return std::string(
                   "exact with k_bits 16 and v_bits 16 is refused: all tokens are stored in 16 "
                   "bits there; use fewer bits of K or V, or leave exact out");
             }},
            {[](const View& v) {
               return v.spec.rope != Rope::none && v.spec.head_dim < rotary_step(v.spec.head_dim);
             },
             [](const View& v) {
               return fmt::format(
                   "rope {} with head_dim {} is refused: the channels that are rotated are a "
                   "multiple of {}; pad K with zeros, or use rope none",
                   to_string(v.spec.rope), v.spec.head_dim, rotary_step(v.spec.head_dim));
             }},
            {[](const View& v) {
               return v.spec.rotation == Rotation::hadamard && rotation_block(v.spec.head_dim) < 2;
             },
             [](const View& v) {
               return fmt::format(
                   "rotation hadamard with head_dim {} is refused: it is of the largest power "
                   "of two that divides head_dim, which is 1; pad K with a zero, or use "
                   "rotation none",
                   v.spec.head_dim);
             }}}},
      .resources = [](const View&) { return Resources{.threads = kThreads}; },
      .params =
          [](const View& v) {
            ParamLayout layout;
            layout.add<Params>();
            if (v.spec.addressing == Addressing::slots) layout.add<SlotParams>();
            if (v.spec.addressing == Addressing::pages) layout.add<PageParams>();
            if (v.spec.rope != Rope::none) layout.add<RopeParams>();
            if (v.spec.smooth_k) layout.add<MeanParams>();
            if (v.spec.exact) layout.add<ExactParams>();
            return layout;
          },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::kv_append
