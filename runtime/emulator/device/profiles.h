// What the emulated devices report about themselves. Numbers that decide whether a launch fits are those
// of the architecture (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability");
// the multiprocessor count is that of a common product.
#pragma once

#include <cstddef>
#include <string>

#include "runtime/emulator/numerics/numerics.h"
#include "sagegen/runtime/emulator.h"

namespace sagegen::emulator {

struct DeviceDescription {
  runtime::EmulatorProfile id = runtime::EmulatorProfile::ideal;
  Profile arithmetic = Profile::ideal;
  const char* name = "";  // "emulated sm_89"
  int major = 0;          // compute capability
  int minor = 0;
  int multiprocessors = 0;
  int shared_per_block_optin = 0;     // bytes
  int shared_per_multiprocessor = 0;  // bytes
};

inline constexpr int kMaxThreadsPerBlock = 1024;
inline constexpr int kMaxBlockZ = 64;
inline constexpr unsigned kMaxGridX = 0x7fff'ffff;
inline constexpr unsigned kMaxGridYZ = 65535;
inline constexpr int kDefaultSharedPerBlock = 48 * 1024;               // without opting in
inline constexpr std::size_t kMaxParameterBytes = 32764;               // of one function
inline constexpr std::size_t kMaxLocalBytes = std::size_t{512} << 10;  // per thread
inline constexpr int kMaxRegistersPerThread = 255;
// Every emulated device has the same memory, whatever its product has: it comes out of the host's.
inline constexpr std::size_t kDeviceMemoryBytes = std::size_t{8} << 30;
// The driver that is emulated: CUDA 13.0, which takes PTX up to 9.0.
inline constexpr int kDriverVersion = 13000;
inline constexpr int kNewestPtx = 90;

int device_count();
// 0 <= ordinal < device_count(); the ordinal of a profile is its position in EmulatorProfile.
const DeviceDescription& device_description(int ordinal);

// Empty if PTX for `target` loads on the device, otherwise why not. As on hardware: a plain target on the
// same or a newer device, sm_90a on exactly sm_90, sm_120f on the same major version from that minor on.
std::string why_not_loadable(const std::string& target, const DeviceDescription& device);

}  // namespace sagegen::emulator
