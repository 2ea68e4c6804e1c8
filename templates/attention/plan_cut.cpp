#include "templates/attention/plan_cut.h"

#include <fmt/format.h>

#include <algorithm>

#include "sagegen/runtime/argument_check.h"
#include "templates/attention/plan_call.h"
#include "templates/attention/plan_mods.h"

namespace sagegen::attention::plan_detail {

using runtime::ArgumentError;
using runtime::ceil_div;
using runtime::kWorkspaceAlignment;

namespace {

Shape part_of(const Shape& shape, std::int64_t batches, std::int64_t kv_heads) {
  Shape part = shape;
  part.batch = batches;
  part.kv_heads = kv_heads;
  part.q_heads = shape.q_heads / shape.kv_heads * kv_heads;
  return part;
}

// The largest count that fits, 0 for none; a larger one takes no less.
template <typename Fits>
std::int64_t most_that_fit(std::int64_t count, const Fits& fits) {
  std::int64_t good = 0, bad = count + 1;
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

std::int64_t equal_parts(std::int64_t count, std::int64_t most) {
  return ceil_div(count, ceil_div(count, most));
}

}  // namespace

CutLayout cut_layout(const Spec& spec, const Schedule& schedule, const runtime::ScratchMap& map,
                     const PlanOptions& options, const Shape& shape, Lse lse) {
  const auto layout = [&](const Shape& part, std::int64_t mean_score_bytes,
                          Lse of_it = Lse::wanted) {
    PlanOptions of_part = options;
    of_part.mean_score_bytes = mean_score_bytes;
    return layout_of(spec, schedule, map, of_part, part, of_it);
  };
  const std::int64_t bound = options.max_workspace_bytes;
  if (bound == 0)
    return {.part = shape, .layout = layout_of(spec, schedule, map, options, shape, lse)};
  CutLayout cut{.part = shape, .layout = layout(shape, options.mean_score_bytes)};
  if (cut.layout.placed.bytes <= bound) {
    cut.layout = layout(shape, options.mean_score_bytes, lse);
    return cut;
  }

  // Scores of mean queries take what the rest leaves, one block at least.
  constexpr std::int64_t kOneBlock = 1;
  const auto least_bytes = [&](std::int64_t batches, std::int64_t kv_heads) {
    return layout(part_of(shape, batches, kv_heads), kOneBlock).placed.bytes;
  };
  const bool packed = is_packed(shape);
  const auto take = [&](std::int64_t batches, std::int64_t kv_heads) {
    cut.part = part_of(shape, batches, kv_heads);
    const Layout least = layout(cut.part, kOneBlock);
    const std::int64_t left =
        bound / kWorkspaceAlignment * kWorkspaceAlignment - least.placed.bytes;
    cut.layout =
        layout(cut.part, std::min(options.mean_score_bytes, least.bytes[kMeanScores] + left), lse);
    cut.calls = ceil_div(shape.batch, batches) * ceil_div(shape.kv_heads, kv_heads);
    return cut;
  };
  if (least_bytes(shape.batch, shape.kv_heads) <= bound) return take(shape.batch, shape.kv_heads);
  if (packed && spec.blocksparse && shape.batch > 1) {
    throw ArgumentError(
        fmt::format("{}: max_workspace_bytes is {}, and packed sequences with blocksparse need {}: "
                    "their bits lie by sequence and "
                    "head, and heads of all sequences cannot be attended apart; raise the bound, "
                    "or make a call for each sequence",
                    kPlan, bound, least_bytes(shape.batch, shape.kv_heads)));
  }
  if (!packed) {
    const std::int64_t batches = most_that_fit(shape.batch, [&](std::int64_t count) {
      return least_bytes(count, shape.kv_heads) <= bound;
    });
    if (batches > 0) return take(equal_parts(shape.batch, batches), shape.kv_heads);
  }
  const std::int64_t of_heads = packed ? shape.batch : 1;
  const std::int64_t heads = most_that_fit(
      shape.kv_heads, [&](std::int64_t count) { return least_bytes(of_heads, count) <= bound; });
  if (heads > 0) return take(of_heads, equal_parts(shape.kv_heads, heads));
  throw ArgumentError(fmt::format(
      "{}: max_workspace_bytes is {}, and one head of K and V with its queries{} needs {}; raise "
      "the bound, or "
      "attend fewer queries, or parts of the keys, in a call",
      kPlan, bound, packed ? ", of all packed sequences," : "", least_bytes(of_heads, 1)));
}

CutCall part_of_call(const Spec& spec, const Schedule& schedule, const Shape& shape,
                     const Arguments& arguments, const Shape& largest, std::int64_t batch,
                     std::int64_t kv_head) {
  const std::int64_t group = shape.q_heads / shape.kv_heads, q_head = kv_head * group;
  CutCall part{.shape = part_of(shape, std::min(largest.batch, shape.batch - batch),
                                std::min(largest.kv_heads, shape.kv_heads - kv_head)),
               .arguments = arguments};
  constexpr std::int64_t kElement = 2, kF32 = sizeof(float);
  const auto move = [&](runtime::TensorView& view, std::int64_t head, std::int64_t bytes) {
    view.data +=
        static_cast<DevicePtr>((batch * view.stride_batch + head * view.stride_head) * bytes);
  };
  move(part.arguments.q, q_head, kElement);
  move(part.arguments.k, kv_head, kElement);
  move(part.arguments.v, kv_head, kElement);
  move(part.arguments.o, q_head, output_bytes(spec));
  const std::int64_t rows = is_packed(shape) ? shape.total_q : shape.q_len;
  const auto first_row = static_cast<DevicePtr>((batch * shape.q_heads + q_head) * rows * kF32);
  if (arguments.lse != 0) part.arguments.lse += first_row;
  if (spec.out == OutputFormat::s8) part.arguments.o_scale += first_row;
  part.arguments.mods =
      attention::part_of(arguments.mods, spec, mod_call(spec, shape, arguments, schedule),
                         {.batch = batch, .q_head = q_head});
  return part;
}

}  // namespace sagegen::attention::plan_detail
