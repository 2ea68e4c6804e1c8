#include "runtime/python/src/tensor.h"

#include <fmt/format.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "sagegen/runtime/error.h"

namespace nb = nanobind;

namespace sagegen::python {
namespace {

std::string name_of(nb::dlpack::dtype dtype) {
  using Code = nb::dlpack::dtype_code;
  if (dtype.lanes != 1) return "vectors";
  switch (static_cast<Code>(dtype.code)) {
    case Code::Int:
      return fmt::format("i{}", dtype.bits);
    case Code::UInt:
      return fmt::format("u{}", dtype.bits);
    case Code::Float:
      return fmt::format("f{}", dtype.bits);
    case Code::Bfloat:
      return fmt::format("bf{}", dtype.bits);
    case Code::Complex:
      return fmt::format("complex{}", dtype.bits);
    case Code::Bool:
      return "bool";
    case Code::Float8_E4M3FN:
      return "e4m3";
    default:
      return fmt::format("DLPack type {} of {} bits", dtype.code, dtype.bits);
  }
}

nb::ndarray<nb::ro> import(const nb::object& array, const std::string& name, bool writable) {
  nb::ndarray<nb::ro> imported;
  if (writable) {
    nb::ndarray<> mutable_array;
    if (nb::try_cast(array, mutable_array)) return nb::ndarray<nb::ro>(mutable_array);
    if (nb::try_cast(array, imported))
      throw runtime::ArgumentError(fmt::format(
          "{} is read-only, and is written to; give an array that may be written", name));
  } else if (nb::try_cast(array, imported)) {
    return imported;
  }
  throw runtime::ArgumentError(
      fmt::format("{} is a {}, which speaks neither DLPack nor the buffer protocol; give an array "
                  "of NumPy, PyTorch, "
                  "CuPy, JAX or the like",
                  name, nb::cast<std::string>(nb::str(nb::type_name(array.type())))));
}

// Calls visit(offset in elements) for each row of the last axis.
template <typename Visit>
void for_each_row(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides,
                  const Visit& visit) {
  for (const std::int64_t size : shape) {
    if (size == 0) return;
  }
  const std::size_t outer = shape.empty() ? 0 : shape.size() - 1;
  std::vector<std::int64_t> index(outer, 0);
  std::int64_t offset = 0;
  while (true) {
    visit(offset);
    std::size_t axis = outer;
    while (axis > 0) {
      --axis;
      offset += strides[axis];
      if (++index[axis] < shape[axis]) break;
      offset -= strides[axis] * shape[axis];
      index[axis] = 0;
      if (axis == 0) return;
    }
    if (outer == 0) return;
  }
}

std::int64_t product(const std::vector<std::int64_t>& shape, std::size_t axes) {
  std::int64_t result = 1;
  for (std::size_t i = 0; i < axes; ++i) result *= shape[i];
  return result;
}

}  // namespace

Tensor::Tensor(const nb::object& array, std::string name, bool writable, std::string dtype)
    : name_(std::move(name)), writable_(writable), array_(import(array, name_, writable)) {
  const std::string own = name_of(array_.dtype());
  dtype_ = dtype.empty() ? own : std::move(dtype);
  for (std::size_t i = 0; i < array_.ndim(); ++i) {
    shape_.push_back(static_cast<std::int64_t>(array_.shape(i)));
    strides_.push_back(array_.stride(i));
    if (array_.size() != 0 && shape_.back() > 1 && strides_.back() < 0) {
      throw runtime::ArgumentError(
          fmt::format("{}: the stride of axis {} is {}; strides are not negative: give a copy",
                      name_, i, strides_.back()));
    }
    if (writable && array_.size() != 0 && shape_.back() > 1 && strides_.back() == 0) {
      throw runtime::ArgumentError(fmt::format(
          "{}: the stride of axis {} is 0, so that elements of what is written overlap", name_, i));
    }
  }
}

std::string Tensor::device() const {
  const int type = array_.device_type();
  if (type == nb::device::cpu::value) return "cpu";
  if (type == nb::device::cuda::value) return fmt::format("cuda:{}", array_.device_id());
  return fmt::format("DLPack device {}:{}", type, array_.device_id());
}

void Tensor::need_host(const char* what) const {
  if (array_.device_type() == nb::device::cpu::value) return;
  throw runtime::ArgumentError(
      fmt::format("{} is on {}, and is {} by the host", name_, device(), what));
}

std::vector<std::byte> Tensor::packed(std::int64_t channels) const {
  need_host("read");
  const std::size_t item = item_bytes();
  const std::int64_t row = shape_.empty() ? 1 : shape_.back(),
                     step = shape_.empty() ? 1 : strides_.back();
  const std::int64_t padded = channels == 0 ? row : channels;
  const std::int64_t rows = shape_.empty() ? 1 : product(shape_, shape_.size() - 1);
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows * padded) * item);
  const auto* from = static_cast<const std::byte*>(array_.data());
  std::byte* to = bytes.data();
  for_each_row(shape_, strides_, [&](std::int64_t offset) {
    const std::byte* source = from + offset * static_cast<std::int64_t>(item);
    if (step == 1 || row == 1) {
      std::memcpy(to, source, static_cast<std::size_t>(row) * item);
    } else {
      for (std::int64_t c = 0; c < row; ++c)
        std::memcpy(to + static_cast<std::size_t>(c) * item,
                    source + c * step * static_cast<std::int64_t>(item), item);
    }
    to += static_cast<std::size_t>(padded) * item;
  });
  return bytes;
}

void Tensor::unpack(std::span<const std::byte> from, std::int64_t channels) const {
  need_host("written");
  const std::size_t item = item_bytes();
  const std::int64_t row = shape_.empty() ? 1 : shape_.back(),
                     step = shape_.empty() ? 1 : strides_.back();
  const std::int64_t padded = channels == 0 ? row : channels;
  const std::int64_t rows = shape_.empty() ? 1 : product(shape_, shape_.size() - 1);
  if (!writable_)
    throw InternalError(fmt::format("{} is written to, and was not asked for as writable", name_));
  if (from.size() != static_cast<std::size_t>(rows * padded) * item)
    throw InternalError(fmt::format("{} is given {} bytes", name_, from.size()));
  auto* to =
      static_cast<std::byte*>(const_cast<void*>(array_.data()));  // writable: asked for as such
  const std::byte* source = from.data();
  for_each_row(shape_, strides_, [&](std::int64_t offset) {
    std::byte* target = to + offset * static_cast<std::int64_t>(item);
    for (std::int64_t c = 0; c < (step == 1 ? 1 : row); ++c) {
      std::memcpy(target + c * step * static_cast<std::int64_t>(item),
                  source + static_cast<std::size_t>(c) * item,
                  (step == 1 ? static_cast<std::size_t>(row) : 1) * item);
    }
    source += static_cast<std::size_t>(padded) * item;
  });
}

void bind_tensor(nb::module_& module) {
  const auto tuple_of = [](const std::vector<std::int64_t>& numbers) {
    nb::list list;
    for (const std::int64_t number : numbers) list.append(number);
    return nb::tuple(list);
  };
  nb::class_<Tensor>(module, "Tensor",
                     "An array of the caller's, as an address and strides; keeps its memory alive.")
      .def(nb::init<const nb::object&, std::string, bool, std::string>(), nb::arg("array").none(),
           nb::arg("name"), nb::arg("writable") = false, nb::arg("dtype") = "")
      .def_prop_ro("name", &Tensor::name)
      .def_prop_ro("dtype", &Tensor::dtype)
      .def_prop_ro("address", &Tensor::address)
      .def_prop_ro(
          "shape", [tuple_of](const Tensor& tensor) { return tuple_of(tensor.shape()); },
          nb::sig("def shape(self) -> tuple[int, ...]"))
      .def_prop_ro(
          "strides", [tuple_of](const Tensor& tensor) { return tuple_of(tensor.strides()); },
          nb::sig("def strides(self) -> tuple[int, ...]"), "In elements.")
      .def_prop_ro("item_bytes", &Tensor::item_bytes)
      .def_prop_ro("device", &Tensor::device);
}

}  // namespace sagegen::python
