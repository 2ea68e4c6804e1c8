// What the machine code of an attention kernel says about its speed: slots, stalls, bounds of pipes, and the speed that
// a simulation of one sub-core comes to.
//
// A prediction is no measurement, and no kernel of this project has been timed yet. The method, not this program, was
// held against ten published speeds of other kernels: 7 % off (root mean square), 15 % at worst where it is known which
// variant was published. Variants of one kernel that differ by less than 10 % are not ranked by it.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/model/assumptions.h"
#include "tools/model/cubin.h"
#include "tools/model/gpus.h"
#include "tools/model/hot_path.h"

namespace sagegen::model {

// The code is none that the model is about, or the GPU cannot run it. The text says which rule was broken.
class NotModelled : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline constexpr int kSubcores = 4, kThreads = 32;  // of an SM, of a warp

// Channels of a head: those that Q and K have, those that Q K^T multiplies, which may end with padding, and those of V.
struct HeadChannels {
  HeadChannels(int head_dim) : HeadChannels(head_dim, head_dim) {}
  HeadChannels(int head_dim, int multiplied_channels)
      : HeadChannels(head_dim, multiplied_channels, head_dim) {}
  HeadChannels(int head_dim, int multiplied_channels, int value_dim)
      : all(head_dim), multiplied(multiplied_channels), values(value_dim) {}
  int all, multiplied, values;
};

// Counts of what a warp issues in one iteration, for a tile of its own.
struct LoopCounts {
  int scores = 0;  // products of Q K / multiplied channels
  int instructions = 0;
  int stall_sum = 0;  // of the stall counts, in cycles: a lone warp takes at least that long
  int spills = 0;     // loads and stores of local memory
  std::array<int, kOperationClasses> of_class{};
  std::array<std::int64_t, kMmaKinds> multiplications{};

  int of(OperationClass c) const { return of_class[static_cast<std::size_t>(c)]; }
  // Instructions of a thread per score: the 32 threads of a warp share its scores.
  double slots_per_score(int instructions_counted) const {
    return static_cast<double>(instructions_counted) * kThreads / scores;
  }
};
// Throws NotModelled if the products of Q K make no whole number of scores.
LoopCounts count_loop(const HotPath& path, int architecture, HeadChannels head);

// Cycles that a resource is busy for one warp's tile; the loop cannot be faster than the largest. Of a sub-core, but
// shared memory: of the SM, while its four sub-cores do a tile each.
struct Bounds {
  double tensor = 0, issue = 0, mufu = 0, fma = 0, alu = 0, shared = 0;
  double stalls = 0;  // stall sum / warps of the sub-core
};
Bounds bounds_of(const HotPath& path, const Gpu& gpu, int warps);

// How many blocks an SM holds, by registers, shared memory and warps.
struct Launch {
  int threads = 0;         // of a block
  int dynamic_shared = 0;  // bytes
};
int blocks_per_sm(const Code& code, const Launch& launch, const Gpu& gpu);
// The same; throws NotModelled if a block is not of whole warps, or not one fits.
int blocks_that_fit(const Code& code, const Launch& launch, const Gpu& gpu);
// Throws NotModelled: the code is for another architecture than the GPU, has no loop with Q K and P V on tensor cores,
// multiplies by wgmma, or multiplies what the GPU has no rate for.
HotPath modelled_path(const Code& code, const Gpu& gpu);

// The loop of a kernel as it is simulated.
struct ModelledLoop {
  HotPath path;
  LoopCounts counts;
  int blocks = 0;           // of an SM
  int busy_subcores = 0;    // of its four: fewer than four warps leave some idle
  int warps = 0;            // of a sub-core
  int warps_per_block = 1;  // of a sub-core: those that meet at a barrier
};

// Throws NotModelled as modelled_path(), count_loop() and blocks_that_fit() do.
ModelledLoop modelled_loop(const Code& code, const Launch& launch, HeadChannels head,
                           const Gpu& gpu);

struct Prediction {
  LoopCounts counts;
  int blocks = 0;  // of an SM
  int warps = 0;   // of a sub-core
  Bounds bounds;
  double cycles = 0;               // of a sub-core for one warp's tile
  double lowest = 0, highest = 0;  // of the runs that the cycles are the mean of
  double tops = 0;                 // 1e12 operations per second, 2 (head_dim + value_dim) per score
  double roof =
      0;  // the same if the tensor cores never waited; what they do for padding takes time
};

// Throws NotModelled as modelled_loop() does.
Prediction predict(const Code& code, const Launch& launch, HeadChannels head, const Gpu& gpu,
                   const Assumptions& assumptions = {});

}  // namespace sagegen::model
