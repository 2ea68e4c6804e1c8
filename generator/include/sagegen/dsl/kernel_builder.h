// The kernel builder: one object per kernel, with the verbs of the PTX ISA as typed methods. It is the
// only way to make DSL values. Tiles, fragments and pipelines are built on top of it in tile.h.
//
// Verbs map to one instruction (or to none) unless their comment says otherwise. Control flow takes
// lambdas; a condition that is known at generation time emits only the branch that is taken. Mutable
// state that crosses a loop lives in a Var, which becomes a register.
//
// Misuse (an operand of another builder, a mask that is not constant, shared memory beyond the
// target's) throws CodegenError with the template's file and line.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>

#include "sagegen/abi.h"
#include "sagegen/dsl/value.h"
#include "sagegen/emit.h"
#include "sagegen/spec.h"

namespace sagegen::dsl {

// A mutable register. Reading gives the current value.
template <typename T>
class Var {
 public:
  Var() = default;
  T get() const;
  void set(T value) const;
  operator T() const { return get(); }
  const Var& operator=(T value) const {
    set(value);
    return *this;
  }

 private:
  friend class KernelBuilder;
  KernelBuilder* k_ = nullptr;
  llvm::Value* slot_ = nullptr;
};

// Tensor-core instructions by operand type; shapes are m16n8k32 (s8, e4m3), m16n8k64 (s4), m16n8k16
// (f16, bf16). PTX ISA, warp-level matrix instructions: mma.
enum class Mma { s8, s4, f16, bf16, e4m3 };

// Accumulators and operands of one mma.sync per lane. c holds s32 bits (s8, s4) or f32 bits (others).
using MmaA = std::array<I32, 4>;
using MmaB = std::array<I32, 2>;
using MmaC = std::array<I32, 4>;

enum class Transpose { no, yes };

// Typed reader of the kernel's by-value parameter struct (sagegen/abi.h).
template <typename Params>
class ParamReader {
 public:
  // Field -> DSL value: std::int32_t -> I32, float -> F32, abi::Address -> GlobalPtr, std::int64_t -> I64.
  // A nested abi::Tensor is read field by field: p(&AttentionParams::o, &abi::Tensor::data).
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
  explicit ParamReader(KernelBuilder* k) : k_(k) {}

  // A pointer to a data member is its offset (Itanium C++ ABI, section 2.3.1).
  template <typename Struct, typename Field>
  static std::size_t offset_of(Field Struct::*member) {
    static_assert(sizeof(member) == sizeof(std::ptrdiff_t) && std::is_standard_layout_v<Struct>);
    return static_cast<std::size_t>(std::bit_cast<std::ptrdiff_t>(member));
  }
  template <typename Field>
  auto read(std::size_t offset, SourceLoc loc) const;

  KernelBuilder* k_ = nullptr;
};

class KernelBuilder {
 public:
  // entry: the kernel's name. threads: block size, printed as .reqntid.
  // line_info: whether verbs leave debug locations.
  KernelBuilder(const std::string& entry, Target target, int threads, std::size_t param_bytes,
                LineInfo line_info = LineInfo::off);
  ~KernelBuilder();
  KernelBuilder(const KernelBuilder&) = delete;
  KernelBuilder& operator=(const KernelBuilder&) = delete;

  Target target() const;

  // ---- constants, parameters, special registers ----
  I32 i32(std::int32_t value);
  I64 i64(std::int64_t value);
  F32 f32(float value);
  Pred pred(bool value);
  template <typename Params>
  ParamReader<Params> params(SourceLoc loc = SourceLoc::here()) {
    check_param_struct(sizeof(Params), loc);
    return ParamReader<Params>(this);
  }
  I32 thread_idx(SourceLoc loc = SourceLoc::here());  // %tid.x
  // The same, read at this point of the program: what is computed from it does not occupy registers on
  // the way here.
  I32 reread_thread_idx(SourceLoc loc = SourceLoc::here());
  I32 block_idx(int axis, SourceLoc loc = SourceLoc::here());  // %ctaid.x/y/z
  I32 grid_dim(int axis, SourceLoc loc = SourceLoc::here());   // %nctaid.x/y/z
  I32 lane_idx(SourceLoc loc = SourceLoc::here());             // thread_idx % 32
  I32 warp_idx(SourceLoc loc = SourceLoc::here());             // thread_idx / 32

  // ---- mutable registers and control flow ----
  template <typename T>
  Var<T> var(T initial, SourceLoc loc = SourceLoc::here());
  void if_(Pred condition, const std::function<void()>& then, SourceLoc loc = SourceLoc::here());
  void if_else(Pred condition, const std::function<void()>& then,
               const std::function<void()>& otherwise, SourceLoc loc = SourceLoc::here());
  // for (i = begin; i < end; i += step). The body is emitted once.
  void for_range(I32 begin, I32 end, int step, const std::function<void(I32)>& body,
                 SourceLoc loc = SourceLoc::here());
  // Pred/I32/I64/F32 select.
  template <typename T>
  T select(Pred condition, T if_true, T if_false, SourceLoc loc = SourceLoc::here());

  // ---- conversions and arithmetic ----
  I64 to_i64(I32 value, SourceLoc loc = SourceLoc::here());  // sign-extends
  F32 as_f32(I32 bits, SourceLoc loc = SourceLoc::here());   // bit cast
  I32 as_bits(F32 value, SourceLoc loc = SourceLoc::here());
  F32 to_f32(I32 value, SourceLoc loc = SourceLoc::here());        // cvt.rn.f32.s32
  I32 round_to_s32(F32 value, SourceLoc loc = SourceLoc::here());  // cvt.rni.s32.f32
  I32 min(I32 a, I32 b, SourceLoc loc = SourceLoc::here());        // signed
  I32 max(I32 a, I32 b, SourceLoc loc = SourceLoc::here());
  F32 min(F32 a, F32 b, SourceLoc loc = SourceLoc::here());
  F32 max(F32 a, F32 b, SourceLoc loc = SourceLoc::here());  // the non-NaN operand wins
  F32 abs(F32 a, SourceLoc loc = SourceLoc::here());
  F32 fma(F32 a, F32 b, F32 c, SourceLoc loc = SourceLoc::here());       // fma.rn.f32
  F32 fma_up(F32 a, F32 b, F32 c, SourceLoc loc = SourceLoc::here());    // fma.rp.f32
  F32 fma_down(F32 a, F32 b, F32 c, SourceLoc loc = SourceLoc::here());  // fma.rm.f32
  F32 exp2(F32 a, SourceLoc loc = SourceLoc::here());                    // ex2.approx.ftz.f32
  F32 log2(F32 a, SourceLoc loc = SourceLoc::here());                    // lg2.approx.ftz.f32
  F32 reciprocal(F32 a, SourceLoc loc = SourceLoc::here());              // rcp.approx.ftz.f32

  // Two 16-bit floats in one register, `lo` in bits 0-15. type: f16 or bf16.
  I32 pack2(DType type, F32 lo, F32 hi,
            SourceLoc loc = SourceLoc::here());  // cvt.rn.{f16x2,bf16x2}.f32
  std::array<F32, 2> unpack2(DType type, I32 bits, SourceLoc loc = SourceLoc::here());
  // Four values as bytes, `a` lowest. e4m3: cvt.rn.satfinite (two instructions and a merge). s8: the
  // values are rounded to nearest even and must lie within [-128, 127].
  I32 pack4(DType type, F32 a, F32 b, F32 c, F32 d, SourceLoc loc = SourceLoc::here());
  // prmt.b32: byte i of the result is byte selector[i] (0-7) of {b, a}, a holding bytes 0-3.
  I32 permute_bytes(I32 a, I32 b, std::array<int, 4> selector, SourceLoc loc = SourceLoc::here());

  // ---- memory. Addresses must be aligned to the access. T is I32 or F32 ----
  template <typename T, Space S>
  T load(Ptr<S> p, SourceLoc loc = SourceLoc::here());  // 4 bytes
  template <Space S>
  std::array<I32, 4> load_v4(Ptr<S> p, SourceLoc loc = SourceLoc::here());  // 16 bytes
  template <typename T, Space S>
  void store(Ptr<S> p, T value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  void store_v2(Ptr<S> p, std::array<I32, 2> value, SourceLoc loc = SourceLoc::here());
  template <Space S>
  void store_v4(Ptr<S> p, std::array<I32, 4> value, SourceLoc loc = SourceLoc::here());
  Pred is_null(GlobalPtr p, SourceLoc loc = SourceLoc::here());

  // Dynamic shared memory, carved in the order of the calls. The total must equal resources(spec).
  SharedPtr shared(int bytes, int align, SourceLoc loc = SourceLoc::here());
  int shared_bytes() const;

  // ---- asynchronous copies: cp.async (PTX ISA, data movement: cp.async) ----
  void cp_async_16(SharedPtr dst, GlobalPtr src, SourceLoc loc = SourceLoc::here());  // .cg
  // Copies only the first `valid_bytes` (0 to 16) and writes zeros behind them.
  void cp_async_16_zfill(SharedPtr dst, GlobalPtr src, I32 valid_bytes,
                         SourceLoc loc = SourceLoc::here());
  void cp_async_commit(SourceLoc loc = SourceLoc::here());
  void cp_async_wait(int pending_groups, SourceLoc loc = SourceLoc::here());

  // ---- warp and block ----
  void barrier(SourceLoc loc = SourceLoc::here());  // bar.sync 0
  I32 shuffle_xor(I32 value, int mask, SourceLoc loc = SourceLoc::here());
  F32 shuffle_xor(F32 value, int mask, SourceLoc loc = SourceLoc::here());
  // ldmatrix.m8n8.x4: lane l gives the address of row l % 8 of matrix l / 8.
  std::array<I32, 4> ldmatrix_x4(SharedPtr row, Transpose transpose,
                                 SourceLoc loc = SourceLoc::here());
  std::array<I32, 2> ldmatrix_x2(SharedPtr row, Transpose transpose,
                                 SourceLoc loc = SourceLoc::here());
  MmaC mma(Mma kind, const MmaA& a, const MmaB& b, const MmaC& c,
           SourceLoc loc = SourceLoc::here());

  // ---- for codegen ----
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  template <typename P>
  friend class ParamReader;
  template <typename T>
  friend class Var;
  void check_param_struct(std::size_t bytes, SourceLoc loc);
  template <typename T>
  T read_param(std::size_t offset, SourceLoc loc);

  std::unique_ptr<Impl> impl_;
};

template <typename Params>
template <typename Field>
auto ParamReader<Params>::read(std::size_t offset, SourceLoc loc) const {
  if constexpr (std::is_same_v<Field, std::int32_t>) {
    return k_->template read_param<I32>(offset, loc);
  } else if constexpr (std::is_same_v<Field, std::int64_t>) {
    return k_->template read_param<I64>(offset, loc);
  } else if constexpr (std::is_same_v<Field, float>) {
    return k_->template read_param<F32>(offset, loc);
  } else {
    static_assert(std::is_same_v<Field, abi::Address>, "a field of this type has no DSL value");
    return k_->template read_param<GlobalPtr>(offset, loc);
  }
}

}  // namespace sagegen::dsl
