// The family of attention kernels: fields, rules, resources, inputs.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"
#include "templates/attention/describe.h"
#include "templates/attention/mods/all.h"
#include "templates/attention/params.h"
#include "templates/attention/spec.h"
#include "templates/kv_statistics/spec.h"
#include "templates/mean_scores/spec.h"
#include "templates/quantize_rows/spec.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"

namespace sagegen::attention {
namespace {

constexpr int kMaxWarps = 8, kMaxStages = 4;
constexpr int kRegisters = 255;  // of a thread
// The most that scores and sums of P V may take of them: what else the loop keeps needs some 45. If each score waits
// for a load, too, it needs more.
constexpr int kMostAccumulators = 208, kMostBesideLoads = 159;

// Rows of a warp, of which packed queries are seldom many more.
constexpr int kPackedRows = 16;

// FP8 V lies in panels of 64 keys; an FP16 tensor-core instruction sums P V over 16.
constexpr int smallest_cta_k(DType pv) { return pv == DType::e4m3 ? 64 : 16; }
int warp_rows(const View& v) { return v.schedule.cta_q / v.schedule.warps; }

// A tile that a thread block copies to shared memory, 16 bytes per thread and pass (sagegen/dsl/tile.h): each thread
// has a chunk to copy in the first one.
struct CopiedTile {
  const char* name;
  int rows, row_bytes;
  bool copied_by(int threads) const {
    constexpr int kChunkBytes = 16;
    return rows * row_bytes / kChunkBytes >= threads;
  }
};

// The first tile of the kernel that its threads cannot copy.
std::optional<CopiedTile> uncopied(const View& v) {
  const bool fp8 = v.spec.pv == DType::e4m3;
  const int channels = value_channels(value_dim(v.spec)), cta_k = v.schedule.cta_k;
  const int code_row = code_row_bytes(v.spec.qk, v.spec.head_dim);
  const CopiedTile tiles[] = {{"Q", v.schedule.cta_q, code_row},
                              {"K", cta_k, code_row},
                              {"V", fp8 ? channels : cta_k, fp8 ? cta_k : 2 * channels}};
  for (const CopiedTile& tile : tiles) {
    if (!tile.copied_by(32 * v.schedule.warps)) return tile;
  }
  return std::nullopt;
}

// Registers that a thread fills with sums of P V and with scores: a warp's part of each is spread over its
// 32 threads.
int accumulators(const View& v, int cta_k) {
  return warp_rows(v) * (value_dim(v.spec) + cta_k) / 32;
}
int accumulators(const View& v) { return accumulators(v, v.schedule.cta_k); }

// A way to fewer of them.
std::string fewer_accumulators(const View& v) {
  const int cta_k = v.schedule.cta_k / 2;
  if (cta_k >= smallest_cta_k(v.spec.pv) && accumulators(v, cta_k) <= kMostAccumulators)
    return fmt::format("cta_k {}", cta_k);
  return fmt::format("warps with 16 rows, cta_q {} with {} warps", 16 * v.schedule.warps,
                     v.schedule.warps);
}

// "head_dim 192 and value_dim 128": what V and O have is said where it is something else.
std::string dims_text(const Spec& spec) {
  const std::string head_dim = fmt::format("head_dim {}", spec.head_dim);
  return spec.value_dim == 0 ? head_dim
                             : fmt::format("{} and value_dim {}", head_dim, spec.value_dim);
}

// "bias, mask": what loads something for each score.
std::string loads_of_scores(const Spec& spec) {
  std::string names;
#define SAGEGEN_MOD(mod) \
  if (spec.mod && mod::kLoadsScores) names += (names.empty() ? "" : ", ") + std::string(#mod);
#include "templates/attention/mods/mods.def"
  return names;
}

// What the mma of e4m3 with f16 accumulators asks for.
constexpr int kPtxOfE4m3InF16 = 87;
bool sums_e4m3_in_f16(const Spec& spec) {
  return spec.pv == DType::e4m3 && spec.accumulation == Accumulation::f32_f16;
}

bool is_16_bits(DType type) { return type == DType::f16 || type == DType::bf16; }

// Of P V where FP8 is none: products of codes are summed as f16, those of unquantized Q and K go on as they are.
DType pv_of_16_bits(const Spec& spec) { return qk_is_quantized(spec) ? DType::f16 : spec.qk; }

Values value_dims() {
  Values values = head_dims();
  values.allowed.insert(values.allowed.begin(), 0);
  return values;
}
std::string value_dim_advice(int value_dim) {
  std::string advice = fmt::format("V and O have as many channels as Q and K (0), or one of {}",
                                   fmt::join(head_dims().allowed, ", "));
  const int padded = value_dim < 1 ? value_dim : head_dim_for(value_dim);
  if (padded != value_dim)
    advice +=
        fmt::format("; pad the channels of V with zeros up to {}, and ignore those of O", padded);
  return advice;
}

Values qk_types() {
  return words<DType>(
      {{DType::s8, "s8"}, {DType::s4, "s4"}, {DType::f16, "f16"}, {DType::bf16, "bf16"}});
}
std::string qk_advice(int) {
  return "the first product takes Q and K as codes, s8 or s4, or as they are, f16 or bf16";
}
Values pv_types() {
  return words<DType>({{DType::f16, "f16"}, {DType::bf16, "bf16"}, {DType::e4m3, "e4m3"}});
}
std::string pv_advice(int) { return "the second product takes P and V as e4m3, f16 or bf16"; }

// What only codes of Q and K have.
bool has_no_scales_to_group(const Spec& spec) {
  const Spec usual;
  return !qk_is_quantized(spec) && (spec.granularity != usual.granularity ||
                                    spec.q_group != usual.q_group || spec.k_group != usual.k_group);
}

// Whether rows of given codes are whole chunks of 16 bytes.
bool has_whole_chunks(DType codes, int head_dim) {
  return given_row_bytes(codes, head_dim) % 16 == 0;
}
int channels_of_whole_chunks(DType codes, int head_dim) {
  while (!has_whole_chunks(codes, head_dim)) head_dim = head_dim_for(head_dim + 1);
  return head_dim;
}

// Of codes that the caller gives, which nobody pads.
std::vector<Rule<View>> given_rules() {
  return {
      {[](const View& v) {
         return takes_given_codes(v.spec) && !qk_is_quantized(v.spec) && !v_is_quantized(v.spec);
       },
       [](const View& v) {
         return fmt::format(
             "inputs given with qk {} and pv {} is refused: nothing is quantized, so there are no "
             "codes to give; use inputs own",
             to_string(v.spec.qk), to_string(v.spec.pv));
       }},
      {[](const View& v) { return takes_given_codes(v.spec) && v.spec.smoothing == Smoothing::qk; },
       [](const View&) {
         return std::string(
             "inputs given with smoothing qk is refused: scores of mean queries are computed from "
             "the K that is quantized; use smoothing none or k, or inputs own");
       }},
      {[](const View& v) {
         return takes_given_codes(v.spec) && v.spec.granularity == Granularity::per_token;
       },
       [](const View&) {
         return std::string(
             "inputs given with granularity per_token is refused: scales of whole tiles are read, "
             "and given ones end with the last row; use granularity per_thread, per_block or "
             "per_tensor, or inputs own");
       }},
      {[](const View& v) {
         return takes_given_codes(v.spec) && qk_is_quantized(v.spec) &&
                !has_whole_chunks(v.spec.qk, v.spec.head_dim);
       },
       [](const View& v) {
         return fmt::format(
             "inputs given with qk {} at head_dim {} is refused: rows of codes are read 16 bytes "
             "at a time, and {} bytes are no whole number of that; pad the channels with zeros to "
             "{}",
             to_string(v.spec.qk), v.spec.head_dim, given_row_bytes(v.spec.qk, v.spec.head_dim),
             channels_of_whole_chunks(v.spec.qk, v.spec.head_dim));
       }},
      {[](const View& v) {
         return takes_given_codes(v.spec) && v.spec.pv == DType::e4m3 &&
                v.schedule.cta_k != kGivenValueKeys;
       },
       [](const View& v) {
         return fmt::format(
             "cta_k {} with inputs given and pv e4m3 is refused: codes of V are given in whole "
             "blocks of {} keys; use cta_k {}",
             v.schedule.cta_k, kGivenValueKeys, kGivenValueKeys);
       }}};
}

std::string tile_advice(int smallest, int largest) {
  return fmt::format("a tile has a power of two of rows, from {} to {}", smallest, largest);
}

RuleLayers<View> rules() {
  return {
      // Each is about the target, or about two fields of which the others say nothing.
      {{[](const View& v) {
          return v.spec.out == OutputFormat::e4m3 && !v.target.has(Feature::fp8_mma);
        },
        [](const View& v) {
          return fmt::format(
              "out e4m3 is refused on {}: it has no instruction that makes FP8; use out s8, or out "
              "io",
              v.target.name);
        }},
       {[](const View& v) { return v.spec.value_dim == v.spec.head_dim; },
        [](const View& v) {
          return fmt::format(
              "value_dim {} with head_dim {} is refused: V has as many channels as Q and K unless "
              "told "
              "otherwise, and a kernel has one key; use value_dim 0",
              v.spec.value_dim, v.spec.head_dim);
        }},
       {[](const View& v) { return v.spec.pv == DType::e4m3 && !v.target.has(Feature::fp8_mma); },
        [](const View& v) {
          return fmt::format("pv e4m3 is refused on {}: its tensor cores have no FP8; use pv {}",
                             v.target.name, to_string(pv_of_16_bits(v.spec)));
        }},
       {[](const View& v) { return !qk_is_quantized(v.spec) && v.spec.qk != v.spec.io; },
        [](const View& v) {
          return fmt::format(
              "qk {} with io {} is refused: Q and K that are not quantized are read as the caller "
              "has them; use qk {}, or io {}",
              to_string(v.spec.qk), to_string(v.spec.io), to_string(v.spec.io),
              to_string(v.spec.qk));
        }},
       {[](const View& v) { return has_no_scales_to_group(v.spec); },
        [](const View& v) {
          const Spec usual;
          return fmt::format(
              "granularity {}, q_group {} and k_group {} with qk {} are refused: Q and K that are "
              "not quantized have no scales; leave them as they are by default, {}, {} and {}",
              to_string(v.spec.granularity), v.spec.q_group, v.spec.k_group, to_string(v.spec.qk),
              to_string(usual.granularity), usual.q_group, usual.k_group);
        }},
       {[](const View& v) {
          return !qk_is_quantized(v.spec) && v.spec.smoothing != Smoothing::none;
        },
        [](const View& v) {
          return fmt::format(
              "smoothing {} with qk {} is refused: means are subtracted so that codes lose less, "
              "and there are none; use smoothing none",
              to_string(v.spec.smoothing), to_string(v.spec.qk));
        }},
       {[](const View& v) { return !qk_is_quantized(v.spec) && v.spec.rotation != Rotation::none; },
        [](const View& v) {
          return fmt::format(
              "rotation {} with qk {} is refused: rows are rotated so that codes lose less, and "
              "there are none; use rotation none",
              to_string(v.spec.rotation), to_string(v.spec.qk));
        }},
       {[](const View& v) { return is_16_bits(v.spec.pv) && v.spec.pv != pv_of_16_bits(v.spec); },
        [](const View& v) {
          const DType other = pv_of_16_bits(v.spec);
          return qk_is_quantized(v.spec)
                     ? fmt::format(
                           "pv {} with qk {} is refused: V of bf16 is quantized to f16, which is "
                           "as fast and rounds P less; use pv {}",
                           to_string(v.spec.pv), to_string(v.spec.qk), to_string(other))
                     : fmt::format(
                           "pv {} with qk {} is refused: beside Q and K that are not quantized V "
                           "is read as it is, or quantized to FP8; use pv {} or e4m3",
                           to_string(v.spec.pv), to_string(v.spec.qk), to_string(other));
        }},
       {[](const View& v) {
          return v.spec.pv == DType::bf16 && v.spec.v_smoothing != ValueSmoothing::none;
        },
        [](const View& v) {
          return fmt::format(
              "v_smoothing {} with pv bf16 is refused: products of bf16 take V as it is, without a "
              "scale; use v_smoothing none, or pv e4m3",
              to_string(v.spec.v_smoothing));
        }},
       {[](const View& v) {
          return v.spec.pv == DType::bf16 && v.spec.accumulation == Accumulation::f32_f16;
        },
        [](const View&) {
          return std::string(
              "accumulation f32_f16 with pv bf16 is refused: tensor cores sum products of bf16 in "
              "f32 only; use accumulation f32");
        }},
       {[](const View& v) { return v.spec.qk == DType::s4 && !v.target.has(Feature::s4_mma); },
        [](const View& v) {
          return fmt::format(
              "qk s4 is refused on {}: its tensor cores have no INT4, and the assembler would call "
              "a routine of about 190 instructions for each product; use qk s8",
              v.target.name);
        }},
       {[](const View& v) {
          return takes_given_codes(v.spec) && v.spec.rotation != Rotation::none;
        },
        [](const View& v) {
          return fmt::format(
              "rotation {} with inputs given is refused: the kernel has no quantizers, and scores "
              "of rotated codes are those of others; rotate what is given, and use rotation none",
              to_string(v.spec.rotation));
        }},
       {[](const View& v) { return takes_given_codes(v.spec) && v.spec.pack_gqa; },
        [](const View&) {
          return std::string(
              "pack_gqa with inputs given is refused: codes of Q would have to be quantized in the "
              "order of packed rows; use pack_gqa with inputs own, or leave it out");
        }},
       {[](const View& v) { return v.spec.varlen && takes_given_codes(v.spec); },
        [](const View&) {
          return std::string(
              "varlen with inputs given is refused: groups of scales begin anew with each "
              "sequence, and codes of a caller do not say where those of a sequence lie; use "
              "inputs own, or one call for each sequence");
        }},
       {[](const View& v) { return warp_rows(v) != 16 && warp_rows(v) != 32; },
        [](const View& v) {
          return fmt::format(
              "cta_q {} with {} warps is refused: a warp owns 16 or 32 rows of Q; use {} warps",
              v.schedule.cta_q, v.schedule.warps, std::clamp(v.schedule.cta_q / 32, 1, kMaxWarps));
        }},
       {[](const View& v) {
          return v.spec.smoothing == Smoothing::qk && v.schedule.cta_q > kMeanRows;
        },
        [](const View& v) {
          return fmt::format(
              "cta_q {} with smoothing qk is refused: a thread block starts its scores from those "
              "of one mean query, and {} queries have one; use cta_q {}",
              v.schedule.cta_q, kMeanRows, kMeanRows);
        }},
       {[](const View& v) {
          return v.spec.smoothing == Smoothing::qk &&
                 room_for_mean(v.spec.qk, v.spec.head_dim) <= 0;
        },
        [](const View& v) {
          return "smoothing qk with qk " + no_room_for_mean(v.spec.qk, v.spec.head_dim) +
                 "; use smoothing k, or qk s4";
        }},
       {[](const View& v) { return v.schedule.cta_k < smallest_cta_k(v.spec.pv); },
        [](const View& v) {
          return fmt::format("cta_k {} with pv {} is refused: {}", v.schedule.cta_k,
                             to_string(v.spec.pv),
                             tile_advice(smallest_cta_k(v.spec.pv), kMaxGroup));
        }},
       {[](const View& v) {
          return qk_is_quantized(v.spec) && v.spec.k_group % v.schedule.cta_k != 0;
        },
        [](const View& v) {
          return fmt::format(
              "k_group {} with cta_k {} is refused: all keys of a tile lie in one group of scales; "
              "use k_group {} or cta_k {}",
              v.spec.k_group, v.schedule.cta_k, v.schedule.cta_k, v.spec.k_group);
        }},
       {[](const View& v) {
          return v.spec.accumulation == Accumulation::f32_f16 && v.schedule.cta_k > kKeysOfHalfSums;
        },
        [](const View& v) {
          return fmt::format(
              "cta_k {} with accumulation f32_f16 is refused: sums of f16 have room for the "
              "products of {} keys; use cta_k {}",
              v.schedule.cta_k, kKeysOfHalfSums, kKeysOfHalfSums);
        }},
       {[](const View& v) {
          return v.spec.code_range != CodeRange::usual &&
                 (v.spec.accumulation != Accumulation::f32_f16 || v.spec.pv != DType::e4m3);
        },
        [](const View& v) {
          return fmt::format(
              "code_range {} with accumulation {} and pv {} is refused: P and V share a range of "
              "codes only where products of e4m3 are summed in f16; use code_range usual, or "
              "accumulation f32_f16 and pv e4m3",
              to_string(v.spec.code_range), to_string(v.spec.accumulation), to_string(v.spec.pv));
        }},
       {[](const View& v) { return std::max(v.spec.k_group, v.schedule.cta_k) < 64; },
        [](const View& v) {
          return fmt::format(
              "k_group {} with cta_k {} is refused: keys are padded to the larger of the two, and "
              "the codes of V come in blocks of 64; use k_group 64",
              v.spec.k_group, v.schedule.cta_k);
        }}},
      given_rules(),
      // From here on a warp owns 16 or 32 rows, and the tiles are whole.
      {{[](const View& v) { return uncopied(v).has_value(); },
        [](const View& v) {
          const CopiedTile tile = *uncopied(v);
          return fmt::format(
              "warps {} with a tile of {} of {} rows of {} bytes is refused: {} threads copy it in "
              "passes of 16 bytes each, and it is less than one; use fewer warps or a larger tile",
              v.schedule.warps, tile.name, tile.rows, tile.row_bytes, 32 * v.schedule.warps);
        }},
       {[](const View& v) { return v.spec.q_group % warp_rows(v) != 0; },
        [](const View& v) {
          return fmt::format(
              "q_group {} with {} rows of Q per warp (cta_q {}, {} warps) is refused: all rows of "
              "a warp lie in one group of scales; use q_group {} or more warps",
              v.spec.q_group, warp_rows(v), v.schedule.cta_q, v.schedule.warps, warp_rows(v));
        }},
       {[](const View& v) { return shared_bytes(v.spec, v.schedule) > v.target.smem_per_block; },
        [](const View& v) {
          return fmt::format(
              "cta_q {}, cta_k {}, {} stages at {} and pv {} are refused: they need {} "
              "bytes of shared memory and a block of {} may have {}; use fewer stages or smaller "
              "tiles",
              v.schedule.cta_q, v.schedule.cta_k, v.schedule.stages, dims_text(v.spec),
              to_string(v.spec.pv), shared_bytes(v.spec, v.schedule), v.target.name,
              v.target.smem_per_block);
        }},
       {[](const View& v) { return accumulators(v) > kMostAccumulators; },
        [](const View& v) {
          return fmt::format(
              "cta_k {} with {} rows of Q per warp (cta_q {}, {} warps) at {} is refused: "
              "scores and output alone take {} registers of a thread, and it has {}, of which the "
              "rest needs {}; use {}",
              v.schedule.cta_k, warp_rows(v), v.schedule.cta_q, v.schedule.warps, dims_text(v.spec),
              accumulators(v), kRegisters, kRegisters - kMostAccumulators, fewer_accumulators(v));
        }},
       {[](const View& v) {
          return !loads_of_scores(v.spec).empty() && accumulators(v) > kMostBesideLoads &&
                 v.schedule.cta_k > 64;
        },
        [](const View& v) {
          return fmt::format(
              "cta_k {} with {} rows of Q per warp (cta_q {}, {} warps) at {} is refused "
              "with {}: scores and output take {} registers of a thread, and the loads "
              "for each score need some too; use cta_k 64",
              v.schedule.cta_k, warp_rows(v), v.schedule.cta_q, v.schedule.warps, dims_text(v.spec),
              loads_of_scores(v.spec), accumulators(v));
        }}},
  };
}

ParamLayout params(const View& v) {
  ParamLayout layout;
  layout.add<Params>();
  if (!qk_is_quantized(v.spec)) layout.add<UnquantizedParams>();
  if (smooths_k(v.spec.smoothing)) layout.add<SmoothingParams>();
  if (v.spec.smoothing == Smoothing::qk) layout.add<MeanScoreParams>();
  if (v.spec.v_smoothing == ValueSmoothing::mean) layout.add<ValueMeanParams>();
  if (v.spec.pack_gqa) layout.add<PackParams>();
  if (takes_given_codes(v.spec) && qk_is_quantized(v.spec)) layout.add<GivenParams>();
  if (v.spec.varlen) layout.add<QuerySequences>().add<KeySequences>().add<VarlenParams>();
  if (v.spec.out != OutputFormat::io) layout.add<OutputCodeParams>();
#define SAGEGEN_MOD(name) \
  if (v.spec.name) layout.add<name::Params>();
#include "templates/attention/mods/mods.def"
  return layout;
}

void complete(Spec& spec, const Given& given, const TargetInfo& target) {
  if (!is_given(given, "q_group")) {
    if (spec.granularity == Granularity::per_block) spec.q_group = 128;
    if (spec.pack_gqa && qk_is_quantized(spec)) spec.q_group = kPackedRows;
  }
  if (!is_given(given, "smoothing"))
    spec.smoothing = takes_given_codes(spec) ? Smoothing::none : usual_smoothing(spec.qk);
  if (!is_given(given, "pv"))
    spec.pv = target.has(Feature::fp8_mma) ? DType::e4m3 : pv_of_16_bits(spec);
  if (!is_given(given, "accumulation")) {
    spec.accumulation = spec.pv == DType::e4m3 ? Accumulation::two_level_f32 : Accumulation::f32;
  }
}

// Two blocks per SM hide the softmax of one behind the tensor cores of the other.
bool two_fit(const Spec& spec, const Schedule& schedule, const TargetInfo& target) {
  constexpr int kSystemSmemPerBlock = 1024;
  return 2 * (shared_bytes(spec, schedule) + kSystemSmemPerBlock) <= target.smem_per_sm;
}

// Few rows: what counts is how fast a block gets through K and V. By the model a block of any of these sizes takes 11
// bytes of them in a cycle with FP8 P V, and 16 with FP16, which is more than an SM's share of what memory delivers (3 on
// GeForce, 10 to 13 on an A100). So tiles are small, for there to be little padding, and a second buffer, which keeps
// loads under way, is worth more than a second block, of which there seldom are so many.
Schedule usual_packed(const Spec& spec, const TargetInfo& target) {
  Schedule schedule{.cta_q = 2 * kPackedRows, .cta_k = 64, .warps = 2, .stages = 3};
  const auto fits = [&] { return shared_bytes(spec, schedule) <= target.smem_per_block; };
  if (!two_fit(spec, schedule, target)) schedule.stages = 2;
  if (!fits() && is_16_bits(spec.pv)) schedule.cta_k = 32;
  if (!fits()) schedule.stages = 1;
  return schedule;
}

// Chosen by the model of `sagegen inspect --model`.
Schedule usual(const Spec& spec, const TargetInfo& target) {
  constexpr int kWide = 128;
  Schedule schedule;
  // Refused, and of any size.
  if (!head_dims().has(spec.head_dim) || !head_dims().has(value_dim(spec))) return schedule;
  if (spec.pack_gqa) return usual_packed(spec, target);
  const bool codes = qk_is_quantized(spec);
  if (value_dim(spec) > kWide || (spec.head_dim > kWide && !codes)) {
    // O of 32 queries leaves a warp no registers for scores, and 128 queries of 16 bits leave shared memory no second
    // block. Of blocks of four warps with 16 each, a second one is worth more than a second buffer.
    schedule = {.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 1};
    if (is_16_bits(spec.pv) && !two_fit(spec, schedule, target)) schedule.cta_k = 32;
    return schedule;
  }
  // With 32 queries a warp needs registers that would do for three blocks, and shared memory has room for two: the
  // assembler saves registers, and nobody has them. Twice as many warps use them.
  const bool spare_registers = codes && (value_dim(spec) == 72 || value_dim(spec) == 80);
  // INT4 products with sums of f16 leave tensor cores so little to do that four warps cannot hide their softmax.
  const bool softmax_bound =
      value_dim(spec) == kWide && spec.qk == DType::s4 && sums_e4m3_in_f16(spec);
  // Each of their threads has 16 bytes of a tile of K to copy.
  const bool shared_by_eight = code_row_bytes(spec.qk, spec.head_dim) >= 64;
  if ((spare_registers || softmax_bound) && shared_by_eight) schedule.warps = 8;
  // Lengths that are no launch arguments take the registers that f32 sums and 64 scores of a row leave. By the model of
  // an A100 half as many keys cost as much as those few bytes of spills.
  if (spec.varlen && spec.qk == DType::s8 && value_dim(spec) == kWide && is_16_bits(spec.pv) &&
      spec.accumulation == Accumulation::f32)
    schedule.cta_k = 32;
  if (two_fit(spec, schedule, target)) return schedule;
  // Where FP16 tiles are too large for two blocks, one buffer that keys and values use in turns is worth the second
  // block; where queries are, fewer of them are, in warps of 16 rows.
  schedule.stages = 1;
  if (two_fit(spec, schedule, target)) return schedule;
  schedule = {.cta_q = 64, .cta_k = 32, .warps = 4, .stages = 2};
  if (two_fit(spec, schedule, target) && schedule.cta_k >= smallest_cta_k(spec.pv)) return schedule;
  return {.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 1};
}

std::vector<Kernel> inputs(const View& v) {
  const Spec& s = v.spec;
  if (takes_given_codes(s)) return {};
  const Target target = v.target.target;
  const bool smooth = smooths_k(s.smoothing), quantized_v = v_is_quantized(s);
  const bool smooth_v = s.v_smoothing == ValueSmoothing::mean;
  std::vector<Kernel> kernels;
  kv_statistics::Spec of_k{.head_dim = s.head_dim, .io = s.io, .k_sum = smooth, .varlen = s.varlen};
  kv_statistics::Spec of_v{.head_dim = value_dim(s),
                           .io = s.io,
                           .v_amax = quantized_v && !smooth_v,
                           .v_range = smooth_v,
                           .varlen = s.varlen};
  if (of_k.head_dim == of_v.head_dim) {  // one kernel for both
    of_k.v_amax = std::exchange(of_v.v_amax, false);
    of_k.v_range = std::exchange(of_v.v_range, false);
  }
  for (const kv_statistics::Spec& of : {of_k, of_v}) {
    if (of.k_sum || of.v_amax || of.v_range)
      kernels.push_back({kv_statistics::family(), of, target});
  }
  quantize_rows::Spec rows{.head_dim = s.head_dim, .io = s.io, .codes = s.qk};
  rows.scales = k_scales_per_group(s.granularity, s.k_group);
  rows.group = s.k_group;
  rows.smooth = smooth;
  rows.rotate = s.rotation == Rotation::hadamard;
  rows.varlen = s.varlen;
  const auto quantize = [&] {
    rows.amax = rows.scales == 0;
    if (rows.amax) kernels.push_back({quantize_rows::family(), rows, target});
    rows.amax = false;
    kernels.push_back({quantize_rows::family(), rows, target});
  };
  if (qk_is_quantized(s)) quantize();
  if (quantized_v) {
    kernels.push_back({quantize_values::family(),
                       {.head_dim = value_dim(s),
                        .io = s.io,
                        .codes = s.pv,
                        .octaves = code_octaves(s).v,
                        .smooth = smooth_v,
                        .varlen = s.varlen},
                       target});
  }
  if (!qk_is_quantized(s)) return kernels;
  rows.scales = q_scales_per_group(s.granularity, s.q_group);
  rows.group = s.q_group;
  rows.smooth = false;
  rows.fold = true;
  rows.smooth_block = s.smoothing == Smoothing::qk;
  rows.pack_gqa = s.pack_gqa;
  quantize();
  if (rows.smooth_block) {
    kernels.push_back({mean_scores::family(),
                       {.head_dim = s.head_dim,
                        .io = s.io,
                        .varlen = s.varlen,
                        .pack_gqa = s.varlen && s.pack_gqa},
                       target});
  }
  return kernels;
}

}  // namespace

const FamilyOf<Spec, Schedule>& family() {
  static const FamilyOf<Spec, Schedule> family(
      FamilyDef<Spec, Schedule>{
          .word = "fwd",
          .title = "attention",
          .room = "templates/attention",
          .what =
              {
                  field<&Spec::head_dim>("head_dim", "d", head_dims(), head_dim_advice),
                  later(field<&Spec::value_dim>("value_dim", "dv", value_dims(), value_dim_advice)),
                  field<&Spec::io>("io", "", io_types(), io_advice),
                  field<&Spec::qk>("qk", "qk_", qk_types(), qk_advice),
                  joined(field<&Spec::granularity>(
                      "granularity", "",
                      words<Granularity>({{Granularity::per_thread, "per_thread", "t"},
                                          {Granularity::per_block, "per_block", "b"},
                                          {Granularity::per_token, "per_token", "r"},
                                          {Granularity::per_tensor, "per_tensor", "a"}}))),
                  field<&Spec::q_group>("q_group", "g", groups(), group_advice),
                  joined(field<&Spec::k_group>("k_group", "x", groups(), group_advice)),
                  field<&Spec::smoothing>("smoothing", "sm",
                                          words<Smoothing>({{Smoothing::none, "none", "0"},
                                                            {Smoothing::k, "k", "k"},
                                                            {Smoothing::qk, "qk", "qk"}})),
                  field<&Spec::pv>("pv", "pv_", pv_types(), pv_advice),
                  field<&Spec::accumulation>(
                      "accumulation", "",
                      words<Accumulation>({{Accumulation::f32, "f32"},
                                           {Accumulation::two_level_f32, "two_level_f32", "f32x2"},
                                           {Accumulation::f32_f16, "f32_f16", "f32f16"}})),
                  later(field<&Spec::code_range>("code_range", "",
                                                 words<CodeRange>(
                                                     {{CodeRange::usual, "usual"},
                                                      {CodeRange::fine_v, "fine_v", "finev"}}))),
                  later(field<&Spec::v_smoothing>(
                      "v_smoothing", "",
                      words<ValueSmoothing>({{ValueSmoothing::none, "none", "smv0"},
                                             {ValueSmoothing::mean, "mean", "smv"}}))),
                  later(field<&Spec::rotation>(
                      "rotation", "",
                      words<Rotation>({{Rotation::none, "none", "rot0"},
                                       {Rotation::hadamard, "hadamard", "hadamard"}}))),
                  later(field<&Spec::inputs>("inputs", "",
                                             words<InputSource>({{InputSource::own, "own"},
                                                                 {InputSource::given, "given"}}))),
                  later(field<&Spec::out>("out", "out_",
                                          words<OutputFormat>({{OutputFormat::io, "io"},
                                                               {OutputFormat::e4m3, "e4m3"},
                                                               {OutputFormat::s8, "s8"}}))),
                  flag<&Spec::pack_gqa>("pack_gqa", "packgqa"),
                  later(flag<&Spec::varlen>("varlen", "varlen")),
#define SAGEGEN_MOD(name) flag<&Spec::name>(#name, #name),
#include "templates/attention/mods/mods.def"
              },
          .how = {field<&Schedule::cta_q>("cta_q", "q", numbers({16, 32, 64, 128, 256}),
                                          [](int) { return tile_advice(16, 256); }),
                  joined(field<&Schedule::cta_k>("cta_k", "k", numbers({16, 32, 64, 128}),
                                                 [](int) { return tile_advice(16, kMaxGroup); })),
                  joined(field<&Schedule::warps>("warps", "w", numbers({1, 2, 4, 8}),
                                                 [](int) {
                                                   return fmt::format(
                                                       "a block has a power of two of warps, from "
                                                       "1 to {}",
                                                       kMaxWarps);
                                                 })),
                  joined(field<&Schedule::stages>("stages", "s", range(1, kMaxStages),
                                                  [](int) {
                                                    return fmt::format(
                                                        "a pipeline has 1 to {} stages",
                                                        kMaxStages);
                                                  }))},
          .rules = rules(),
          .resources =
              [](const View& v) {
                return Resources{.threads = 32 * v.schedule.warps,
                                 .dynamic_smem = static_cast<int>(shared_bytes(v.spec, v.schedule)),
                                 .ptx_version = sums_e4m3_in_f16(v.spec) ? kPtxOfE4m3InF16 : 0};
              },
          .params = params,
          .complete = complete,
          .usual = usual,
          .inputs = inputs,
          .describe = describe,
      });
  return family;
}

const Family& any_family() { return family(); }

std::string_view to_string(OutputFormat value) {
  switch (value) {
    case OutputFormat::io:
      return "io";
    case OutputFormat::e4m3:
      return "e4m3";
    case OutputFormat::s8:
      return "s8";
  }
  return "?";
}

Spec usual_spec(Target target, Granularity granularity) {
  Spec spec;
  spec.granularity = granularity;
  complete(spec, {}, target_info(target));
  return spec;
}

Spec with_pv(Spec spec, DType pv) {
  spec.pv = pv;
  spec.accumulation = pv == DType::e4m3 ? Accumulation::two_level_f32 : Accumulation::f32;
  return spec;
}

Smoothing usual_smoothing(DType qk) {
  if (is_16_bits(qk)) return Smoothing::none;
  return qk == DType::s4 ? Smoothing::qk : Smoothing::k;
}

std::span<const Mode> modes() {
  static constexpr Mode kModes[] = {
      {"int8-fp8", DType::s8, DType::e4m3}, {"int8-fp16", DType::s8, DType::f16},
      {"int4-fp8", DType::s4, DType::e4m3}, {"int4-fp16", DType::s4, DType::f16},
      {"bf16-fp8", {}, DType::e4m3},        {"16bit", {}, {}}};
  return kModes;
}

Spec with_mode(Spec spec, const Mode& mode) {
  spec.qk = mode.qk.value_or(spec.io);
  spec.smoothing = usual_smoothing(spec.qk);
  return with_pv(spec, mode.pv.value_or(spec.io));
}

std::string_view mode_name(const Spec& spec) {
  for (const Mode& mode : modes()) {
    const Spec named = with_mode(spec, mode);
    if (named.qk == spec.qk && named.pv == spec.pv) return mode.name;
  }
  throw InternalError("no mode has these types of Q and K and this P V");
}

bool runs_on(const Spec& spec, int compute_capability) {
  constexpr int kLastWithInt4 = 89;
  return spec.qk != DType::s4 || compute_capability <= kLastWithInt4;
}

Kernel with_own_codes(const Kernel& kernel) {
  const View view = kernel.view(family());
  Spec spec = view.spec;
  spec.inputs = InputSource::own;
  return {family(), spec, view.schedule, view.target.target};
}

float maximum_step(const Spec& spec) {
  return spec.qk == DType::s4 && spec.granularity != Granularity::per_token ? 1.0f : 0.0f;
}

float maximum_slack(const Spec& spec) {
  const bool has_room =
      qk_is_quantized(spec) && spec.pv == DType::f16 && spec.accumulation == Accumulation::f32;
  return has_room && (wider_dim(spec) <= 64 || spec.qk == DType::s4) ? 8.0f : 0.0f;
}

CodeOctaves code_octaves(const Spec& spec) {
  return sagegen::code_octaves(spec.pv, spec.accumulation, spec.code_range);
}

float p_offset(const Spec& spec) {
  constexpr float kLog2OfLargestE4m3 = 8.807354922f;  // log2(448)
  const float largest = spec.pv == DType::e4m3 ? kLog2OfLargestE4m3 : 0;
  const float offset = largest - static_cast<float>(code_octaves(spec).p);
  return maximum_step(spec) != 0 ? std::floor(offset) : offset;
}

bool qk_is_quantized(const Spec& spec) { return !is_16_bits(spec.qk); }

bool v_is_quantized(const Spec& spec) {
  return spec.pv != spec.io || spec.accumulation == Accumulation::f32_f16 ||
         spec.v_smoothing == ValueSmoothing::mean;
}

std::int64_t shared_bytes(const Spec& spec, const Schedule& schedule) {
  const std::int64_t code_row = code_row_bytes(spec.qk, spec.head_dim);
  const std::int64_t k_tile =
      schedule.cta_k * code_row +
      (spec.smoothing == Smoothing::qk ? mean_score_bytes(schedule.cta_k) : 0);
  const std::int64_t v_tile =
      std::int64_t{schedule.cta_k} * value_channels(value_dim(spec)) * bits(spec.pv) / 8;
  const std::int64_t o_tile =
      std::int64_t{schedule.cta_q} * output_row_bytes(value_dim(spec), output_bytes(spec));
  return std::max(schedule.cta_q * code_row + schedule.stages * (k_tile + v_tile), o_tile);
}

}  // namespace sagegen::attention
