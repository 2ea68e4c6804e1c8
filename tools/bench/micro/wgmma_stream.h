// Streams of wgmma on tiles of 64 rows and 128 bytes of k, K-major and swizzled by 128 bytes: four
// steps of k32 with descriptors of their own. (ptxas drops some of several wgmma in a row that are
// identical.)
#pragma once

#include "tools/bench/micro/micro.h"

namespace sagegen::micro {

inline constexpr int kRows = 64;       // of A, of one warpgroup
inline constexpr int kRowBytes = 128;  // k
inline constexpr int kStepBytes = 32;  // k of one wgmma
inline constexpr int kSteps = kRowBytes / kStepBytes;
inline constexpr int kGroupThreads = kWarpsPerGroup * kLanes;
inline constexpr int kIgmma = 0x1f1, kQgmma = 0x1f3;

struct WgmmaShape {
  bool fp8 = false;  // e4m3 and f32; otherwise s8 and s32
  bool a_in_registers = false;
  int n = 128;

  int accumulators() const { return n / 2; }  // registers
  int b_bytes() const { return n * kRowBytes; }
  int image_bytes() const { return kRows * kRowBytes + b_bytes(); }  // of shared memory: A, then B
  std::string name() const;                                          // "s8_n128", "e4m3_rega_n64"
  SassCount sass(int count) const {
    return {fp8 ? "QGMMA" : "IGMMA", fp8 ? kQgmma : kIgmma, count};
  }
};

// A tile of row-major bytes as the swizzled image.
Words swizzled(const std::vector<std::uint8_t>& bytes, int rows);

// Operands: s8 takes all values from -127; e4m3 is -1, 0 or 1 with four of a row of A not 0, so
// that sums of `2^11` products of a row stay exact in the 13 bits that the tensor cores keep.
struct Operands {
  std::vector<int> a, b;  // [row][k]
  int a_value(int row, int k) const { return a[static_cast<std::size_t>(row * kRowBytes + k)]; }
  int b_value(int row, int k) const { return b[static_cast<std::size_t>(row * kRowBytes + k)]; }
  std::int64_t product(int row, int column) const;
};
Operands wgmma_operands(const WgmmaShape& shape, int b_seed = 2);
std::vector<std::uint8_t> encoded(const WgmmaShape& shape, const std::vector<int>& values);

// %in: the image of shared memory, then the fragments of A as [register][thread of a warpgroup].
Words wgmma_input(const WgmmaShape& shape, const Operands& operands);

// Row and column of an accumulator register of a thread of a warpgroup.
struct Place {
  int row, column;
};
Place accumulator_place(int reg, int thread);

// [register][thread] of a block after `count` wgmma, a multiple of kSteps.
Words wgmma_expected(const WgmmaShape& shape, const Operands& operands, int threads,
                     std::int64_t count);

// Registers %d (accumulators), %a (fragments), %da and %db (descriptors of each step).
std::string wgmma_registers(const WgmmaShape& shape);
std::string wgmma_setup(const WgmmaShape& shape, int threads);  // shared memory, operands, %d = 0
// %NAME0.. = descriptors of the tile at a shared address, one for each step.
std::string descriptors(const std::string& name, int offset);
std::string wgmma(const WgmmaShape& shape, int step, const std::string& scale_d = "1");
// Fence, `count` wgmma from step `first` on, commit, and a wait for all.
std::string wgmma_group(const WgmmaShape& shape, int count, int first);

// So many wgmma of each warpgroup per iteration, in groups; out[block][accumulator][thread].
inline constexpr int kStreamWgmma = 64;
Program wgmma_stream_program(const std::string& name, const WgmmaShape& shape, int warpgroups,
                             int group, int per_iteration = kStreamWgmma);

}  // namespace sagegen::micro
