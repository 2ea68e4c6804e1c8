#include "templates/decode/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "sagegen/error.h"
#include "sagegen/runtime/argument_check.h"
#include "sagegen/runtime/artifacts.h"
#include "templates/decode/params.h"
#include "templates/shared/params.h"

namespace sagegen::decode {

using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::ceil_div;
using runtime::kMaxGridYZ;
using runtime::kMaxLength;
using Access = ArgumentCheck::Access;

namespace {

constexpr const char* kPlan = "decode";
constexpr std::int64_t kF32 = sizeof(float), kI32 = sizeof(std::int32_t);
constexpr std::int64_t kLeastSplit = 1024;  // tokens: a block costs as much as half of them
constexpr std::int64_t kStrideUnit = 16;    // bytes that are copied at a time
constexpr double kLog2E = 1.4426950408889634;

std::int64_t group_of(const Shape& shape) { return shape.q_heads / shape.kv_heads; }
std::int64_t rows_of(const Shape& shape) { return group_of(shape) * shape.q_len; }
// Of the batch.
std::int64_t row_tiles_of(const Spec& spec, const Shape& shape) {
  return shape.batch * shape.kv_heads * ceil_div(rows_of(shape), std::int64_t{spec.rows});
}
// Blocks of a tile of rows: those of its splits, and one that has exact tokens.
std::int64_t blocks_in_x(const Spec& spec, std::int64_t splits) { return splits + spec.exact; }
std::int64_t blocks_of(const Shape& shape) { return shape.page_tokens / kKvBlockTokens; }

// Parts of the workspace, in bytes from its start.
struct Workspace {
  Workspace(const Spec& spec, const Shape& shape, std::int64_t splits) {
    if (splits == 1) return;
    const std::int64_t tiles = row_tiles_of(spec, shape);
    const std::int64_t rows = std::min<std::int64_t>(rows_of(shape), spec.rows);
    const auto place = [&](std::int64_t bytes) {
      const std::int64_t at = all;
      all += ceil_div(bytes, runtime::kWorkspaceAlignment) * runtime::kWorkspaceAlignment;
      return at;
    };
    const std::int64_t results = runtime::scratch_bytes(kPlan, {tiles, splits, rows});
    const std::int64_t row = kF32 * kv_block(spec).channels;
    partials = place(runtime::scratch_bytes(kPlan, {results, row}));
    sums = place(2 * kF32 * results);
    ticket_bytes = kI32 * tiles;
    tickets = place(ticket_bytes);
  }
  std::int64_t partials = 0, sums = 0, tickets = 0, ticket_bytes = 0, all = 0;
};

template <typename... Values>
[[noreturn]] void refuse(fmt::format_string<Values...> format, Values&&... values) {
  throw ArgumentError(
      fmt::format("{}: {}", kPlan, fmt::format(format, std::forward<Values>(values)...)));
}

void check_shape(const Kernel& kernel, const Shape& shape) {
  const auto view = kernel.view(family());
  runtime::check_sizes(
      kPlan,
      {{"batch", shape.batch, kMaxGridYZ, "a grid has no more blocks in z; split the batch"},
       {"q_heads", shape.q_heads, kMaxLength, "heads are counted by 32-bit numbers"},
       {"kv_heads", shape.kv_heads, kMaxGridYZ, "a grid has no more blocks in y; split the heads"},
       {"q_len", shape.q_len, kMostQueries, "more are a prompt; use attention::Plan"},
       {"page_tokens", shape.page_tokens, 1 << 16, "so many tokens has a page at most"},
       {"max_pages", shape.max_pages, kMaxLength / kKvBlockTokens,
        "tokens are counted by 32-bit numbers"}});
  if (shape.q_heads % shape.kv_heads != 0)
    refuse("q_heads {} is no multiple of kv_heads {}: as many query heads share each KV head",
           shape.q_heads, shape.kv_heads);
  if (shape.batch * shape.q_heads > kMaxLength / kMostQueries) {
    refuse(
        "{} sequences of {} query heads with up to {} queries are counted by 32-bit numbers; split "
        "the batch",
        shape.batch, shape.q_heads, kMostQueries);
  }
  const std::int64_t in_y = row_tiles_of(view.spec, shape) / shape.batch;
  // The KV head of a block is its number by the tiles of a head, which reciprocal_of() is exact for.
  if (in_y > kMaxGridYZ || in_y * (in_y / shape.kv_heads) > kMaxLength) {
    refuse(
        "{} KV heads of {} query heads each, and q_len {}, take {} blocks in y with {} rows each, "
        "and a grid has no more than {}, or than 2^31 by the blocks of a KV head; split the heads",
        shape.kv_heads, group_of(shape), shape.q_len, in_y, view.spec.rows, kMaxGridYZ);
  }
  const std::int64_t unit = view.schedule.tile / view.schedule.lookups;
  if (shape.page_tokens % unit != 0) {
    refuse("page_tokens {} is no multiple of {}, of which {} finds the page of all at once; use {}",
           shape.page_tokens, unit, kernel.key(),
           unit > kKvBlockTokens && shape.page_tokens % kKvBlockTokens == 0
               ? "a schedule with 2 look-ups, or of tile 16"
               : "pages of whole blocks of 16 tokens");
  }
  if (shape.max_pages * shape.page_tokens > kMaxLength - view.schedule.tile ||
      shape.max_pages * blocks_of(shape) * blocks_of(shape) > kMaxLength) {
    refuse(
        "{} pages of {} tokens are refused: tokens, and blocks of 16 of them times the blocks of a "
        "page, are 32-bit numbers; use smaller pages",
        shape.max_pages, shape.page_tokens);
  }
  const std::int64_t most = kMostSplits - view.spec.exact;
  if (shape.splits < 0 || shape.splits > most)
    refuse("splits is {}; there are 1 to {}, or 0 for as many as fill the device", shape.splits,
           most);
}

// A stride whose steps the kernel takes as a 32-bit number.
std::int32_t narrow_stride(const char* name, std::int64_t stride) {
  if (stride < 0 || stride > kMaxLength || stride % kStrideUnit != 0)
    refuse("strides.{} is {} bytes; it must be a multiple of {}, not negative, and less than 2^31",
           name, stride, kStrideUnit);
  return static_cast<std::int32_t>(stride);
}

std::int64_t reach(std::int64_t count, std::int64_t stride) {
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(count - 1, stride, &bytes) || bytes > std::int64_t{1} << 60)
    refuse("{} steps of {} bytes span more than 2^60 bytes", count - 1, stride);
  return bytes;
}

void check_exact(ArgumentCheck& check, const Kernel& kernel, const Spec& spec, const Shape& shape,
                 const ExactArguments& exact) {
  if (!spec.exact) {
    if (exact.pool != 0 || exact.table != 0) {
      refuse("exact tokens are given, and kernel {} has none; take one with exact=true",
             kernel.key());
    }
    return;
  }
  try {
    validate(exact.tokens);
  } catch (const SpecError& error) {
    refuse("exact.tokens: {}", error.what());
  }
  // What reciprocal_of() is exact for.
  const std::int64_t divisor =
      std::max(exact.tokens.unit / kKvBlockTokens, exact.tokens.ring_blocks());
  if (shape.max_pages * blocks_of(shape) * divisor > kMaxLength) {
    refuse(
        "exact.tokens with {} pages of {} tokens are refused: blocks of 16 tokens times those of a "
        "unit or of the ring, {}, are 32-bit numbers; use a smaller window",
        shape.max_pages, shape.page_tokens, divisor);
  }
  const int bytes = kv_block(exact_spec(spec)).bytes();
  narrow_stride("page of exact", exact.strides.page);
  if (exact.strides.head < 0 || exact.strides.head % kStrideUnit != 0 ||
      (shape.kv_heads > 1 && exact.strides.head < bytes)) {
    refuse("exact.strides.head is {} bytes; it must be a multiple of {}, and at least a block, {}",
           exact.strides.head, kStrideUnit, bytes);
  }
  if (exact.pool_blocks < 1 || exact.pool_blocks > kMaxLength)
    refuse("exact.pool_blocks is {}; there are 1 to {}", exact.pool_blocks, kMaxLength);
  if (exact.pool_blocks > 1 && exact.strides.page < bytes)
    refuse("exact.strides.page is {} bytes; it must be at least a block, {}", exact.strides.page,
           bytes);
  const std::int64_t span = reach(exact.pool_blocks, exact.strides.page) +
                            reach(shape.kv_heads, exact.strides.head) + bytes;
  check.array("exact.pool", exact.pool, static_cast<std::uint64_t>(span), kStrideUnit,
              Access::read);
  check.array("exact.table", exact.table,
              static_cast<std::uint64_t>(shape.batch * exact.tokens.blocks() * kI32), kI32,
              Access::read);
}

void check_pool(ArgumentCheck& check, const Spec& spec, const Shape& shape,
                const Arguments& arguments) {
  const KvStrides& strides = arguments.strides;
  narrow_stride("page", strides.page);
  narrow_stride("block", strides.block);
  if (strides.head < 0 || strides.head % kStrideUnit != 0)
    refuse("strides.head is {} bytes; it must be a multiple of {} and not negative", strides.head,
           kStrideUnit);
  const auto steps_over = [&](const char* name, std::int64_t count, std::int64_t stride) {
    if (count > 1 && stride < kv_block(spec).bytes())
      refuse("strides.{} is {} bytes; of {} it must be at least a block, {} bytes", name, stride,
             count, kv_block(spec).bytes());
  };
  steps_over("page", arguments.pool_pages, strides.page);
  steps_over("head", shape.kv_heads, strides.head);
  steps_over("block", blocks_of(shape), strides.block);
  if (arguments.pool_pages < 1 || arguments.pool_pages > kMaxLength)
    refuse("pool_pages is {}; a pool has 1 to {} pages", arguments.pool_pages, kMaxLength);
  const std::int64_t bytes = reach(arguments.pool_pages, strides.page) +
                             reach(shape.kv_heads, strides.head) +
                             reach(blocks_of(shape), strides.block) + kv_block(spec).bytes();
  check.array("pool", arguments.pool, static_cast<std::uint64_t>(bytes), kStrideUnit, Access::read);
}

// Queries are numbered by their positions, so that those of a call have no offset.
attention::ModCall mod_call(const Spec& spec, const Schedule& schedule, const Shape& shape) {
  return {.batch = shape.batch,
          .q_heads = shape.q_heads,
          .q_len = shape.q_len,
          .kv_len = shape.max_pages * shape.page_tokens,
          .offset = 0,
          .cta_q = spec.rows,
          .cta_k = schedule.tile,
          .group = group_of(shape)};
}

template <typename ModArguments>
void refuse_of_absent(const char* mod, const Kernel& kernel, const ModArguments& arguments) {
  if (arguments == ModArguments{}) return;
  refuse("arguments of {} are given, and kernel {} has no {}; take one with {}=true", mod,
         kernel.key(), mod, mod);
}

void check_mods(ArgumentCheck& check, const Kernel& kernel, const Spec& spec,
                const attention::ModCall& call, const Arguments& arguments) {
  const auto check_one = [&](const char* mod, const std::string& refusal,
                             const std::vector<attention::ModTensor>& tensors) {
    if (!refusal.empty()) refuse("{}: {}", mod, refusal);
    for (const attention::ModTensor& tensor : tensors)
      check.array(tensor.name, tensor.data, tensor.bytes, tensor.alignment, Access::read);
  };
#define SAGEGEN_DECODE_MOD(mod)                                        \
  if (spec.mod) {                                                      \
    check_one(#mod, attention::mod::refusal(arguments.mods.mod, call), \
              attention::mod::tensors(arguments.mods.mod, call));      \
  } else {                                                             \
    refuse_of_absent(#mod, kernel, arguments.mods.mod);                \
  }
#include "templates/decode/mods/mods.def"
}

void check_arguments(const Kernel& kernel, const Spec& spec, const attention::ModCall& call,
                     const Shape& shape, const Arguments& arguments, runtime::DevicePtr workspace,
                     std::size_t bytes, std::size_t needed) {
  ArgumentCheck check(kPlan);
  check.tensor("q", arguments.q, shape.batch, shape.q_heads, shape.q_len, spec.head_dim,
               Access::read);
  check_pool(check, spec, shape, arguments);
  check_exact(check, kernel, spec, shape, arguments.exact);
  const auto batch = static_cast<std::uint64_t>(shape.batch);
  check.array("page_table", arguments.page_table,
              batch * static_cast<std::uint64_t>(shape.max_pages * kI32), kI32, Access::read);
  check.array("lengths", arguments.lengths, batch * kI32, kI32, Access::read);
  if (arguments.q_lens != 0)
    check.array("q_lens", arguments.q_lens, batch * kI32, kI32, Access::read);
  if (spec.tree) {
    check.array("tree_masks", arguments.tree_masks,
                batch * static_cast<std::uint64_t>(shape.q_len * kI32), kI32, Access::read);
  } else if (arguments.tree_masks != 0) {
    refuse("tree_masks are given, and kernel {} has no tree; take one with tree=true",
           kernel.key());
  }
  check_mods(check, kernel, spec, call, arguments);
  check.tensor("o", arguments.o, shape.batch, shape.q_heads, shape.q_len, spec.head_dim,
               Access::write);
  if (arguments.lse != 0) {
    const std::int64_t rows =
        runtime::scratch_bytes(kPlan, {shape.batch, shape.q_heads, shape.q_len, kF32});
    check.array("lse", arguments.lse, static_cast<std::uint64_t>(rows), kF32, Access::write);
  }
  check.workspace(workspace, bytes, needed);
  check.overlaps();
  const float scale = arguments.softmax_scale;
  if (scale != 0 && !(scale >= 0x1p-60f && scale <= 0x1p20f)) {
    refuse("softmax_scale is {}; it must be 2^-60 to 2^20, or 0 for 1 / sqrt(head_dim)", scale);
  }
}

}  // namespace

struct Plan::Impl {
  Kernel kernel;
  Spec spec;
  Schedule schedule;
  runtime::LoadedSteps steps;
  std::int64_t blocks_at_a_time;  // of the device
};

Plan::Plan(const runtime::Device& device, const Kernel& kernel,
           const runtime::ArtifactSource& source)
    : impl_(new Impl{
          .kernel = kernel,
          .spec = kernel.view(family()).spec,
          .schedule = kernel.view(family()).schedule,
          .steps = runtime::LoadedSteps(device, {kernel}, kernel, source),
          .blocks_at_a_time = device.attribute(runtime::DeviceAttribute::multiprocessor_count) *
                              std::int64_t{2}}) {}
Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;

std::int64_t Plan::splits(const Shape& shape) const {
  check_shape(impl_->kernel, shape);
  if (shape.splits != 0) return shape.splits;
  const std::int64_t longest = shape.max_pages * shape.page_tokens;
  const std::int64_t wanted = ceil_div(impl_->blocks_at_a_time, row_tiles_of(impl_->spec, shape));
  return std::clamp<std::int64_t>(
      wanted, 1,
      std::min<std::int64_t>(kMostSplits - impl_->spec.exact,
                             std::max<std::int64_t>(longest / kLeastSplit, 1)));
}

std::size_t Plan::workspace_bytes(const Shape& shape) const {
  return static_cast<std::size_t>(
      Workspace(impl_->spec, shape, blocks_in_x(impl_->spec, splits(shape))).all);
}

void Plan::run(const Shape& shape, const Arguments& arguments, runtime::DevicePtr workspace,
               std::size_t workspace_bytes, runtime::StreamHandle stream) const {
  const Spec& spec = impl_->spec;
  const std::int64_t splits = blocks_in_x(spec, this->splits(shape));
  const Workspace placed(spec, shape, splits);
  const attention::ModCall call = mod_call(spec, impl_->schedule, shape);
  check_arguments(impl_->kernel, spec, call, shape, arguments, workspace, workspace_bytes,
                  static_cast<std::size_t>(placed.all));
  const auto narrow = [](std::int64_t number) { return static_cast<std::int32_t>(number); };
  const auto at = [&](std::int64_t offset) {
    return splits == 1 ? 0 : workspace + static_cast<runtime::DevicePtr>(offset);
  };
  const double scale = arguments.softmax_scale != 0
                           ? static_cast<double>(arguments.softmax_scale)
                           : 1 / std::sqrt(static_cast<double>(impl_->spec.head_dim));
  const std::int64_t row_tiles = row_tiles_of(spec, shape) / (shape.batch * shape.kv_heads);
  ParamPack params = impl_->steps.params(0);
  params.set(Params{.q = arguments.q.param(),
                    .o = arguments.o.param(),
                    .pool = arguments.pool,
                    .page_table = arguments.page_table,
                    .lengths = arguments.lengths,
                    .partials = at(placed.partials),
                    .partial_sums = at(placed.sums),
                    .tickets = at(placed.tickets),
                    .lse = arguments.lse,
                    .q_lens = arguments.q_lens,
                    .head_stride = arguments.strides.head,
                    .page_stride = narrow_stride("page", arguments.strides.page),
                    .block_stride = narrow_stride("block", arguments.strides.block),
                    .blocks_per_page = narrow(blocks_of(shape)),
                    .page_reciprocal = reciprocal_of(narrow(blocks_of(shape))),
                    .max_pages = narrow(shape.max_pages),
                    .q_len = narrow(shape.q_len),
                    .rows = narrow(rows_of(shape)),
                    .row_tiles = narrow(row_tiles),
                    .row_tile_reciprocal = reciprocal_of(narrow(row_tiles)),
                    .unit = static_cast<float>(scale * kLog2E)});
  params.set(PackParams::of(narrow(group_of(shape))));
  if (spec.tree) params.set(TreeParams{.masks = arguments.tree_masks});
  if (spec.exact) {
    const ExactArguments& exact = arguments.exact;
    const auto blocks = [&](std::int64_t tokens) { return narrow(tokens / kKvBlockTokens); };
    const std::int32_t unit = blocks(exact.tokens.unit), ring = narrow(exact.tokens.ring_blocks());
    params.set(ExactParams{.pool = exact.pool,
                           .table = exact.table,
                           .head_stride = exact.strides.head,
                           .block_stride = narrow_stride("page of exact", exact.strides.page),
                           .sinks = blocks(exact.tokens.sinks),
                           .window = blocks(exact.tokens.window),
                           .unit = unit,
                           .unit_reciprocal = reciprocal_of(unit),
                           .ring = ring,
                           .ring_reciprocal = reciprocal_of(ring)});
  }
#define SAGEGEN_DECODE_MOD(name) \
  if (spec.name) params.set(attention::name::params(arguments.mods.name, call));
#include "templates/decode/mods/mods.def"
  const runtime::Dim3 grid{.x = static_cast<unsigned>(splits),
                           .y = static_cast<unsigned>(shape.kv_heads * row_tiles),
                           .z = static_cast<unsigned>(shape.batch)};
  const runtime::Device& device = impl_->steps.device();
  runtime::Device::Scope scope(device);
  if (splits > 1) {
    runtime::check(device.api(),
                   device.api().fill_bytes(at(placed.tickets), 0,
                                           static_cast<std::size_t>(placed.ticket_bytes), stream),
                   "cuMemsetD8Async", "of the tickets of decode");
  }
  impl_->steps.launch_in_scope(0, grid, params, stream);
  scope.restore();
}

const Kernel& Plan::kernel() const { return impl_->kernel; }
std::vector<std::string> Plan::kernel_names() const { return impl_->steps.entries(); }
const std::string& Plan::note() const { return impl_->steps.note(); }

Target best_target(const runtime::Device& device) {
  return target_on(
      runtime::best_target(device),
      device.attribute(runtime::DeviceAttribute::max_shared_memory_per_multiprocessor));
}

}  // namespace sagegen::decode
