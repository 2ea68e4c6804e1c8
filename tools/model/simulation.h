// One sub-core of an SM, cycle by cycle: its warps run a loop's hot path again and again, in order.
//
// An instruction issues when the stall count of the one before has run out, the scoreboards that it waits for are
// clear, its pipe takes it, or the queue of the MIO does (MUFU, shared memory, loads, stores, copies), and the
// scheduler picks its warp. Shared memory is that of four sub-cores: an access takes longer the busier the three
// others are, which are as busy as this one.
//
// Not in it: caches and their misses, bank conflicts, tail effects of a grid, power, register banks and caches.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tools/model/assumptions.h"
#include "tools/model/gpus.h"
#include "tools/model/hot_path.h"

namespace sagegen::model {

// How the scheduler chooses among warps that can issue. Which one GPUs have is not known, so that predictions take
// the mean of both.
enum class Scheduling {
  same_then_youngest,  // the warp that issued last unless it yields, else the one that started last
  same_then_oldest,    // the warp that issued last, yield or not, else the one that started first
};

struct SubcoreLoad {
  int warps = 2;              // of the sub-core
  int warps_per_block = 1;    // of them, those that meet at a barrier; at least 1
  double shared_stretch = 1;  // factor on accesses to shared memory, by the other sub-cores
};

// One run. The same input gives the same figure everywhere.
struct Run {
  Scheduling scheduling = Scheduling::same_then_youngest;
  double start_distance =
      0.3;  // between the starts of two warps, in passes at one instruction per cycle
  std::uint32_t seed = 0;  // of the jitter
  int iterations = 26;     // of each warp, about; the first third is not measured
};

// Why a warp issues nothing in a cycle; of several reasons the first one.
enum class Wait {
  barrier,      // other warps of its block have not arrived, or it has not heard of it yet
  stall_count,  // of the instruction before
  scoreboard,   // a result is missing
  pipe,         // or the queue in front of it, is full
  other_warp,   // it could, but the scheduler picked another one
};
inline constexpr int kWaits = static_cast<int>(Wait::other_warp) + 1;
std::string_view to_string(Wait wait);  // "stall count"

// An instruction that was issued. The unit works on it from begin to end, in cycles: not at all if they are equal.
struct Issue {
  std::int64_t cycle = 0;
  int warp = 0;            // of the sub-core
  std::size_t step = 0;    // of the path
  Pipe unit = Pipe::none;  // fma: the half of the FP32 pipe beside fma_heavy, if there are two
  double begin = 0, end = 0;
};

// Watches a run. In every cycle it hears of every warp, once: that it issued, or why it did not.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void issued(const Issue& issue) = 0;
  virtual void waited(std::int64_t cycle, int warp, Wait why) = 0;
};

// Cycles of the sub-core for one pass of one warp: time divided by passes of all its warps. The path is code for the
// architecture of the GPU. observer: null if nobody watches; it changes no figure. Throws std::runtime_error if the GPU
// has no rate for an mma of the path, if the path is empty, or if there is no warp.
double simulate_run(const std::vector<Step>& path, const Gpu& gpu, const SubcoreLoad& load,
                    const Assumptions& assumptions, const Run& run, Observer* observer = nullptr);

// The mean over schedulings and seeds, with the stretch of shared memory that goes with it.
struct SimulatedLoop {
  double cycles = 0;               // harmonic mean: of the speed
  double lowest = 0, highest = 0;  // of the runs
  double shared_stretch = 1;
};
SimulatedLoop simulate(const std::vector<Step>& path, const Gpu& gpu, int warps,
                       int warps_per_block, const Assumptions& assumptions);

}  // namespace sagegen::model
