#include "templates/merge_partials/plan.h"

#include <fmt/format.h>

#include <utility>

#include "sagegen/runtime/argument_check.h"
#include "templates/merge_partials/params.h"

namespace sagegen::merge_partials {

using runtime::ArgumentCheck;
using runtime::ArgumentError;
using runtime::ceil_div;
using runtime::ElementRule;
using runtime::kMaxGridYZ;
using runtime::kMaxLength;
using Access = ArgumentCheck::Access;

namespace {

constexpr const char* kPlan = "merge";
constexpr std::int64_t kF32 = sizeof(float);

ElementRule elements_of(DType type) {
  return type == DType::f32 ? ElementRule{.bytes = 4, .step = 4} : ElementRule{};
}

constexpr std::int64_t kMostElements = std::int64_t{1} << 60;  // whose bytes are within 63 bits

// Of heads and lengths within check_sizes(): less than 2^63.
std::int64_t rows_of(const Shape& shape) { return shape.batch * shape.heads * shape.q_len; }

std::int64_t lse_stride(const Shape& shape, const Arguments& arguments) {
  return arguments.part_lse_stride == 0 ? rows_of(shape) : arguments.part_lse_stride;
}

void check_shape(const Shape& shape) {
  runtime::check_sizes(
      kPlan, {{"parts", shape.parts, kMaxLength, "parts are counted by 32-bit numbers"},
              {"batch", shape.batch, kMaxGridYZ, "a grid has no more blocks in z; split the batch"},
              {"heads", shape.heads, kMaxGridYZ, "a grid has no more blocks in y; split the heads"},
              {"q_len", shape.q_len, kMaxLength - kThreads, "lengths are 32-bit numbers"},
              {"channels", shape.channels, kMostChannels, "all lanes of a row are in one block"}});
  if (shape.batch * shape.heads > kMaxLength || rows_of(shape) > kMostElements) {
    throw ArgumentError(
        fmt::format("{} shape: {} batches of {} heads with {} rows are too many for its indices; "
                    "split the batch",
                    kPlan, shape.batch, shape.heads, shape.q_len));
  }
  if (shape.channels % kLaneChannels != 0) {
    throw ArgumentError(
        fmt::format("{} shape: channels is {}; it must be a multiple of {}: pad the "
                    "rows with zeros",
                    kPlan, shape.channels, kLaneChannels));
  }
}

// (size - 1) * stride, added to `to`. Throws beyond kMostElements.
void add_reach(std::int64_t& to, const char* name, std::int64_t size, std::int64_t stride) {
  if (size == 1) return;
  if (stride < 0)
    throw ArgumentError(
        fmt::format("{}: {} is {}; strides cannot be negative", kPlan, name, stride));
  std::int64_t reach = 0;
  if (!__builtin_mul_overflow(size - 1, stride, &reach) &&
      !__builtin_add_overflow(to, reach, &to) && to <= kMostElements)
    return;
  throw ArgumentError(
      fmt::format("{}: {} of {} elements for {} steps spans more than 2^60 elements", kPlan, name,
                  stride, size));
}

// Elements from the first to one past the last.
std::int64_t span(const Shape& shape, const char* names[3], const runtime::TensorView& view) {
  std::int64_t elements = shape.channels;
  add_reach(elements, names[0], shape.batch, view.stride_batch);
  add_reach(elements, names[1], shape.heads, view.stride_head);
  add_reach(elements, names[2], shape.q_len, view.stride_token);
  return elements;
}

void check_parts(ArgumentCheck& check, const Shape& shape, const Arguments& arguments,
                 const ElementRule& elements) {
  const char* names[] = {"parts.stride_batch", "parts.stride_head", "parts.stride_token"};
  std::int64_t all = span(shape, names, arguments.parts);
  check.tensor("parts", arguments.parts, shape.batch, shape.heads, shape.q_len,
               static_cast<int>(shape.channels), Access::read, elements);
  add_reach(all, "part_stride", shape.parts, arguments.part_stride);
  if (shape.parts > 1 && arguments.part_stride % elements.step != 0) {
    throw ArgumentError(
        fmt::format("{}: part_stride is {} elements; it must be a multiple of {} ({} bytes)", kPlan,
                    arguments.part_stride, elements.step, elements.step * elements.bytes));
  }
  check.array("parts", arguments.parts.data, static_cast<std::uint64_t>(all * elements.bytes), kF32,
              Access::read);
}

void check_arguments(const Spec& spec, const Shape& shape, const Arguments& arguments) {
  ArgumentCheck check(kPlan);
  check_parts(check, shape, arguments, elements_of(stored_type(spec, spec.parts)));
  const std::int64_t rows = rows_of(shape);
  std::int64_t lse = rows;
  add_reach(lse, "part_lse_stride", shape.parts, lse_stride(shape, arguments));
  check.array("part_lse", arguments.part_lse, static_cast<std::uint64_t>(lse * kF32), kF32,
              Access::read);
  const char* names[] = {"o.stride_batch", "o.stride_head", "o.stride_token"};
  span(shape, names, arguments.o);
  check.tensor("o", arguments.o, shape.batch, shape.heads, shape.q_len,
               static_cast<int>(shape.channels), Access::write,
               elements_of(stored_type(spec, spec.out)));
  if (arguments.lse != 0) {
    check.array("lse", arguments.lse, static_cast<std::uint64_t>(rows * kF32), kF32, Access::write);
  } else if (arguments.go_on) {
    throw ArgumentError(fmt::format(
        "{}: go_on is set, and lse is a null pointer; a result that is merged with others has its "
        "log-sum-exp: give it, from the first call on",
        kPlan));
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

void Plan::run(const Shape& shape, const Arguments& arguments, runtime::StreamHandle stream) const {
  check_shape(shape);
  check_arguments(impl_->spec, shape, arguments);
  const auto narrow = [](std::int64_t number) { return static_cast<std::int32_t>(number); };
  const std::int64_t lanes = shape.channels / kLaneChannels, rows = kThreads / lanes;
  ParamPack params = impl_->steps.params(0);
  params.set(Params{.parts = arguments.parts.param(),
                    .part_stride = arguments.part_stride,
                    .part_lse = arguments.part_lse,
                    .part_lse_stride = lse_stride(shape, arguments),
                    .o = arguments.o.param(),
                    .lse = arguments.lse,
                    .part_count = narrow(shape.parts),
                    .q_len = narrow(shape.q_len),
                    .lanes = narrow(lanes),
                    .rows = narrow(rows),
                    .go_on = arguments.go_on ? 1 : 0});
  const runtime::Dim3 grid{.x = static_cast<unsigned>(ceil_div(shape.q_len, rows)),
                           .y = static_cast<unsigned>(shape.heads),
                           .z = static_cast<unsigned>(shape.batch)};
  impl_->steps.launch(0, grid, params, stream);
}

const Kernel& Plan::kernel() const { return impl_->kernel; }
std::vector<std::string> Plan::kernel_names() const { return impl_->steps.entries(); }
const std::string& Plan::note() const { return impl_->steps.note(); }

}  // namespace sagegen::merge_partials
