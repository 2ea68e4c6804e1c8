#include "tools/sagegen/run_device.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/suggestion.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/code_cache.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/output.h"

namespace sagegen::cli {
namespace {

// "cuda:3" -> 3
int ordinal_of(std::string_view device) {
  const std::string_view digits = device.substr(std::string_view("cuda:").size());
  int ordinal = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size() ||
      ordinal < 0) {
    throw UsageError(fmt::format("--device {}: a GPU is cuda:N with N from 0", device));
  }
  return ordinal;
}

void check_runs(Target target, const runtime::Device& device, const std::string& name) {
  const int capability = device.compute_capability();
  if (!runtime::loads_on(target, capability)) {
    throw UsageError(
        fmt::format("PTX for {} does not run on {}, whose compute capability is {}.{}; use {}",
                    to_string(target), name, capability / 10, capability % 10,
                    to_string(runtime::best_target(capability))));
  }
}

RunDevice gpu(const std::shared_ptr<runtime::DriverApi>& cuda, int ordinal,
              const std::string& target) {
  RunDevice result{
      .name = fmt::format("cuda:{}", ordinal),
      .emulator = nullptr,
      .device = runtime::Device(cuda, ordinal, runtime::code_cache_of_environment(tell)),
      .target = {},
      .why_no_gpu = {},
      .note = {}};
  if (target.empty()) {
    result.target = runtime::best_target(result.device);
    result.note = runtime::best_target_note(result.device);
  } else {
    result.target = parse_target(target);
  }
  check_runs(result.target, result.device, result.name);
  return result;
}

std::vector<std::string> profile_names(runtime::DriverApi& emulator) {
  int count = 0;
  runtime::check(emulator, emulator.device_count(&count), "cuDeviceGetCount");
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i)
    names.push_back(to_string(static_cast<runtime::EmulatorProfile>(i)));
  return names;
}

int profile_ordinal(runtime::DriverApi& emulator, const std::string& profile) {
  const std::vector<std::string> names = profile_names(emulator);
  const auto found = std::ranges::find(names, profile);
  if (found != names.end()) return static_cast<int>(found - names.begin());
  std::string advice = suggestion(profile, names);
  if (advice.empty()) advice = "; " + target_advice(profile);
  throw UsageError(fmt::format("the emulator has no profile \"{}\"; use one of {}{}", profile,
                               fmt::join(names, ", "), advice));
}

// Without a profile, the device that the target was made for.
RunDevice emulated(const std::optional<std::string>& profile, const std::string& target,
                   const runtime::EmulatorOptions& options) {
  const std::shared_ptr<runtime::EmulatorDriver> emulator = runtime::make_emulator(options);
  runtime::check(*emulator, emulator->init(), "cuInit");
  std::optional<Target> asked;
  if (!target.empty()) asked = parse_target(target);
  const std::string name = profile.value_or(to_string(asked.value_or(kUsualTarget)));
  RunDevice result{.name = "emulator:" + name,
                   .emulator = emulator,
                   .device = runtime::Device(emulator, profile_ordinal(*emulator, name)),
                   .target = {},
                   .why_no_gpu = {},
                   .note = {}};
  result.target = asked.value_or(runtime::best_target(result.device.compute_capability()));
  check_runs(result.target, result.device, result.name);
  return result;
}

std::string device_meant(const std::string& device) {
  std::vector<std::string> known{"auto", "cuda", "cuda:0", "emulator"};
  for (int i = 0; i <= static_cast<int>(runtime::EmulatorProfile::ideal); ++i) {
    const std::string profile = to_string(static_cast<runtime::EmulatorProfile>(i));
    known.push_back("emulator:" + profile);
    if (device == profile) return fmt::format("; did you mean emulator:{}?", profile);
  }
  return device == "gpu" ? "; did you mean cuda?" : suggestion(device, known);
}

}  // namespace

RunDevice open_run_device(const std::string& device, const std::string& target,
                          const runtime::EmulatorOptions& options) {
  if (device == "emulator") return emulated(std::nullopt, target, options);
  if (device.starts_with("emulator:")) return emulated(device.substr(9), target, options);
  std::string why;
  if (device == "auto") {
    if (const auto cuda = runtime::load_cuda(&why)) return gpu(cuda, 0, target);
    RunDevice result = emulated(std::nullopt, target, options);
    result.why_no_gpu = why;
    return result;
  }
  if (device != "cuda" && !device.starts_with("cuda:")) {
    throw UsageError(
        fmt::format("--device {} is unknown; use auto, cuda:N, emulator or emulator:PROFILE{}",
                    device, device_meant(device)));
  }
  const int ordinal = device == "cuda" ? 0 : ordinal_of(device);
  const auto cuda = runtime::load_cuda(&why);
  constexpr int kNoDevice = 100;
  if (!cuda)
    throw runtime::DriverError(kNoDevice, "load_cuda",
                               fmt::format("no GPU for --device {}: {}", device, why));
  return gpu(cuda, ordinal, target);
}

}  // namespace sagegen::cli
