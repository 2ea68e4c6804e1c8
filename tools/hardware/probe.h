// Probes: kernels of one instruction each, whose results on a real GPU the emulator is held to.
//
// A case of a probe is one warp, or one warpgroup. Each of its threads gets `inputs` 32-bit words
// and returns `outputs` of them; operands follow from (probe, seed, case) alone, so a recording
// stores results only. kGeneratorVersion counts the changes of that mapping: recordings of another
// version cannot be replayed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::hardware {

inline constexpr int kGeneratorVersion = 2;
inline constexpr int kLanes = 32;
inline constexpr int kWarpsPerBlock = 4;

// Words of results that a kernel does not write.
inline constexpr std::uint32_t kUntouchedResult = 0xcdcdcdcd;

// SplitMix64: the same numbers with every compiler and library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  std::uint32_t word() { return static_cast<std::uint32_t>(next() >> 32); }
  int below(int bound) { return static_cast<int>(next() % static_cast<std::uint64_t>(bound)); }

 private:
  std::uint64_t state_;
};

// Operands of one case: words[i * threads() + thread].
using Words = std::vector<std::uint32_t>;

// How far the emulator may be from the device.
struct Tolerance {
  enum class Kind {
    bits,        // equal words
    f32_ulps,    // words are f32: both NaN or both of one sign and kind, at most `ulps` apart or
                 // closer than `absolute`
    f16x2_ulps,  // words are two f16, each at most `ulps` apart
    bf16x2_ulps,
  };
  Kind kind = Kind::bits;
  int ulps = 0;
  double absolute = 0;
};

struct Probe {
  std::string name;             // also the file name of its recordings
  std::string what;             // one line for people
  int compute_capability = 80;  // least device
  // Of the PTX; an architecture-specific one ("sm_90a") runs on that device only.
  std::string target;
  int ptx_version = 80;         // 84 is 8.4
  int warps = 1;                // of a case: 1 or 4
  int inputs = 0, outputs = 0;  // words per thread
  int cases = 0;
  int shared_bytes = 0;  // per case, 1024-byte aligned if a multiple of 1024, else 16-byte aligned
  // Instructions on %in0.., %out0.., %lane (the thread's index in the case), %case, %shared (the
  // case's shared memory), %case_in and %case_out (the case's words in global memory) and %map (the
  // tensor map).
  std::string body;
  std::function<void(int index, Random& random, Words& words)> fill;
  Tolerance tolerance{};
  // What a case gives on every device, from the operands of all cases, where that is known exactly:
  // tells at once whether a recording is what the probe meant, also while no emulator executes it.
  std::function<Words(const Words& operands, int index)> expected{};
  // A tensor map of all operands or, if the body writes its results through it, of all results;
  // `base` is ignored.
  std::optional<runtime::TensorMapLayout> map{};
  enum class Results { registers, by_body } results = Results::registers;

  int threads() const { return kLanes * warps; }
  std::size_t input_words() const { return static_cast<std::size_t>(inputs * threads()); }
  std::size_t output_words() const { return static_cast<std::size_t>(outputs * threads()); }
  int cases_per_block() const { return kWarpsPerBlock / warps; }
};

// All probes, in a fixed order, with distinct names.
const std::vector<Probe>& all_probes();

// The probe's kernel `probe(const u32* in, u32* out, u32 cases[, tensor map at byte 64])`.
std::string probe_ptx(const Probe& probe);

// Operands of all cases: [case][word][thread].
Words probe_operands(const Probe& probe, std::uint64_t seed);

std::uint32_t crc32(const void* data, std::size_t bytes);

}  // namespace sagegen::hardware
