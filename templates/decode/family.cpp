#include <fmt/format.h>

#include "templates/attention/mods/all.h"
#include "templates/decode/params.h"
#include "templates/decode/spec.h"
#include "templates/shared/params.h"
#include "templates/shared/quantization.h"

namespace sagegen::decode {
namespace {

constexpr int kMostChannels = 256;
constexpr int kReserved = 1024;  // bytes of shared memory that each block costs beside its own

std::string head_dim_advice(int) {
  return fmt::format(
      "a head has 8 to {} channels, a multiple of 8: rows of Q and O are read and "
      "written in 16 bytes",
      kMostChannels);
}

// Registers hold Q of 16 rows while it is quantized.
bool holds_16_rows(const Spec& spec) {
  return kv_block(spec).channels <= 128 || !kv_quantized(spec.k_bits);
}

const Fields& what() {
  static const Fields fields{
      field<&Spec::head_dim>("head_dim", "d", range(1, kMostChannels), head_dim_advice),
      field<&Spec::io>("io", "", io_types(), io_advice),
      field<&Spec::k_bits>("k_bits", "k", kv_bits()),
      joined(field<&Spec::v_bits>("v_bits", "v", kv_bits())),
      field<&Spec::rows>("rows", "r", numbers({8, 16})),
      later(field<&Spec::rotation>(
          "rotation", "",
          words<Rotation>({{Rotation::none, "none", "rot0"}, {Rotation::hadamard, "hadamard"}}))),
      later(field<&Spec::k_codes>("k_codes", "", kv_codes('k'))),
      later(field<&Spec::v_codes>("v_codes", "", kv_codes('v'))),
      flag<&Spec::causal>("causal", "causal"),
      later(flag<&Spec::tree>("tree", "tree")),
      later(flag<&Spec::exact>("exact", "exact")),
#define SAGEGEN_DECODE_MOD(name) later(flag<&Spec::name>(#name, #name)),
#include "templates/decode/mods/mods.def"
  };
  return fields;
}

RuleLayers<View> rules() {
  return {
      {{[](const View& v) { return v.spec.head_dim % 8 != 0; },
        [](const View& v) {
          return fmt::format("head_dim {} is refused: {}; use {}", v.spec.head_dim,
                             head_dim_advice(v.spec.head_dim), rounded_up(v.spec.head_dim, 8));
        }},
       {[](const View& v) { return v.spec.rows > 8 && !holds_16_rows(v.spec); },
        [](const View& v) {
          return fmt::format(
              "rows {} with head_dim {} and k_bits {} is refused: registers do not hold Q while it "
              "is quantized; use rows 8, more rows take more tiles",
              v.spec.rows, v.spec.head_dim, v.spec.k_bits);
        }},
       {[](const View& v) { return v.spec.tree && (v.spec.causal || needs_positions(v.spec)); },
        [](const View& v) {
          return fmt::format(
              "tree with {} is refused: {}; use {}",
              v.spec.causal   ? "causal"
              : v.spec.window ? "window"
                              : "alibi",
              v.spec.causal
                  ? "the masks of a tree say which tokens a query sees, those of a chain too"
                  : "which position a query of a tree has is not known",
              v.spec.causal ? "one of them" : "causal, for drafts that are a chain");
        }},
       {[](const View& v) {
          return v.spec.exact && !kv_quantized(v.spec.k_bits) && !kv_quantized(v.spec.v_bits);
        },
        [](const View&) {
          return std::string(
              "exact with 16 bits of K and V is refused: all tokens are exact there; leave it out");
        }},
       {[](const View& v) { return !kv_codes_refusal('k', v.spec.k_bits, v.spec.k_codes).empty(); },
        [](const View& v) { return kv_codes_refusal('k', v.spec.k_bits, v.spec.k_codes); }},
       {[](const View& v) { return !kv_codes_refusal('v', v.spec.v_bits, v.spec.v_codes).empty(); },
        [](const View& v) { return kv_codes_refusal('v', v.spec.v_bits, v.spec.v_codes); }},
       {[](const View& v) {
          return v.schedule.normal_codes &&
                 (!kv_quantized(v.spec.v_bits) || v.spec.v_codes == KvCoding::e4m3);
        },
        [](const View&) {
          return std::string(
              "normal_codes is refused: V is no integer codes, which alone are read as subnormal "
              "numbers; leave it out");
        }},
       {[](const View& v) { return v.schedule.lookups > tile_blocks(v.schedule); },
        [](const View& v) {
          return fmt::format(
              "{} look-ups for a tile of {} tokens are refused: it has {} block of {} tokens; use "
              "1",
              v.schedule.lookups, v.schedule.tile, tile_blocks(v.schedule), kKvBlockTokens);
        }},
       {[](const View& v) { return shared_bytes(v.spec, v.schedule) > v.target.smem_per_block; },
        [](const View& v) {
          return fmt::format(
              "tile {}, {} stages and {} warps at head_dim {}, k_bits {} and v_bits {} are "
              "refused: "
              "they need {} bytes of shared memory and a block of {} may have {}; use fewer "
              "stages, "
              "fewer warps or a smaller tile",
              v.schedule.tile, v.schedule.stages, v.schedule.warps, v.spec.head_dim, v.spec.k_bits,
              v.spec.v_bits, shared_bytes(v.spec, v.schedule), v.target.name,
              v.target.smem_per_block);
        }}}};
}

// The largest tile and ring of which an SM holds two.
Schedule usual(const Spec& spec, const TargetInfo& target) {
  if (!refused_values(what(), &spec).empty()) return {};
  for (const int warps : {4, 2}) {
    for (const int tile : {32, 16}) {
      for (const int stages : {3, 2}) {
        const Schedule schedule{.tile = tile, .stages = stages, .warps = warps, .lookups = 1};
        const int bytes = shared_bytes(spec, schedule);
        if (2 * (bytes + kReserved) <= target.smem_per_sm && bytes <= target.smem_per_block)
          return schedule;
      }
    }
  }
  return {.tile = 16, .stages = 2, .warps = 2, .lookups = 1};
}

ParamLayout params_of(const View& v) {
  ParamLayout layout;
  layout.add<Params>().add<PackParams>();
  if (v.spec.tree) layout.add<TreeParams>();
  if (v.spec.exact) layout.add<ExactParams>();
#define SAGEGEN_DECODE_MOD(name) \
  if (v.spec.name) layout.add<attention::name::Params>();
#include "templates/decode/mods/mods.def"
  return layout;
}

std::string bits_text(const char* tensor, int bits, KvCoding codes, DType io) {
  if (!kv_quantized(bits)) return fmt::format("{} in {}", tensor, to_string(io));
  if (codes == KvCoding::asymmetric)
    return fmt::format("{} in {} bits with a scale and a zero point per token and head", tensor,
                       bits);
  return fmt::format("{} in {} bits, {}, with a scale per token and head", tensor, bits,
                     to_string(codes));
}

std::string rotation_text(const Spec& spec) {
  if (spec.rotation == Rotation::none) return "Q is multiplied as it comes";
  return fmt::format("Q is rotated by an orthonormal Hadamard matrix of each {} channels, as K was",
                     rotation_block(spec.head_dim));
}

std::vector<std::string> mask_texts(const Spec& spec) {
  std::vector<std::string> texts{
      spec.causal ? "query i of n sees the tokens up to that of the last one less n - 1 - i"
      : spec.tree ? "of the last tokens of a sequence a query sees those that its mask has, and "
                    "all before them"
                  : "all queries of a sequence see all of its tokens"};
  if (spec.exact)
    texts.push_back(
        "the first and the last tokens are read in 16 bits, by a block of their own, the last of "
        "the grid");
#define SAGEGEN_DECODE_MOD(name) \
  if (spec.name) texts.push_back(fmt::format("{}: {}", #name, attention::name::kWhat));
#include "templates/decode/mods/mods.def"
  return texts;
}

std::vector<Section> describe(const View& v) {
  const Spec& spec = v.spec;
  const KvBlock cache = kv_block(spec);
  std::vector<Section> sections{
      {"what it computes",
       {fmt::format("attention of few queries, in {}, over a paged KV cache of {} channels; a "
                    "block has {} rows of a KV head",
                    to_string(spec.io), spec.head_dim, spec.rows),
        bits_text("K", spec.k_bits, spec.k_codes, spec.io) + ", " +
            bits_text("V", spec.v_bits, spec.v_codes, spec.io),
        rotation_text(spec),
        fmt::format("{} bytes of cache for a token and KV head", cache.bytes() / kKvBlockTokens),
        "grid (splits, KV heads times tiles of rows, batch); lengths and page table are read on "
        "the device"}},
      {"how",
       {fmt::format("each of {} warps takes tiles of {} tokens, {} under way in {} bytes of "
                    "shared memory of the block",
                    v.schedule.warps, v.schedule.tile, v.schedule.stages - 1,
                    ring_bytes(spec, v.schedule)),
        v.schedule.normal_codes ? "codes of V become normal numbers of f16"
                                : "codes of V are multiplied as they stand",
        fmt::format("pages have a multiple of {} tokens", v.schedule.tile / v.schedule.lookups)}}};
  for (const std::string& text : mask_texts(spec)) sections[0].lines.push_back(text);
  return sections;
}

}  // namespace

const FamilyOf<Spec, Schedule>& family() {
  static const FamilyOf<Spec, Schedule> family(FamilyDef<Spec, Schedule>{
      .word = "decode",
      .title = "decode",
      .room = "templates/decode",
      .what = what(),
      .how = {field<&Schedule::tile>("tile", "t", numbers({16, 32})),
              joined(field<&Schedule::stages>("stages", "s", range(2, 4))),
              joined(field<&Schedule::warps>("warps", "w", numbers({2, 4, 8}))),
              joined(field<&Schedule::lookups>("lookups", "l", numbers({1, 2}))),
              flag<&Schedule::normal_codes>("normal_codes", "normal")},
      .rules = rules(),
      .resources =
          [](const View& v) {
            return Resources{.threads = 32 * v.schedule.warps,
                             .dynamic_smem = shared_bytes(v.spec, v.schedule)};
          },
      .params = params_of,
      .usual = usual,
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

Kernel usual_kernel(const KvFormat& format, std::int64_t rows, Target target, Spec spec) {
  spec.head_dim = format.head_dim;
  spec.io = format.io;
  spec.k_bits = format.k_bits;
  spec.v_bits = format.v_bits;
  spec.k_codes = format.k_codes;
  spec.v_codes = format.v_codes;
  // Tiles of 16 rows read the cache half as often as those of 8, where registers hold them.
  spec.rows = rows <= 8 || !holds_16_rows(spec) ? 8 : 16;
  const Kernel kernel(family(), spec, target);
  // Small pages: a tile has blocks of several.
  Schedule schedule = kernel.view(family()).schedule;
  if (format.page_tokens % schedule.tile == 0) return kernel;
  schedule.lookups = tile_blocks(schedule);
  return {family(), spec, schedule, target};
}

Target target_on(Target best, int smem_per_sm) {
  constexpr Target kRoomy{.sm = 80};
  const int roomy = target_info(kRoomy).smem_per_sm;
  return smem_per_sm >= roomy && target_info(best).smem_per_sm < roomy ? kRoomy : best;
}

}  // namespace sagegen::decode
