// Arrays of the caller, by DLPack or the buffer protocol, as addresses and strides.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sagegen::python {

// Keeps the caller's memory alive, and gives it back, through DLPack's deleter, with the object.
class Tensor {
 public:
  // array: whatever speaks DLPack, old or versioned capsules and the buffer protocol included. dtype: in place of what
  // DLPack says, of as many bits; empty: that. Throws ArgumentError that begins with `name`: of something else, of a
  // read-only array where `writable` asks for more, and of negative strides.
  Tensor(const nanobind::object& array, std::string name, bool writable, std::string dtype);

  const std::string& name() const { return name_; }
  const std::string& dtype() const { return dtype_; }  // "f16", "bf16", "f32", "i32", "bool", ...
  std::uint64_t address() const { return reinterpret_cast<std::uintptr_t>(array_.data()); }
  std::size_t item_bytes() const { return array_.itemsize(); }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  const std::vector<std::int64_t>& strides() const { return strides_; }  // elements
  std::string device() const;                                            // "cpu", "cuda:0"
  bool writable() const { return writable_; }

  // Bytes of the elements one after the other, rows of the last axis padded with zeros to `channels` elements; 0: as they
  // are. Memory of the host only: throws ArgumentError.
  std::vector<std::byte> packed(std::int64_t channels) const;
  // The reverse; what is padding in `from` is dropped.
  void unpack(std::span<const std::byte> from, std::int64_t channels) const;

 private:
  void need_host(const char* what) const;

  std::string name_, dtype_;
  bool writable_;
  nanobind::ndarray<nanobind::ro> array_;
  std::vector<std::int64_t> shape_, strides_;
};

void bind_tensor(nanobind::module_& module);

}  // namespace sagegen::python
