// Every rule of validity, as a table of {which kinds, predicate, sentence}. A predicate guards
// itself against values that another rule refuses, so one mistake is reported once.
#include "generator/spec/detail.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"

namespace sagegen {
namespace {

struct Context {
  const KernelSpec& spec;
  const TargetInfo* target;  // null if the target is not supported
  const AttentionProblem& p = spec.problem;
  const QuantSpec& q = spec.quant;
  const TileSchedule& s = spec.schedule;
};

enum Kinds : unsigned {
  kAttention = 1u << static_cast<int>(KernelKind::attention),
  kStatistics = 1u << static_cast<int>(KernelKind::kv_statistics),
  kQuantizeQ = 1u << static_cast<int>(KernelKind::quantize_q),
  kQuantizeK = 1u << static_cast<int>(KernelKind::quantize_k),
  kQuantizeV = 1u << static_cast<int>(KernelKind::quantize_v),
  kAll = kAttention | kStatistics | kQuantizeQ | kQuantizeK | kQuantizeV,
};

struct Rule {
  unsigned kinds;
  bool (*broken)(const Context&);
  std::string (*sentence)(const Context&);
};

// A thread of quantize_q or quantize_k keeps its part of a group, one value per row, in registers between
// finding the scale and applying it. Of 255 registers 256 values do not fit: they would spill.
constexpr int kMinGroup = 16, kMaxGroup = 128;
constexpr int kMaxWarps = 8, kMaxStages = 4;
constexpr int kMaxQueryTile = 256;
constexpr int kMaxKeyTile = kMaxGroup;  // which has to hold it
constexpr int kRegisters = 255;         // of a thread

constexpr bool is_power_of_two(int value) { return value > 0 && (value & (value - 1)) == 0; }
constexpr bool is_group(int rows) {
  return is_power_of_two(rows) && rows >= kMinGroup && rows <= kMaxGroup;
}
constexpr bool is_query_tile(int rows) { return is_power_of_two(rows) && rows <= kMaxQueryTile; }
constexpr bool is_key_tile(int rows) { return is_power_of_two(rows) && rows <= kMaxKeyTile; }
constexpr bool is_head_dim(int channels) { return channels == 64 || channels == 128; }
constexpr bool is_pv(DType type) { return type == DType::f16 || type == DType::e4m3; }
// FP8 V lies in panels of 64 keys; an FP16 tensor-core instruction sums P V over 16.
constexpr int smallest_cta_k(DType pv) { return pv == DType::e4m3 ? 64 : 16; }

// A tile that a thread block copies to shared memory, 16 bytes per thread and pass, in panels of 64 bytes
// (generator/dsl/tile.h). Every pass is whole, and lies in one panel or consists of whole panels.
struct CopiedTile {
  const char* name;
  int rows, row_bytes;
  bool copied_by(int threads) const {
    constexpr int kChunkBytes = 16, kPanelChunks = 4;
    const int panel = kPanelChunks * rows, chunks = rows * row_bytes / kChunkBytes;
    return chunks % threads == 0 && (panel % threads == 0 || threads % panel == 0);
  }
};

// The first tile of the kernel that its threads cannot copy; none if another rule refuses the sizes.
std::optional<CopiedTile> uncopied(const Context& c) {
  const bool sizes_fine = is_head_dim(c.p.head_dim) && is_query_tile(c.s.cta_q) &&
                          c.s.cta_q >= 16 && is_pv(c.q.pv) && is_key_tile(c.s.cta_k) &&
                          c.s.cta_k >= smallest_cta_k(c.q.pv) && c.s.warps >= 1 &&
                          c.s.warps <= kMaxWarps && is_power_of_two(c.s.warps);
  if (!sizes_fine) return std::nullopt;
  const bool fp8 = c.q.pv == DType::e4m3;
  const CopiedTile tiles[] = {
      {"Q", c.s.cta_q, c.p.head_dim},
      {"K", c.s.cta_k, c.p.head_dim},
      {"V", fp8 ? c.p.head_dim : c.s.cta_k, fp8 ? c.s.cta_k : 2 * c.p.head_dim}};
  for (const CopiedTile& tile : tiles) {
    if (!tile.copied_by(32 * c.s.warps)) return tile;
  }
  return std::nullopt;
}

// Registers that a thread of the attention kernel fills with sums of P V and with scores: a warp's part of
// each is spread over its 32 threads. 0 if another rule refuses the sizes.
int accumulators(const Context& c) {
  const bool sizes_fine = is_head_dim(c.p.head_dim) && is_query_tile(c.s.cta_q) &&
                          is_key_tile(c.s.cta_k) && c.s.warps >= 1 && c.s.warps <= kMaxWarps &&
                          (c.s.cta_q == 16 * c.s.warps || c.s.cta_q == 32 * c.s.warps);
  return sizes_fine ? c.s.cta_q / c.s.warps * (c.p.head_dim + c.s.cta_k) / 32 : 0;
}

// What stands in the way of reading `spec` at all: fields that hold none of the values of their
// enumeration, as a cast or memory that nobody wrote leaves them. Whatever the kind, since every field
// is read by somebody.
std::vector<std::string> no_enumerators(const KernelSpec& spec) {
  std::vector<std::string> sentences;
  const auto look = [&]<typename Enum>(std::string_view field, Enum value) {
    if (is_enumerator(value)) return;
    sentences.push_back(fmt::format("{} {} is refused: it is no value of its enumeration; use {}",
                                    field, static_cast<int>(value),
                                    fmt::join(words<Enum>(), ", ")));
  };
  look("kind", spec.kind);
  look("io", spec.problem.io);
  look("mask", spec.problem.mask);
  look("qk", spec.quant.qk);
  look("granularity", spec.quant.granularity);
  look("smoothing", spec.quant.smoothing);
  look("pv", spec.quant.pv);
  look("accumulation", spec.quant.accumulation);
  return sentences;
}

std::string head_dim_sentence(int head_dim) {
  std::string advice = head_dim < 1 ? "a head has channels" : "larger heads are not generated yet";
  if (head_dim >= 1 && head_dim < 128) {
    advice = fmt::format(
        "pad the channels of Q, K and V with zeros up to {} and keep the softmax scale of the "
        "original head_dim",
        head_dim < 64 ? 64 : 128);
  }
  return fmt::format("head_dim {} is refused: kernels exist for 64 and 128; {}", head_dim, advice);
}

std::string group_sentence(std::string_view name, int rows) {
  return fmt::format(
      "{} {} is refused: a group of rows that share scales is a power of two from {} to {}, as "
      "each row takes a register of its quantization",
      name, rows, kMinGroup, kMaxGroup);
}

std::string tile_sentence(std::string_view name, int rows, int smallest, int largest) {
  return fmt::format("{} {} is refused: a tile has a power of two of rows, from {} to {}", name,
                     rows, smallest, largest);
}

const Rule kRules[] = {
    {kAll, [](const Context& c) { return c.target == nullptr; },
     [](const Context& c) {
       std::vector<std::string> names;
       for (const TargetInfo& info : supported_targets()) names.push_back(info.name);
       return fmt::format("target {} is not supported; use one of {}", to_string(c.spec.target),
                          fmt::join(names, ", "));
     }},
    {kAll, [](const Context& c) { return !is_head_dim(c.p.head_dim); },
     [](const Context& c) { return head_dim_sentence(c.p.head_dim); }},
    {kAll, [](const Context& c) { return c.p.io != DType::f16 && c.p.io != DType::bf16; },
     [](const Context& c) {
       return fmt::format("io {} is refused: Q, K, V and O are f16 or bf16; convert them first",
                          to_string(c.p.io));
     }},
    {kAttention | kQuantizeQ | kQuantizeK, [](const Context& c) { return c.q.qk == DType::s4; },
     [](const Context&) {
       return std::string("qk s4 is refused: INT4 is not generated yet; use s8");
     }},
    {kAttention | kQuantizeQ | kQuantizeK,
     [](const Context& c) { return c.q.qk != DType::s8 && c.q.qk != DType::s4; },
     [](const Context& c) {
       return fmt::format("qk {} is refused: Q and K are quantized to integers; use s8",
                          to_string(c.q.qk));
     }},
    {kAttention | kQuantizeQ, [](const Context& c) { return !is_group(c.q.q_group); },
     [](const Context& c) { return group_sentence("q_group", c.q.q_group); }},
    {kAttention | kQuantizeK, [](const Context& c) { return !is_group(c.q.k_group); },
     [](const Context& c) { return group_sentence("k_group", c.q.k_group); }},
    {kAttention | kQuantizeV, [](const Context& c) { return !is_pv(c.q.pv); },
     [](const Context& c) {
       return fmt::format("pv {} is refused: the second product takes P and V as f16 or e4m3",
                          to_string(c.q.pv));
     }},
    {kAttention | kQuantizeV,
     [](const Context& c) { return c.q.pv == DType::e4m3 && c.target && !c.target->has_fp8_mma; },
     [](const Context& c) {
       return fmt::format("pv e4m3 is refused on {}: its tensor cores have no FP8; use pv f16",
                          c.target->name);
     }},
    {kQuantizeV, [](const Context& c) { return is_pv(c.q.pv) && !v_is_quantized(c.p, c.q); },
     [](const Context& c) {
       return fmt::format(
           "quantize_v with io {} and pv {} is refused: attention reads such a V as it is; leave "
           "this "
           "kernel out",
           to_string(c.p.io), to_string(c.q.pv));
     }},
    {kStatistics,
     [](const Context& c) { return c.q.smoothing == Smoothing::none && !v_is_quantized(c.p, c.q); },
     [](const Context&) {
       return std::string(
           "kv_statistics with smoothing none and a V that is not quantized is refused: it would "
           "compute "
           "nothing; leave this kernel out");
     }},
    {kAttention, [](const Context& c) { return c.s.warps < 1 || c.s.warps > kMaxWarps; },
     [](const Context& c) {
       return fmt::format("warps {} is refused: a block has 1 to {} warps", c.s.warps, kMaxWarps);
     }},
    {kAttention, [](const Context& c) { return c.s.stages < 1 || c.s.stages > kMaxStages; },
     [](const Context& c) {
       return fmt::format("stages {} is refused: a pipeline has 1 to {} stages", c.s.stages,
                          kMaxStages);
     }},
    {kAttention, [](const Context& c) { return !is_query_tile(c.s.cta_q) || c.s.cta_q < 16; },
     [](const Context& c) { return tile_sentence("cta_q", c.s.cta_q, 16, kMaxQueryTile); }},
    {kAttention,
     [](const Context& c) {
       const bool others_fine =
           is_query_tile(c.s.cta_q) && c.s.cta_q >= 16 && c.s.warps >= 1 && c.s.warps <= kMaxWarps;
       return others_fine && c.s.cta_q != 16 * c.s.warps && c.s.cta_q != 32 * c.s.warps;
     },
     [](const Context& c) {
       return fmt::format(
           "cta_q {} with {} warps is refused: a warp owns 16 or 32 rows of Q; use {} warps",
           c.s.cta_q, c.s.warps, std::max(1, c.s.cta_q / 32));
     }},
    {kAttention,
     [](const Context& c) {
       return is_pv(c.q.pv) && (!is_key_tile(c.s.cta_k) || c.s.cta_k < smallest_cta_k(c.q.pv));
     },
     [](const Context& c) {
       return tile_sentence("cta_k", c.s.cta_k, smallest_cta_k(c.q.pv), kMaxKeyTile) +
              fmt::format(" with pv {}", to_string(c.q.pv));
     }},
    {kAttention, [](const Context& c) { return uncopied(c).has_value(); },
     [](const Context& c) {
       const CopiedTile tile = *uncopied(c);
       return fmt::format(
           "warps {} with a tile of {} of {} rows of {} bytes is refused: {} threads copy it in "
           "passes of 16 bytes each, and a pass has to be whole; use fewer warps or a larger tile",
           c.s.warps, tile.name, tile.rows, tile.row_bytes, 32 * c.s.warps);
     }},
    {kAttention,
     [](const Context& c) {
       const bool rows_fine = c.s.warps >= 1 && c.s.warps <= kMaxWarps &&
                              (c.s.cta_q == 16 * c.s.warps || c.s.cta_q == 32 * c.s.warps);
       return rows_fine && is_group(c.q.q_group) && c.q.q_group % (c.s.cta_q / c.s.warps) != 0;
     },
     [](const Context& c) {
       return fmt::format(
           "q_group {} with {} rows of Q per warp (cta_q {}, {} warps) is refused: all rows of a "
           "warp lie "
           "in one group of scales; use q_group {} or more warps",
           c.q.q_group, c.s.cta_q / c.s.warps, c.s.cta_q, c.s.warps, c.s.cta_q / c.s.warps);
     }},
    {kAttention,
     [](const Context& c) {
       return is_key_tile(c.s.cta_k) && is_group(c.q.k_group) && c.q.k_group % c.s.cta_k != 0;
     },
     [](const Context& c) {
       return fmt::format(
           "k_group {} with cta_k {} is refused: all keys of a tile lie in one group of scales; "
           "use "
           "k_group {} or cta_k {}",
           c.q.k_group, c.s.cta_k, c.s.cta_k, c.q.k_group);
     }},
    {kAttention,
     [](const Context& c) {
       return is_key_tile(c.s.cta_k) && is_group(c.q.k_group) &&
              std::max(c.q.k_group, c.s.cta_k) < 64;
     },
     [](const Context& c) {
       return fmt::format(
           "k_group {} with cta_k {} is refused: keys are padded to the larger of the two, and the "
           "codes of V come in blocks of 64; use k_group 64",
           c.q.k_group, c.s.cta_k);
     }},
    {kAttention,
     [](const Context& c) {
       const bool sizes_fine = is_head_dim(c.p.head_dim) && is_query_tile(c.s.cta_q) &&
                               is_key_tile(c.s.cta_k) && is_pv(c.q.pv) && c.s.stages >= 1 &&
                               c.s.stages <= kMaxStages;
       return sizes_fine && c.target &&
              detail::attention_smem(c.p, c.q, c.s) > c.target->smem_per_block;
     },
     [](const Context& c) {
       return fmt::format(
           "cta_q {}, cta_k {}, {} stages at head_dim {} and pv {} are refused: they need {} bytes "
           "of "
           "shared memory and a block of {} may have {}; use fewer stages or smaller tiles",
           c.s.cta_q, c.s.cta_k, c.s.stages, c.p.head_dim, to_string(c.q.pv),
           detail::attention_smem(c.p, c.q, c.s), c.target->name, c.target->smem_per_block);
     }},
    {kAttention, [](const Context& c) { return accumulators(c) > kRegisters; },
     [](const Context& c) {
       return fmt::format(
           "cta_k {} with {} rows of Q per warp (cta_q {}, {} warps) at head_dim {} is refused: "
           "scores and output alone take {} registers of a thread, and it has {}; use cta_k {}",
           c.s.cta_k, c.s.cta_q / c.s.warps, c.s.cta_q, c.s.warps, c.p.head_dim, accumulators(c),
           kRegisters, c.s.cta_k / 2);
     }},
};

const TargetInfo* find_info(Target target) {
  for (const TargetInfo& info : supported_targets()) {
    if (info.target == target) return &info;
  }
  return nullptr;
}

}  // namespace

std::vector<std::string> violations(const KernelSpec& spec) {
  std::vector<std::string> sentences = no_enumerators(spec);
  if (!sentences.empty()) return sentences;  // the rules below read enumerations
  const Context context{spec, find_info(spec.target)};
  const unsigned kind = 1u << static_cast<int>(spec.kind);
  for (const Rule& rule : kRules) {
    if ((rule.kinds & kind) != 0 && rule.broken(context))
      sentences.push_back(rule.sentence(context));
  }
  return sentences;
}

void validate(const KernelSpec& spec) {
  const std::vector<std::string> sentences = violations(spec);
  if (sentences.empty()) return;
  std::string text = fmt::format("{} cannot be generated:", key(spec));
  for (const std::string& sentence : sentences) text += "\n  " + sentence;
  throw SpecError(text);
}

}  // namespace sagegen
