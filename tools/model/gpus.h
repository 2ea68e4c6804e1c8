// GPUs that predictions can be made for.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "tools/model/operation_class.h"

namespace sagegen::model {

struct Gpu {
  std::string_view name;  // "RTX4090"
  int architecture;       // 89: of the compute capability 8.9
  int sms;
  double
      clock_ghz;  // boost clock of the specification; real ones are 4-8 % higher or, where power ends, lower
  // Dense multiply-adds per SM and clock, by MmaKind; 0: the GPU has no such instruction, or none that is fast.
  std::array<int, kMmaKinds> mma_rate;
  int fp32_lanes;       // per SM: 64 is one pipe in each sub-core, 128 two
  bool minmax_on_fp32;  // FMNMX runs on the FP32 pipes, not on the ALU
  int registers;        // 32-bit registers of an SM
  int shared_bytes;     // shared memory of an SM that blocks may have together
  int warps;            // that an SM can hold
  double memory_tb;     // TB/s between memory and chip, of the data sheet
  std::string_view source;

  // TB/s that a copy of memory has moved, read and written together; 0: nobody here has measured it.
  double copy_tb = 0;

  int rate(MmaKind kind) const { return mma_rate[static_cast<std::size_t>(kind)]; }
};

// Of one architecture the first one is the usual one.
const std::vector<Gpu>& gpus();
const Gpu* find_gpu(std::string_view name);  // upper and lower case alike; null if there is none
const Gpu* usual_gpu(int architecture);      // null if there is none

}  // namespace sagegen::model
