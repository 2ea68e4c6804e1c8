// The emulator as a driver: one emulated device per profile, behind the same DriverApi as a GPU.
//
// It executes the PTX text that it is given and nothing else. It is a stricter machine than a GPU: see
// Checks. Launches run synchronously inside launch(). They go on after a finding where that is sound (see
// Finding); then launch() returns launch_failed (or illegal_address, by the first of them), and
// last_error_detail() gives up to 16 reports. Each device of each emulator has addresses of its own. A copy to the host of bytes that hold no
// defined data succeeds and leaves the finding "uninitialized".
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::runtime {

// Executing devices whose arithmetic is modelled. `ideal` sums tensor-core products exactly and rounds
// once; it has the features of sm_120. The ordinal of a profile is its position here.
enum class EmulatorProfile { sm_80, sm_86, sm_89, sm_90, sm_120, ideal };

// Uninitialized data may be copied and computed with, bit by bit; they are reported where they decide: for
// a branch, an address, a barrier, the lane of a shuffle, or in global memory.
// CTAs that store one and the same value to a place do not race with each other there, nor does the plain
// read before a loop of compare-and-swap with atomics.
// Races: CTAs of one grid are ordered only by an atomic (or st.release) behind a fence in the one and
// an atomic (or ld.acquire) before a fence in the other; in kernels that have these, volatile accesses
// serve as well. Warps of a CTA are ordered by barriers, and by atomic or volatile accesses (or st.release
// and ld.acquire) with such fences of any scope. To store the value that is there already is no hazard to
// lanes and warps of the CTA that read it. Lanes of a warp are threads of their own, ordered
// where the ISA lets them wait for each other: by bar.warp.sync, barriers, shuffles and other instructions
// with .sync, the accesses of ldmatrix and stmatrix being before that; or by an atomic or volatile write in
// the one and read in the other. They also wait for each other in loops without a deadlock.
// Members of a group meet at any bar.warp.sync that names it; for shfl, vote, match, redux and elect they
// must come to one and the same instruction, which is stricter than the ISA.
enum class Checks {
  off,  // bounds of memory accesses only
  on,   // bounds, alignment, uninitialized data, races, copies in flight, divergence, deadlock
};

// How warps and asynchronous copies are ordered. Every order is legal; different ones reveal different bugs.
enum class SchedulePolicy { round_robin, random, reverse };
enum class AsyncPolicy { late, eager, random };  // late: data lands when a wait forces it
enum class Counting { off, on };                 // of what each PTX instruction did

// How far the launch is that began last: its CTAs, and those of them that have ended.
struct LaunchProgress {
  std::atomic<std::uint64_t> ctas{0}, ended{0};
};

struct EmulatorOptions {
  Checks checks = Checks::on;
  SchedulePolicy schedule = SchedulePolicy::round_robin;
  AsyncPolicy async = AsyncPolicy::late;
  std::uint64_t seed = 0;
  int threads = 0;  // host threads, one CTA each; 0: as many as the machine has
  // Warp instructions that one CTA may execute; more is the finding "instruction-limit". 0: 4 million,
  // and one for each byte of device memory in use. A kernel that reads all of it needs fewer.
  std::uint64_t instruction_limit = 0;
  Counting counting = Counting::off;
  // Warp instructions that all CTAs of a launch together may execute, the start of each counting as 256;
  // more is the finding "launch-limit", at the same CTA for any number of host threads. 0: no limit.
  // It limits each CTA, too. At a few ten million a second and thread, it is a limit of time.
  std::uint64_t launch_limit = 0;
  // Launches end, soon after this is set, with the finding "interrupted"; null: they cannot be. It stays
  // the caller's to set and to reset, from any thread or a signal handler.
  std::shared_ptr<const std::atomic<bool>> interrupt = nullptr;
  // Kept up to date while launches run, to be read from any thread; null: nobody asks.
  std::shared_ptr<LaunchProgress> progress = nullptr;
};

// One report of a check. After it an access out of bounds reads zeros or writes nothing, undefined data
// counts as defined, a race is left as it is; a deadlock, diverging collectives, a trap or the limit of
// instructions end the launch. Addresses and lanes are decimal or hex as a person would want them.
struct Finding {
  std::string kernel;
  std::string check;    // "out-of-bounds", "uninitialized", "race", "copy-in-flight", ...
  std::string message;  // a full sentence with values
  int ptx_line = 0;     // 1-based line of the PTX text, 0 if none
  std::string source;   // "file:line" of the template, if the PTX has line information
  int cta[3] = {0, 0, 0};
  int warp = -1;
  int lane = -1;
  // How often the check found this at this line; the rest tells of the first time. 1 in a launch that
  // could not go on to its end.
  std::uint64_t count = 1;
};

// What one PTX instruction did in all CTAs of a launch. Accesses of shared memory without bank conflicts
// take the ideal number of wavefronts.
struct LineCount {
  int ptx_line = 0;
  std::string opcode;                   // with modifiers
  std::uint64_t executed = 0;           // warp instructions
  std::uint64_t shared_wavefronts = 0;  // 128-byte passes over shared memory
  std::uint64_t shared_wavefronts_ideal = 0;
};

struct LaunchCounters {
  std::uint64_t warp_instructions = 0;
  double seconds = 0;            // host time; not a performance of any GPU
  std::vector<LineCount> lines;  // with Counting::on: what was executed, in PTX order
};

class EmulatorDriver : public DriverApi {
 public:
  virtual void configure(const EmulatorOptions& options) = 0;
  // Of all launches and copies since the last clear. What was found before, by the same check at the same
  // line of the same kernel, is counted there; more than 256 different ones are not kept.
  virtual std::vector<Finding> findings() const = 0;
  virtual void clear_findings() = 0;
  virtual LaunchCounters last_launch() const = 0;
  virtual std::uint64_t warp_instructions() const = 0;  // of all launches so far
};

std::shared_ptr<EmulatorDriver> make_emulator(const EmulatorOptions& options = {});

std::string to_string(EmulatorProfile profile);

}  // namespace sagegen::runtime
