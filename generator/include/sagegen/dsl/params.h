// How a kernel reads its launch arguments: one struct by value, whose fields become DSL values, or an
// ordinary list.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "sagegen/dsl/value.h"

namespace sagegen::dsl {

// One parameter of a list. address: of the device, 8 bytes.
enum class Param { i32, i64, f32, address };

// T at a byte of the parameter struct: I32, I64, F32 or GlobalPtr.
template <typename T>
T read_param(KernelBuilder& k, std::size_t offset, SourceLoc loc);

// Typed reader of the kernel's by-value parameter struct.
template <typename Params>
class ParamReader {
 public:
  // Field -> DSL value: std::int32_t -> I32, float -> F32, std::int64_t -> I64, std::uint64_t (a device
  // address) -> GlobalPtr. A struct inside the struct is read field by field: p(&Params::o, &Tensor::data).
  // A field is loaded once, at the kernel's entry, however often it is read.
  template <typename Field>
  auto operator()(Field Params::*member, SourceLoc loc = SourceLoc::here()) const {
    return read<Field>(offset_of(member), loc);
  }
  template <typename Struct, typename Field>
  auto operator()(Struct Params::*member, Field Struct::*inner,
                  SourceLoc loc = SourceLoc::here()) const {
    return read<Field>(offset_of(member) + offset_of(inner), loc);
  }

 private:
  friend class KernelBuilder;
  ParamReader(KernelBuilder* k, std::size_t first_byte) : k_(k), first_byte_(first_byte) {}

  // A pointer to a data member is its offset (Itanium C++ ABI, section 2.3.1).
  template <typename Struct, typename Field>
  static std::size_t offset_of(Field Struct::*member) {
    static_assert(sizeof(member) == sizeof(std::ptrdiff_t) && std::is_standard_layout_v<Struct>);
    return static_cast<std::size_t>(std::bit_cast<std::ptrdiff_t>(member));
  }
  template <typename Field>
  auto read(std::size_t member, SourceLoc loc) const {
    const std::size_t offset = first_byte_ + member;
    if constexpr (std::is_same_v<Field, std::int32_t>) {
      return read_param<I32>(*k_, offset, loc);
    } else if constexpr (std::is_same_v<Field, std::int64_t>) {
      return read_param<I64>(*k_, offset, loc);
    } else if constexpr (std::is_same_v<Field, float>) {
      return read_param<F32>(*k_, offset, loc);
    } else {
      static_assert(std::is_same_v<Field, std::uint64_t>, "a field of this type has no DSL value");
      return read_param<GlobalPtr>(*k_, offset, loc);
    }
  }

  KernelBuilder* k_;
  std::size_t first_byte_;
};

}  // namespace sagegen::dsl
