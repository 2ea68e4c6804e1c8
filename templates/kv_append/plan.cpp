#include "templates/kv_append/plan.h"

#include <utility>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "sagegen/runtime/argument_check.h"
#include "templates/kv_append/params.h"
#include "templates/shared/params.h"
#include "templates/shared/plan_pool.h"

namespace sagegen::kv_append {

using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::ceil_div;
using runtime::DevicePtr;
using runtime::kMaxLength;
using Access = ArgumentCheck::Access;

namespace {

constexpr const char* kPlan = "kv_append";
constexpr std::int64_t kF32 = 4, kI32 = 4, kI64 = 8;
constexpr std::int64_t kUnit = 16;  // bytes: what readers of the cache read at once

template <typename... Arguments>
[[noreturn]] void refuse(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw ArgumentError(
      fmt::format("{}: {}", kPlan, fmt::format(format, std::forward<Arguments>(arguments)...)));
}

std::int32_t narrow(std::int64_t number) { return static_cast<std::int32_t>(number); }

KvFormat format_of(const Spec& spec, const Pool& pool) {
  return {.head_dim = spec.head_dim,
          .io = spec.io,
          .k_bits = spec.k_bits,
          .v_bits = spec.v_bits,
          .k_codes = spec.k_codes,
          .v_codes = spec.v_codes,
          .page_tokens = pool.page_tokens,
          .layout = pool.layout};
}

bool is_contiguous(const KvStrides& s) { return s.page == 0 && s.head == 0 && s.block == 0; }

KvStrides strides_of(const Spec& spec, const Shape& shape, const Pool& pool) {
  return is_contiguous(pool.strides)
             ? kv_strides(format_of(spec, pool), static_cast<int>(shape.kv_heads))
             : pool.strides;
}

std::int64_t rotary_of(const Spec& spec, const Embedding& rope) {
  return rope.rotary == 0 ? spec.head_dim : rope.rotary;
}
std::int64_t table_stride(const Spec& spec, const Embedding& rope) {
  return rope.stride == 0 ? rotary_of(spec, rope) / 2 : rope.stride;
}

void check_shape(const Spec& spec, const Shape& shape, const Pool& pool) {
  try {
    validate(format_of(spec, pool));
  } catch (const SpecError& error) {
    refuse("pool.{}", error.what());
  }
  runtime::check_sizes(
      kPlan, {{"tokens", shape.tokens, kMaxLength, "rows are counted by 32-bit numbers"},
              {"kv_heads", shape.kv_heads, kMaxLength, "rows are counted by 32-bit numbers"},
              {"pool.pages", pool.pages, kMaxLength / pool.page_tokens,
               "places of tokens are 32-bit numbers"}});
  if (shape.tokens * shape.kv_heads > kMaxLength - rows_of_block(spec)) {
    refuse("{} tokens of {} heads are too many rows for 32-bit numbers; split the tokens",
           shape.tokens, shape.kv_heads);
  }
}

std::uint64_t span_of(const Spec& spec, const Shape& shape, const Pool& pool) {
  return pool_span(kPlan, block_of(spec).bytes(),
                   {pool.pages, shape.kv_heads, pool.page_tokens / kKvBlockTokens},
                   strides_of(spec, shape, pool));
}

KvStrides exact_strides(const Spec& spec, const Shape& shape, const ExactPool& exact) {
  if (!is_contiguous(exact.strides)) return exact.strides;
  return kv_strides(kv_exact_format({.head_dim = spec.head_dim, .io = spec.io}),
                    static_cast<int>(shape.kv_heads));
}

void check_exact(ArgumentCheck& check, const Spec& spec, const Shape& shape,
                 const ExactPool& exact) {
  runtime::check_sizes(kPlan, {{"exact.blocks", exact.blocks, kMaxLength / kKvBlockTokens,
                                "places of tokens are 32-bit numbers"}});
  const std::uint64_t bytes =
      pool_span("kv_append: exact", exact_block_of(spec).bytes(), {exact.blocks, shape.kv_heads, 1},
                exact_strides(spec, shape, exact));
  check.array("exact.slots", exact.slots, static_cast<std::uint64_t>(shape.tokens * kI64), kI64,
              Access::read);
  check.array("exact.data", exact.data, bytes, kUnit, Access::write);
}

ExactParams exact_params(const Spec& spec, const Shape& shape, const ExactPool& exact) {
  const KvStrides strides = exact_strides(spec, shape, exact);
  return {.pool = exact.data,
          .slots = exact.slots,
          .stride_block = strides.page,
          .stride_head = strides.head,
          .slot_count = exact.blocks * kKvBlockTokens};
}

// Of an argument that only some kernels take.
void check_given(bool takes, bool given, const char* name, std::string_view option) {
  if (takes && !given) refuse("{} is a null pointer; a kernel with {} needs it", name, option);
  if (!takes && given)
    refuse("{} is given, and the kernel has no {}; leave it out, or take one that has", name,
           option);
}

void check_slots(ArgumentCheck& check, const Shape& shape, const Arguments& a) {
  check.array("slots", a.slots, static_cast<std::uint64_t>(shape.tokens * kI64), kI64,
              Access::read);
}

void check_pages(ArgumentCheck& check, const Pages& pages) {
  runtime::check_sizes(kPlan, {{"pages.sequences", pages.sequences, kMaxLength - 1,
                                "sequences are counted by 32-bit numbers"},
                               {"pages.page_entries", pages.page_entries, kMaxLength,
                                "pages of sequences are counted by 32-bit numbers"}});
  const auto array = [&](const char* name, DevicePtr data, std::int64_t count) {
    check.array(name, data, static_cast<std::uint64_t>(count * kI32), kI32, Access::read);
  };
  array("pages.append_indptr", pages.append_indptr, pages.sequences + 1);
  array("pages.page_indptr", pages.page_indptr, pages.sequences + 1);
  array("pages.page_indices", pages.page_indices, pages.page_entries);
  array("pages.last_page_len", pages.last_page_len, pages.sequences);
}

void check_rope(ArgumentCheck& check, const Spec& spec, const Shape& shape, const Embedding& rope) {
  const std::int64_t rotary = rotary_of(spec, rope), stride = table_stride(spec, rope);
  const int step = rotary_step(spec.head_dim);
  if (rotary < 1 || rotary > spec.head_dim || rotary % step != 0) {
    refuse("rope.rotary is {}{}; it must be a multiple of {}, at most {}", rotary,
           rope.rotary == 0 ? ", the head" : "", step, spec.head_dim);
  }
  runtime::check_sizes(kPlan,
                       {{"rope.table_rows", rope.table_rows, kMaxLength, "it is a 32-bit number"}});
  if (stride < rotary / 2 || stride % 4 != 0) {
    refuse(
        "rope.stride is {} elements; rows of {} that are read 16 bytes at a time need a multiple "
        "of 4 that is no less",
        stride, rotary / 2);
  }
  std::int64_t elements = 0;
  if (__builtin_mul_overflow(rope.table_rows - 1, stride, &elements) ||
      elements > kMaxLength * kMaxLength / kF32)
    refuse("rope.stride of {} elements for {} rows spans more than 2^60 elements", stride,
           rope.table_rows);
  const auto bytes = static_cast<std::uint64_t>((elements + rotary / 2) * kF32);
  check.array("rope.cos", rope.cos, bytes, kUnit, Access::read);
  check.array("rope.sin", rope.sin, bytes, kUnit, Access::read);
  check.array("rope.positions", rope.positions, static_cast<std::uint64_t>(shape.tokens * kI64),
              kI64, Access::read);
}

void check_arguments(const Spec& spec, const Shape& shape, const Arguments& a) {
  const bool slots = spec.addressing == Addressing::slots, rope = spec.rope != Rope::none;
  check_given(slots, a.slots != 0, "slots", "addressing slots");
  check_given(!slots, a.pages.append_indptr != 0, "pages.append_indptr", "addressing pages");
  check_given(rope, a.rope.positions != 0, "rope.positions", "rope");
  check_given(spec.smooth_k, a.k_mean != 0, "k_mean", "smooth_k");
  check_given(spec.exact, a.exact.slots != 0, "exact.slots", "exact");

  ArgumentCheck check(kPlan);
  const runtime::ElementRule elements{.bytes = 2, .step = elements_at_once(spec.head_dim)};
  check.tensor("k", a.k, 1, shape.kv_heads, shape.tokens, spec.head_dim, Access::read, elements);
  check.tensor("v", a.v, 1, shape.kv_heads, shape.tokens, spec.head_dim, Access::read, elements);
  if (slots)
    check_slots(check, shape, a);
  else
    check_pages(check, a.pages);
  if (rope) check_rope(check, spec, shape, a.rope);
  if (spec.smooth_k) {
    const auto bytes = static_cast<std::uint64_t>(shape.kv_heads * spec.head_dim * kF32);
    check.array("k_mean", a.k_mean, bytes, kUnit, Access::read);
  }
  check.array("pool", a.pool.data, span_of(spec, shape, a.pool), kUnit, Access::write);
  if (spec.exact) check_exact(check, spec, shape, a.exact);
  check.overlaps();
}

Params params_of(const Spec& spec, const Shape& shape, const Arguments& a) {
  const KvStrides strides = strides_of(spec, shape, a.pool);
  const PackParams heads = PackParams::of(narrow(shape.kv_heads)),
                   page = PackParams::of(a.pool.page_tokens);
  return {.k = a.k.data,
          .v = a.v.data,
          .k_stride_token = a.k.stride_token,
          .k_stride_head = a.k.stride_head,
          .v_stride_token = a.v.stride_token,
          .v_stride_head = a.v.stride_head,
          .pool = a.pool.data,
          .stride_page = strides.page,
          .stride_head = strides.head,
          .stride_block = strides.block,
          .rows = narrow(shape.tokens * shape.kv_heads),
          .heads = narrow(shape.kv_heads),
          .heads_reciprocal = heads.reciprocal,
          .heads_shift = heads.shift,
          .page_tokens = a.pool.page_tokens,
          .page_reciprocal = page.reciprocal,
          .page_shift = page.shift,
          .pages = narrow(a.pool.pages)};
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
  if (shape.tokens == 0) return;
  check_shape(spec, shape, a.pool);
  check_arguments(spec, shape, a);
  ParamPack params = impl_->steps.params(0);
  params.set(params_of(spec, shape, a));
  if (spec.addressing == Addressing::slots) {
    params.set(SlotParams{.slots = a.slots, .slot_count = a.pool.pages * a.pool.page_tokens});
  } else {
    params.set(PageParams{.append_indptr = a.pages.append_indptr,
                          .page_indptr = a.pages.page_indptr,
                          .page_indices = a.pages.page_indices,
                          .last_page_len = a.pages.last_page_len,
                          .page_entries = a.pages.page_entries,
                          .sequences = narrow(a.pages.sequences)});
  }
  if (spec.rope != Rope::none) {
    params.set(RopeParams{.positions = a.rope.positions,
                          .cos = a.rope.cos,
                          .sin = a.rope.sin,
                          .stride = table_stride(spec, a.rope),
                          .table_rows = narrow(a.rope.table_rows),
                          .rotary = narrow(rotary_of(spec, a.rope))});
  }
  if (spec.smooth_k) params.set(MeanParams{.mean = a.k_mean});
  if (spec.exact) params.set(exact_params(spec, shape, a.exact));
  const std::int64_t blocks = ceil_div(shape.tokens * shape.kv_heads, rows_of_block(spec));
  impl_->steps.launch(0, {.x = static_cast<unsigned>(blocks), .y = 1, .z = 1}, params, stream);
}

const Kernel& Plan::kernel() const { return impl_->kernel; }
std::vector<std::string> Plan::kernel_names() const { return impl_->steps.entries(); }
const std::string& Plan::note() const { return impl_->steps.note(); }

}  // namespace sagegen::kv_append
