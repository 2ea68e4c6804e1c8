// The kernel builder: one object per kernel, with the verbs of the PTX ISA as typed methods. It is the
// only way to make DSL values. Tiles, fragments and pipelines are built on top of it in tile.h; emit.h
// turns a finished one into PTX.
//
// Verbs map to one instruction (or to none) unless their comment says otherwise: arithmetic.h, memory.h,
// warp.h. Control flow takes lambdas; a condition that is known at generation time emits only the branch
// that is taken. Mutable state that crosses a loop lives in a Var, which becomes a register.
//
// Misuse (an operand of another builder, a mask that is not constant, shared memory beyond the
// target's) throws CodegenError with the template's file and line.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/dsl/operators.h"
#include "sagegen/dsl/params.h"
#include "sagegen/dsl/var.h"
#include "sagegen/dsl/warp.h"
#include "sagegen/line_info.h"
#include "sagegen/params.h"

namespace sagegen::dsl {

class KernelBuilder : public WarpVerbs {
 public:
  // entry: the kernel's name, a PTX identifier. threads: block size, printed as .reqntid. param_bytes:
  // size of the struct that the kernel takes by value, 0 for none. line_info: whether verbs leave debug
  // locations.
  KernelBuilder(const std::string& entry, Target target, int threads, std::size_t param_bytes,
                LineInfo line_info = LineInfo::off, SourceLoc loc = SourceLoc::here());
  // The same with a parameter of several blocks (sagegen/params.h).
  KernelBuilder(const std::string& entry, Target target, int threads, const ParamLayout& params,
                LineInfo line_info = LineInfo::off, SourceLoc loc = SourceLoc::here());
  // The same for a kernel that takes an ordinary list of parameters, as CUDA C++ writes them; param() reads
  // them. {}: none.
  KernelBuilder(const std::string& entry, Target target, int threads,
                const std::vector<Param>& parameters, LineInfo line_info = LineInfo::off,
                SourceLoc loc = SourceLoc::here());
  ~KernelBuilder();

  // ---- parameters, special registers ----
  // A block of the layout, which has a kName, or the struct that is all of the parameter.
  template <typename Params>
  ParamReader<Params> params(SourceLoc loc = SourceLoc::here()) {
    if constexpr (requires { Params::kName; }) {
      return ParamReader<Params>(this, block_offset(Params::kName, loc));
    } else {
      check_param_struct(sizeof(Params), loc);
      return ParamReader<Params>(this, 0);
    }
  }
  // One of several structs that lie one after the other, `offset` bytes from the start.
  template <typename Block>
  ParamReader<Block> param_block(std::size_t offset, SourceLoc loc = SourceLoc::here()) {
    check_param_block(offset, sizeof(Block), loc);
    return ParamReader<Block>(this, offset);
  }
  // A parameter of the list. T is I32, I64, F32 or GlobalPtr, as the list says.
  template <typename T>
  T param(int index, SourceLoc loc = SourceLoc::here());
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
  // The same, but the loop ends behind the first iteration whose body returns true. Returns the i that would
  // have come next.
  I32 for_range_until(I32 begin, I32 end, int step, const std::function<Pred(I32)>& body,
                      SourceLoc loc = SourceLoc::here());
  // while (condition()) body(). Both are emitted once; what they share lives in a Var.
  void while_(const std::function<Pred()>& condition, const std::function<void()>& body,
              SourceLoc loc = SourceLoc::here());
  // if_true or if_false, of any type of value.
  template <typename T>
  T select(Pred condition, T if_true, T if_false, SourceLoc loc = SourceLoc::here());

 private:
  void check_param_struct(std::size_t bytes, SourceLoc loc);
  std::size_t block_offset(std::string_view name, SourceLoc loc);
  void check_param_block(std::size_t offset, std::size_t bytes, SourceLoc loc);
};

}  // namespace sagegen::dsl
