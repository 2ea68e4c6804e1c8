// Operands and accumulators of mma, as one lane holds them.
#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include "sagegen/dsl/value.h"
#include "sagegen/types.h"

namespace sagegen::dsl {

// Tensor-core instructions by operand type; shapes are m16n8k32 (s8, e4m3), m16n8k64 (s4), m16n8k16
// (f16, bf16). PTX ISA, warp-level matrix instructions: mma.
enum class Mma { s8, s4, f16, bf16, e4m3 };

// Registers and the type of the elements that are packed into them, which mma checks.
template <std::size_t N>
class Fragment {
 public:
  Fragment() = default;  // of no type, without values: refused where it is used
  Fragment(DType type, const std::array<I32, N>& registers) : type_(type), registers_(registers) {}

  std::optional<DType> type() const { return type_; }
  I32& operator[](std::size_t i) { return registers_.at(i); }
  const I32& operator[](std::size_t i) const { return registers_.at(i); }
  auto begin() { return registers_.begin(); }
  auto end() { return registers_.end(); }
  auto begin() const { return registers_.begin(); }
  auto end() const { return registers_.end(); }
  static constexpr std::size_t size() { return N; }

 protected:
  explicit Fragment(const std::array<I32, N>& registers) : registers_(registers) {}

 private:
  std::optional<DType> type_;
  std::array<I32, N> registers_;
};

struct MmaA : Fragment<4> {
  using Fragment::Fragment;
};
struct MmaB : Fragment<2> {
  using Fragment::Fragment;
};
// B of s8 x u8: bytes without a sign, beside an A of s8 (m16n8k32).
struct MmaUnsignedB : Fragment<2> {
  MmaUnsignedB(I32 a, I32 b) : Fragment({a, b}) {}
};
// Operands of m16n8k8, half as long along k, of f16.
struct MmaShortA : Fragment<2> {
  using Fragment::Fragment;
};
struct MmaShortB : Fragment<1> {
  using Fragment::Fragment;
};
// Bits of s32 (s8, s4) or f32 (the others). Bits of no type are for the first mma to take: zero has the
// same bits in both.
struct MmaC : Fragment<4> {
  using Fragment::Fragment;
  MmaC(I32 a, I32 b, I32 c, I32 d) : Fragment({a, b, c, d}) {}
};
// The same in f16, of products of f16 or e4m3: a register holds both columns of a row that the lane has.
struct MmaHalfC : Fragment<2> {
  using Fragment::Fragment;
  MmaHalfC(I32 a, I32 b) : Fragment({a, b}) {}
};

}  // namespace sagegen::dsl
