// What a kernel runs on. Capabilities are features of a table row: code asks has(Feature), never sm >= 89.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sagegen {

// A `.target` of PTX: sm_89, or with a suffix sm_90a, sm_120f.
struct Target {
  int sm = 89;
  char suffix = '\0';  // '\0', 'a' (this architecture only) or 'f' (this family)
  friend bool operator==(const Target&, const Target&) = default;
};

// What one tensor-core instruction of the target multiplies, and what suits it.
enum class Feature : unsigned {
  fp8_mma = 1u << 0,  // mma.sync e4m3
  s4_mma = 1u << 1,   // mma.sync s4
  // Warps that take turns at the tensor cores are expected to be faster than warps that mix their instructions with
  // others (the model of `sagegen inspect --model`).
  warps_take_turns = 1u << 2,
};
using Features = unsigned;  // of Feature, or-ed
template <typename... Each>
constexpr Features features(Each... each) {
  return (0u | ... | static_cast<unsigned>(each));
}

struct TargetInfo {
  Target target;
  std::string name;    // "sm_89"
  int ptx_version;     // lowest PTX ISA version that all kernels of this target assemble with, x10
  int smem_per_block;  // bytes of shared memory that one block may ask for
  int smem_per_sm;     // bytes of shared memory of one SM
  Features features;
  std::string devices;  // examples, for people
  bool has(Feature feature) const { return (features & static_cast<unsigned>(feature)) != 0; }
};

const std::vector<TargetInfo>& supported_targets();
const TargetInfo* find_target(Target target);  // null if it is not supported
const TargetInfo& target_info(Target target);  // throws SpecError that lists what exists
Target parse_target(std::string_view text);    // "sm_89"; throws SpecError
std::string to_string(Target target);

}  // namespace sagegen
