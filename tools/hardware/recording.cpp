#include "tools/hardware/recording.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <ctime>
#include <fstream>
#include <iterator>
#include <regex>

namespace sagegen::hardware {
namespace {

std::uint32_t crc_of(const Words& words) {
  return crc32(words.data(), words.size() * sizeof(words[0]));
}

// A float format by its position in a word.
struct Part {
  int shift, exponent_bits, fraction_bits;
};

// Distance in representable values; large where sign, NaN-ness or infinity differ. Zeros are equal.
int ulps_between(std::uint32_t x, std::uint32_t y, const Part& part) {
  constexpr int kFar = 1 << 30;
  const int width = part.exponent_bits + part.fraction_bits;
  const std::uint32_t mask = (1u << width) - 1u;
  const std::uint32_t infinity = ((1u << part.exponent_bits) - 1u) << part.fraction_bits;
  auto magnitude = [&](std::uint32_t word) { return (word >> part.shift) & mask; };
  auto negative = [&](std::uint32_t word) { return ((word >> (part.shift + width)) & 1u) != 0; };
  const std::uint32_t a = magnitude(x);
  const std::uint32_t b = magnitude(y);
  if (a > infinity || b > infinity) {
    return a > infinity && b > infinity ? 0 : kFar;
  }
  if (a == b && (a == 0 || negative(x) == negative(y))) {
    return 0;
  }
  if (a == infinity || b == infinity) {
    return kFar;
  }
  const std::int64_t signed_a = negative(x) ? -std::int64_t{a} : std::int64_t{a};
  const std::int64_t signed_b = negative(y) ? -std::int64_t{b} : std::int64_t{b};
  return static_cast<int>(std::min<std::int64_t>(std::llabs(signed_a - signed_b), kFar));
}

// The largest distance of the words' parts.
int word_ulps(Tolerance::Kind kind, std::uint32_t x, std::uint32_t y) {
  switch (kind) {
    case Tolerance::Kind::f32_ulps:
      return ulps_between(x, y, {0, 8, 23});
    case Tolerance::Kind::f16x2_ulps:
      return std::max(ulps_between(x, y, {0, 5, 10}), ulps_between(x, y, {16, 5, 10}));
    case Tolerance::Kind::bf16x2_ulps:
      return std::max(ulps_between(x, y, {0, 8, 7}), ulps_between(x, y, {16, 8, 7}));
    case Tolerance::Kind::bits:
      break;
  }
  return x == y ? 0 : 1;
}

bool within(const Tolerance& tolerance, std::uint32_t x, std::uint32_t y, int ulps) {
  if (ulps <= tolerance.ulps) {
    return true;
  }
  return tolerance.kind == Tolerance::Kind::f32_ulps && tolerance.absolute > 0 &&
         std::fabs(static_cast<double>(std::bit_cast<float>(x)) -
                   static_cast<double>(std::bit_cast<float>(y))) <= tolerance.absolute;
}

}  // namespace

std::string why_stale(const Recording& recording, const Probe& probe) {
  if (recording.generator != kGeneratorVersion) {
    return fmt::format("operands of generator version {}, and this is {}", recording.generator,
                       kGeneratorVersion);
  }
  const std::string ptx = probe_ptx(probe);
  if (recording.ptx_crc != crc32(ptx.data(), ptx.size())) {
    return "the probe's PTX has changed since";
  }
  if (recording.operands_crc != crc_of(probe_operands(probe, recording.seed))) {
    return "the probe's operands have changed since, without a new generator version";
  }
  const std::size_t words = static_cast<std::size_t>(probe.cases) * probe.output_words();
  if (recording.cases != probe.cases || recording.results.size() != words) {
    return fmt::format("{} cases of {} words in all, and the probe has {} of {}", recording.cases,
                       recording.results.size(), probe.cases, words);
  }
  return {};
}

std::string driver_release_in(const std::string& text) {
  static const std::regex release("\\s([0-9]{3,}(\\.[0-9]+)+)\\s");
  const std::string line = text.substr(0, text.find('\n')) + '\n';
  std::smatch found;
  return std::regex_search(line, found, release) ? found[1].str() : std::string{};
}

std::string driver_release(const runtime::Device& device) {
  if (device.api().name() != "cuda") {
    return {};
  }
  std::ifstream file("/proc/driver/nvidia/version");
  return driver_release_in({std::istreambuf_iterator<char>(file), {}});
}

Recording record(const runtime::Device& device, const Probe& probe, std::uint64_t seed) {
  struct Parameters {
    runtime::DevicePtr in, out;
    std::uint32_t cases, unused = 0;
  };
  struct ParametersWithMap {
    Parameters plain;
    runtime::TensorMap map;  // at a multiple of 64
  };
  const std::string ptx = probe_ptx(probe);
  const Words operands = probe_operands(probe, seed);
  Recording recording;
  recording.results.assign(static_cast<std::size_t>(probe.cases) * probe.output_words(), 0);

  const runtime::Kernel kernel(device, ptx, "probe", kWarpsPerBlock * kLanes, 0,
                               probe.map ? sizeof(ParametersWithMap) : sizeof(Parameters));
  runtime::Buffer in(device, operands.size() * sizeof(operands[0]));
  runtime::Buffer out(device, recording.results.size() * sizeof(recording.results[0]));
  in.upload(std::as_bytes(std::span(operands)));
  out.fill(kUntouchedResult & 0xffu);
  const int per_block = probe.cases_per_block();
  const runtime::Dim3 grid{.x = static_cast<unsigned>((probe.cases + per_block - 1) / per_block)};
  const Parameters parameters{
      .in = in.data(), .out = out.data(), .cases = static_cast<std::uint32_t>(probe.cases)};
  if (probe.map) {
    runtime::TensorMapLayout layout = *probe.map;
    layout.base = (probe.results == Probe::Results::by_body ? out : in).data();
    kernel.launch(grid,
                  ParametersWithMap{.plain = parameters, .map = make_tensor_map(device, layout)},
                  nullptr);
  } else {
    kernel.launch(grid, parameters, nullptr);
  }
  device.synchronize();
  out.download(std::as_writable_bytes(std::span(recording.results)));

  recording.probe = probe.name;
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  recording.date =
      fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
  recording.seed = seed;
  recording.cases = probe.cases;
  recording.ptx_crc = crc32(ptx.data(), ptx.size());
  recording.operands_crc = crc_of(operands);
  recording.device = device.name();
  recording.compute_capability = device.compute_capability();
  recording.api = device.api().name();
  recording.driver = driver_release(device);
  runtime::check(device.api(), device.api().driver_version(&recording.driver_version),
                 "cuDriverGetVersion");
  return recording;
}

Difference compare(const Probe& probe, const Recording& recording, const Words& other) {
  Difference difference;
  const std::size_t per_case = probe.output_words();
  if (recording.results.size() != other.size()) {
    difference.words = static_cast<int>(std::max(recording.results.size(), other.size()));
    difference.first = fmt::format("{} words against {}", recording.results.size(), other.size());
    return difference;
  }
  difference.compared = static_cast<int>(other.size());
  for (std::size_t i = 0; i < other.size(); ++i) {
    const std::uint32_t recorded = recording.results[i];
    const int ulps = word_ulps(probe.tolerance.kind, recorded, other[i]);
    difference.largest_ulps = std::max(difference.largest_ulps, ulps);
    if (within(probe.tolerance, recorded, other[i], ulps)) {
      continue;
    }
    if (difference.words++ == 0) {
      const std::size_t index = i / per_case;
      const auto threads = static_cast<std::size_t>(probe.threads());
      const std::size_t lane = i % threads;
      std::vector<std::string> operands;
      const Words all = probe_operands(probe, recording.seed);
      constexpr int kShown = 16;
      for (int word = 0; word < std::min(probe.inputs, kShown); ++word) {
        operands.push_back(fmt::format(
            "{:08x}",
            all[index * probe.input_words() + static_cast<std::size_t>(word) * threads + lane]));
      }
      if (probe.inputs > kShown) {
        operands.push_back(fmt::format("and {} more", probe.inputs - kShown));
      }
      difference.first = fmt::format(
          "case {}, word {}, lane {}: recorded {:08x}, now {:08x}; the lane's "
          "operands were {}",
          index, i % per_case / threads, lane, recorded, other[i], fmt::join(operands, " "));
    }
  }
  return difference;
}

Difference compare_with_expected(const Probe& probe, const Recording& recording) {
  if (!probe.expected) {
    return {};
  }
  const Words operands = probe_operands(probe, recording.seed);
  Words all;
  for (int index = 0; index < probe.cases; ++index) {
    const Words words = probe.expected(operands, index);
    all.insert(all.end(), words.begin(), words.end());
  }
  return compare(probe, recording, all);
}

}  // namespace sagegen::hardware
