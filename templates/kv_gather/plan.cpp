#include "templates/kv_gather/plan.h"

#include <utility>

#include <fmt/format.h>

#include "sagegen/runtime/argument_check.h"
#include "templates/kv_gather/params.h"
#include "templates/shared/params.h"
#include "templates/shared/plan_pool.h"

namespace sagegen::kv_gather {

using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::ceil_div;
using runtime::kMaxGridYZ;
using runtime::kMaxLength;
using Access = ArgumentCheck::Access;

namespace {

constexpr const char* kPlan = "kv_gather";
constexpr std::int64_t kF32 = 4, kI32 = 4, kUnit = 16;

template <typename... Values>
[[noreturn]] void refuse(fmt::format_string<Values...> format, Values&&... values) {
  throw ArgumentError(
      fmt::format("{}: {}", kPlan, fmt::format(format, std::forward<Values>(values)...)));
}

std::int64_t blocks_of(const Shape& shape) { return shape.page_tokens / kKvBlockTokens; }

void check_shape(const Spec& spec, const Shape& shape) {
  runtime::check_sizes(
      kPlan,
      {{"batch", shape.batch, kMaxGridYZ, "a grid has no more blocks in z; split the batch"},
       {"kv_heads", shape.kv_heads, kMaxGridYZ, "a grid has no more blocks in y; split the heads"},
       {"rows", shape.rows, kMaxLength, "rows are counted by 32-bit numbers"},
       {"longest", shape.longest, kMaxLength - kKvBlockTokens * kWarps,
        "tokens are counted by 32-bit numbers"},
       {"page_tokens", shape.page_tokens, 1 << 16, "so many tokens has a page at most"},
       {"max_pages", shape.max_pages, kMaxLength, "pages are counted by 32-bit numbers"}});
  if (shape.page_tokens % kKvBlockTokens != 0) {
    refuse("page_tokens is {}; pages have whole blocks of {} tokens", shape.page_tokens,
           kKvBlockTokens);
  }
  if (shape.page_tokens % kv_page_unit(spec.k_codes) != 0) {
    refuse(
        "page_tokens is {}; pages of a kernel with k_codes channel have whole groups of {} tokens",
        shape.page_tokens, kKvGroupTokens);
  }
}

void check_arguments(const Spec& spec, const Shape& shape, const Arguments& a) {
  if (spec.smooth_k && a.k_mean == 0)
    refuse("k_mean is a null pointer; a kernel with smooth_k needs it");
  if (!spec.smooth_k && a.k_mean != 0)
    refuse("k_mean is given, and the kernel has no smooth_k; leave it out, or take one that has");
  if (a.pool_pages < 1 || a.pool_pages > kMaxLength)
    refuse("pool_pages is {}; a pool has 1 to {} pages", a.pool_pages, kMaxLength);
  ArgumentCheck check(kPlan);
  check.array("pool", a.pool,
              pool_span(kPlan, block_of(spec).bytes(),
                        {a.pool_pages, shape.kv_heads, blocks_of(shape)}, a.strides),
              kUnit, Access::read);
  const std::int64_t entries = runtime::scratch_bytes(kPlan, {shape.batch, shape.max_pages, kI32});
  check.array("page_table", a.page_table, static_cast<std::uint64_t>(entries), kI32, Access::read);
  check.array("indptr", a.indptr, static_cast<std::uint64_t>((shape.batch + 1) * kI32), kI32,
              Access::read);
  if (a.lengths != 0) {
    check.array("lengths", a.lengths, static_cast<std::uint64_t>(shape.batch * kI32), kI32,
                Access::read);
  }
  check.tensor("k", a.k, 1, shape.kv_heads, shape.rows, spec.head_dim, Access::write);
  check.tensor("v", a.v, 1, shape.kv_heads, shape.rows, spec.head_dim, Access::write);
  if (spec.smooth_k) {
    const auto bytes = static_cast<std::uint64_t>(shape.kv_heads * spec.head_dim * kF32);
    check.array("k_mean", a.k_mean, bytes, kUnit, Access::read);
  }
  check.overlaps();
}

}  // namespace

struct Plan::Impl {
  Kernel kernel;
  Spec spec;
  runtime::LoadedSteps steps;
};

Plan::Plan(const runtime::Device& device, const Kernel& kernel,
           const runtime::ArtifactSource& source)
    : impl_(new Impl{.kernel = kernel,
                     .spec = kernel.view(family()).spec,
                     .steps = runtime::LoadedSteps(device, {kernel}, kernel, source)}) {}
Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;

void Plan::run(const Shape& shape, const Arguments& a, runtime::StreamHandle stream) const {
  const Spec& spec = impl_->spec;
  check_shape(spec, shape);
  check_arguments(spec, shape, a);
  const auto narrow = [](std::int64_t number) { return static_cast<std::int32_t>(number); };
  const PackParams page = PackParams::of(narrow(blocks_of(shape)));
  ParamPack params = impl_->steps.params(0);
  params.set(Params{.k = a.k.data,
                    .v = a.v.data,
                    .k_stride_token = a.k.stride_token,
                    .k_stride_head = a.k.stride_head,
                    .v_stride_token = a.v.stride_token,
                    .v_stride_head = a.v.stride_head,
                    .pool = a.pool,
                    .stride_page = a.strides.page,
                    .stride_head = a.strides.head,
                    .stride_block = a.strides.block,
                    .page_table = a.page_table,
                    .indptr = a.indptr,
                    .lengths = a.lengths,
                    .rows = narrow(shape.rows),
                    .longest = narrow(shape.longest),
                    .max_pages = narrow(shape.max_pages),
                    .blocks_per_page = narrow(blocks_of(shape)),
                    .page_reciprocal = page.reciprocal,
                    .page_shift = page.shift});
  if (spec.smooth_k) params.set(MeanParams{.mean = a.k_mean});
  impl_->steps.launch(
      0,
      {.x = static_cast<unsigned>(ceil_div(ceil_div(shape.longest, kKvBlockTokens), kWarps)),
       .y = static_cast<unsigned>(shape.kv_heads),
       .z = static_cast<unsigned>(shape.batch)},
      params, stream);
}

const Kernel& Plan::kernel() const { return impl_->kernel; }
std::vector<std::string> Plan::kernel_names() const { return impl_->steps.entries(); }
const std::string& Plan::note() const { return impl_->steps.note(); }

}  // namespace sagegen::kv_gather
