#include "templates/attention/plan_invariance.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "sagegen/runtime/error.h"
#include "templates/attention/spec.h"

namespace sagegen::attention {
namespace {

// Rows of Q that something is computed of together.
std::int64_t query_rows(const Spec& spec, const Schedule& schedule) {
  std::int64_t rows = 1;
  if (qk_is_quantized(spec) && spec.granularity != Granularity::per_token) rows = spec.q_group;
  if (spec.smoothing == Smoothing::qk) rows = std::max<std::int64_t>(rows, kMeanRows);
  // A warp asks all of its rows whether a tile is light.
  if (spec.skipsoftmax) rows = std::max<std::int64_t>(rows, schedule.cta_q);
  return rows;
}

// A score is rounded once more where a mask hides some key of its tile from some query of its block: of the same blocks
// and tiles the same ones are. Not where all scores are rounded so, for mods that change them or scales of their own.
bool rounds_by_block(const Spec& spec) {
  const bool own_scales = qk_is_quantized(spec) && spec.granularity == Granularity::per_token;
  return !own_scales && !spec.softcap && !spec.bias && !spec.alibi;
}

std::int64_t key_rows(const Spec& spec) {
  return qk_is_quantized(spec) && spec.granularity != Granularity::per_token ? spec.k_group : 1;
}

// Empty if it holds.
std::string why_not_any_chunks(const Spec& spec) {
  if (qk_is_quantized(spec) && spec.granularity == Granularity::per_tensor) {
    return "granularity per_tensor has one scale for all queries of a call; take per_token, "
           "per_block "
           "or per_thread";
  }
  if (spec.blocksparse) {
    return "bits of tiles lie by the lengths of a call; take a mask of elements (mask), or none";
  }
  return {};
}

std::string why_not_query_chunks(const Spec& spec) {
  if (spec.causal || spec.window || spec.alibi) {
    return "causal, window and alibi count queries from the first one of a call, or from its last "
           "one; take a "
           "kernel without them, or growing_keys";
  }
  return {};
}

std::string why_not_growing_keys(const Spec& spec) {
  if (!spec.causal) {
    return "without causal a query sees all keys of its call, which become more; take a kernel "
           "with "
           "causal=true";
  }
  if (smooths_k(spec.smoothing)) {
    return fmt::format(
        "smoothing {} subtracts the mean of all keys of a call, which changes with them; take "
        "smoothing=none",
        to_string(spec.smoothing));
  }
  if (v_is_quantized(spec)) {
    return fmt::format(
        "codes of V have scales of all keys of a call, which change with them; take P V of {} with "
        "accumulation=f32 and v_smoothing=none, which reads V as it is",
        to_string(spec.io));
  }
  return {};
}

}  // namespace

std::string_view to_string(Invariance value) {
  switch (value) {
    case Invariance::none:
      return "none";
    case Invariance::batch:
      return "batch";
    case Invariance::query_chunks:
      return "query_chunks";
    case Invariance::growing_keys:
      return "growing_keys";
  }
  return "?";
}

Invariance parse_invariance(std::string_view word) {
  using enum Invariance;
  for (const Invariance each : {none, batch, query_chunks, growing_keys}) {
    if (to_string(each) == word) return each;
  }
  throw runtime::ArgumentError(fmt::format(
      "invariance \"{}\" is refused: it is none, batch, query_chunks or growing_keys", word));
}

std::int64_t InvarianceRule::queries(bool pack_gqa, std::int64_t group) const {
  return std::max(pack_gqa ? rows / std::gcd(rows, group) : rows, keys);  // powers of two
}

InvarianceRule invariance(const Kernel& kernel, Invariance level) {
  const View view = kernel.view(family());
  const Spec& spec = view.spec;
  InvarianceRule rule;
  if (level <= Invariance::batch) return rule;
  const bool growing = level == Invariance::growing_keys;
  rule.why = why_not_any_chunks(spec);
  if (rule.why.empty())
    rule.why = growing ? why_not_growing_keys(spec) : why_not_query_chunks(spec);
  rule.holds = rule.why.empty();
  if (!rule.holds) {
    rule.why =
        fmt::format("{} is not invariant ({}): {}", kernel.key(), to_string(level), rule.why);
    return rule;
  }
  rule.rows = query_rows(spec, view.schedule);
  if (!growing) return rule;
  rule.keys = key_rows(spec);
  if (rounds_by_block(spec)) {
    rule.rows = std::max<std::int64_t>(rule.rows, view.schedule.cta_q);
    rule.keys = std::max<std::int64_t>(rule.keys, view.schedule.cta_k);
  }
  return rule;
}

}  // namespace sagegen::attention
