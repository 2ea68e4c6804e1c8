#include "runtime/emulator/device/profiles.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <string_view>

namespace sagegen::emulator {
namespace {

using runtime::EmulatorProfile;

constexpr int kKiB = 1024;
constexpr std::array<DeviceDescription, 6> kDevices = {{
    {EmulatorProfile::sm_80, Profile::sm_80, "emulated sm_80", 8, 0, 108, 163 * kKiB, 164 * kKiB},
    {EmulatorProfile::sm_86, Profile::sm_86, "emulated sm_86", 8, 6, 82, 99 * kKiB, 100 * kKiB},
    {EmulatorProfile::sm_89, Profile::sm_89, "emulated sm_89", 8, 9, 128, 99 * kKiB, 100 * kKiB},
    {EmulatorProfile::sm_90, Profile::sm_90, "emulated sm_90", 9, 0, 132, 227 * kKiB, 228 * kKiB},
    {EmulatorProfile::sm_120, Profile::sm_120, "emulated sm_120", 12, 0, 170, 99 * kKiB,
     100 * kKiB},
    {EmulatorProfile::ideal, Profile::ideal, "emulated ideal", 12, 0, 170, 99 * kKiB, 100 * kKiB},
}};

constexpr bool ordinals_match() {
  for (std::size_t i = 0; i < kDevices.size(); ++i) {
    if (static_cast<std::size_t>(kDevices[i].id) != i) return false;
  }
  return true;
}
static_assert(ordinals_match());

}  // namespace

int device_count() { return static_cast<int>(kDevices.size()); }

const DeviceDescription& device_description(int ordinal) {
  return kDevices.at(static_cast<std::size_t>(ordinal));
}

std::string why_not_loadable(const std::string& target, const DeviceDescription& device) {
  std::string_view digits = target;
  digits.remove_prefix(std::min<std::size_t>(digits.size(), 3));  // "sm_"
  int number = 0;
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const std::string_view suffix(rest,
                                static_cast<std::size_t>(digits.data() + digits.size() - rest));
  const bool known_suffix = suffix.empty() || suffix == "a" || suffix == "f";
  if (error != std::errc() || number < 10 || !known_suffix) {
    return fmt::format("'{}' is no target that {} knows", target, device.name);
  }
  const int major = number / 10;
  const int minor = number % 10;
  const int own = device.major * 10 + device.minor;
  if (suffix == "a" && number != own) {
    return fmt::format("PTX for {} runs on compute capability {}.{} only; {} has {}.{}", target,
                       major, minor, device.name, device.major, device.minor);
  }
  if (suffix == "f" && (major != device.major || number > own)) {
    return fmt::format("PTX for {} runs on compute capability {}.x from {}.{} on; {} has {}.{}",
                       target, major, major, minor, device.name, device.major, device.minor);
  }
  if (number > own) {
    return fmt::format("PTX for {} needs compute capability {}.{} or newer; {} has {}.{}", target,
                       major, minor, device.name, device.major, device.minor);
  }
  return {};
}

}  // namespace sagegen::emulator

namespace sagegen::runtime {

std::string to_string(EmulatorProfile profile) {
  const int ordinal = static_cast<int>(profile);
  if (ordinal < 0 || ordinal >= emulator::device_count()) return "?";
  return std::string(emulator::device_description(ordinal).name).substr(9);
}

}  // namespace sagegen::runtime
