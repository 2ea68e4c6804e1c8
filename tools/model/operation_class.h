// What an instruction does, which pipe of a sub-core it takes, and what it multiplies. Rates of pipes are properties of
// the GPU (gpus.h); lengths of queues and latencies are assumptions (assumptions.h).
#pragma once

#include <string_view>

#include "tools/model/instruction.h"

namespace sagegen::model {

// In the order of tables for people.
enum class OperationClass {
  mma,
  mufu,        // exp2, reciprocal and the like
  conversion,  // between integers and floats
  fp32,
  minmax,
  fp16,
  unpack,       // f16 to f32
  pack,         // f32 to narrower floats
  matrix_load,  // LDSM
  shared,       // LDS, STS
  copy,         // LDGSTS: global to shared memory
  shuffle,
  integer,
  select,  // and what computes predicates
  move,
  uniform,
  global,  // LDG, STG
  constant,
  spill,    // LDL, STL
  special,  // special registers
  fp64,
  synchronization,
  branch,
  padding,  // NOP, and what never executes: the stall count ends at 15
  unknown,
};
inline constexpr int kOperationClasses = static_cast<int>(OperationClass::unknown) + 1;

std::string_view to_string(OperationClass operation_class);  // "matrix load"

enum class Pipe {
  none,
  tensor,
  fma,        // both halves of the FP32 pipe
  fma_heavy,  // the half that also does IMAD and f16
  alu,
  minmax,  // the ALU, or the FP32 pipe on some GPUs
  mufu,    // a quarter warp per clock, behind the queue of the MIO
  memory,  // shared memory, loads and stores, behind the queue of the MIO
  uniform,
};

struct OperationInfo {
  std::string_view name;  // "FFMA"; empty if the operation is not known
  OperationClass operation_class = OperationClass::unknown;
  Pipe pipe = Pipe::none;
};

// architecture: 89 of sm_89.
OperationInfo operation_info(const Instruction& instruction, int architecture);

// What a tensor core multiplies and sums. GPUs have a rate for each (gpus.h).
enum class MmaKind { s8, s4, f16_f32, f16_f16, f8_f32, f8_f16 };
inline constexpr int kMmaKinds = 6;
std::string_view to_string(MmaKind kind);  // "f16, f32 sums"
constexpr bool is_integer(MmaKind kind) { return kind == MmaKind::s8 || kind == MmaKind::s4; }

// Multiplications that a warp's instruction does; 0 if it is no mma.sync of a kind above.
struct MmaWork {
  int multiplications = 0;
  MmaKind kind = MmaKind::s8;
};
MmaWork mma_work(const Instruction& instruction);

// wgmma and the tensor memory of sm_100, which work beside the warp that issues them.
bool is_asynchronous_mma(const Instruction& instruction);

// Cycles of an SM's shared memory (128 bytes each) for one warp, without bank conflicts; 0 of what does not use it.
int shared_memory_cycles(const Instruction& instruction, int architecture);

}  // namespace sagegen::model
