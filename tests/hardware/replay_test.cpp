// What real devices computed, instruction by instruction, must come out of the emulator's profile
// of that device. Recordings lie under tests/hardware/recorded/<device>/ and are made by
// `sagegen-hardware record` on a machine with a GPU (tools/gpu_check.sh).
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "sagegen/runtime/error.h"
#include "tests/generated_kernels.h"
#include "tools/hardware/operands.h"
#include "tools/hardware/replay.h"

namespace sagegen::test {
namespace {

using namespace hardware;
using runtime::EmulatorProfile;
namespace fs = std::filesystem;

// Probes that the emulator does not execute yet. A probe leaves this list when the emulator learns
// it.
const std::set<std::string> kWaiting = {
    "wgmma_e4m3_f32_n8_rs_plain",
    "wgmma_e4m3_f16_n8_rs_plain",
    "wgmma_e5m2_f32_n8_rs_plain",
    "wgmma_e5m2_f16_n8_rs_plain",
    "wgmma_f16_f32_n8_rs_plain",
    "wgmma_f16_f16_n8_rs_plain",
    "wgmma_bf16_f32_n8_rs_plain",
    "wgmma_s8_s32_n8_rs_plain",
    "wgmma_s8_s32_n64_ss_plain",
    "wgmma_s8_s32_n64_ss_swizzle32",
    "wgmma_s8_s32_n64_ss_swizzle64",
    "wgmma_s8_s32_n64_ss_swizzle128",
    "wgmma_s8_s32_n64_rs_swizzle128",
    "wgmma_s8_s32_n128_ss_swizzle128",
    "wgmma_s8_s32_n128_rs_swizzle128",
    "wgmma_s8_s32_n256_ss_swizzle128",
    "wgmma_s8_s32_n256_rs_swizzle128",
    "wgmma_e4m3_f32_n64_rs_swizzle128",
    "wgmma_e4m3_f32_n128_rs_swizzle128",
    "wgmma_e4m3_f32_n136_rs_swizzle128",
    "wgmma_e4m3_f32_n256_rs_swizzle128",
    "wgmma_e4m3_f32_n64_ss_swizzle128",
    "wgmma_f16_f32_n64_ss_swizzle128",
    "wgmma_s8_s32_n64_ss_swizzle128_preset",
    "wgmma_s8_s32_n128_ss_swizzle128_preset",
    "tma_load_2d_u8_plainx112",
    "tma_load_2d_u8_swizzle32x32",
    "tma_load_2d_u8_swizzle64x64",
    "tma_load_2d_u8_swizzle128x128",
    "tma_load_3d_u8_plainx112",
    "tma_load_3d_u8_swizzle32x32",
    "tma_load_3d_u8_swizzle64x64",
    "tma_load_3d_u8_swizzle128x128",
    "tma_load_4d_u8_plainx112",
    "tma_load_4d_u8_swizzle32x32",
    "tma_load_4d_u8_swizzle64x64",
    "tma_load_4d_u8_swizzle128x128",
    "tma_load_2d_u8_swizzle128x48",
    "tma_load_2d_f16_swizzle128x128",
    "tma_load_2d_bf16_swizzle128x128",
    "tma_load_2d_s32_swizzle128x128",
    "tma_load_2d_f16_swizzle128x128_nan",
    "tma_store_3d_u8_plainx112",
    "tma_store_3d_u8_swizzle32x32",
    "tma_store_3d_u8_swizzle64x64",
    "tma_store_3d_u8_swizzle128x128",
    "tma_store_3d_f16_swizzle128x128",
    "bulk_load",
    "bulk_store",
};

constexpr int kCapabilities[] = {80, 86, 89, 90, 120};

// A directory of its own for one test, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (fs::temp_directory_path() / "sagegen-replay-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      throw std::runtime_error("cannot make a temporary directory");
    }
    path_ = name;
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

runtime::Device emulated(EmulatorProfile profile) {
  return runtime::Device(runtime::make_emulator(), static_cast<int>(profile));
}

Recording record_on(EmulatorProfile profile, const std::string& name, std::uint64_t seed = 5) {
  const Probe* probe = find_probe(name);
  REQUIRE(probe != nullptr);
  return record(emulated(profile), *probe, seed);
}

std::vector<std::string> hardware_recordings() {
  std::vector<std::string> paths;
  const fs::path root = fs::path(SAGEGEN_SOURCE_DIR) / "tests/hardware/recorded";
  if (fs::exists(root)) {
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (entry.path().extension() == ".rec") {
        paths.push_back(entry.path().string());
      }
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

TEST_CASE("the emulator agrees with every hardware recording") {
  const std::vector<std::string> paths = hardware_recordings();
  if (paths.empty()) {
    WARN(
        "no hardware recordings yet: the emulator's arithmetic follows published models only; "
        "tools/gpu_check.sh makes them on a machine with a GPU");
  }
  std::set<std::string> waiting;
  for (const std::string& path : paths) {
    const Recording recording = load(path);
    INFO(path);
    CHECK(recording.api == "cuda");
    const Replay result = replay(recording);
    INFO(result.text);
    CHECK(result.verdict != Verdict::stale);
    CHECK(result.verdict != Verdict::differs);
    if (result.verdict == Verdict::waiting) {
      waiting.insert(recording.probe);
    }
  }
  for (const std::string& name : waiting) {
    INFO("recorded on hardware, not modelled: " << name);
    CHECK(kWaiting.contains(name));
  }
}

TEST_CASE("the list of instructions that wait for a model is right") {
  for (const std::string& name : kWaiting) {
    INFO(name);
    CHECK(find_probe(name) != nullptr);
  }
  for (const Probe& probe : all_probes()) {
    for (const int capability : kCapabilities) {
      if (!runs_on(probe, capability)) {
        continue;
      }
      const std::string why = why_not_modelled(probe, *profile_of(capability));
      INFO(probe.name << " on compute capability " << capability << ": " << why);
      CHECK(why.empty() == !kWaiting.contains(probe.name));
    }
  }
}

TEST_CASE("a recording made by the emulator survives the file and replays equal") {
  const TemporaryDirectory directory;
  std::uintmax_t bytes = 0;  // of the recordings of one device, at most
  for (const Probe& probe : all_probes()) {
    if (kWaiting.contains(probe.name)) {
      bytes += 4 * static_cast<std::size_t>(probe.cases) * probe.output_words();
      continue;
    }
    for (const int capability : kCapabilities) {
      if (!runs_on(probe, capability)) {
        continue;
      }
      INFO(probe.name << " on compute capability " << capability);
      const Recording made = record(emulated(*profile_of(capability)), probe, 3);
      const std::string path = directory.file(probe.name + ".rec");
      save(made, path);
      bytes += fs::file_size(path);
      const Recording loaded = load(path);
      CHECK((loaded.results == made.results));  // not printed: there may be a million
      CHECK(loaded.device == made.device);
      CHECK(loaded.date == made.date);
      CHECK(loaded.seed == 3);
      CHECK(loaded.compute_capability == capability);
      CHECK(loaded.api == "emulator");
      const Replay result = replay(loaded);
      INFO(result.text);
      CHECK(result.verdict == Verdict::agrees);
      CHECK(result.difference.largest_ulps == 0);
      if (probe.tolerance.kind == Tolerance::Kind::bits) {  // one wrong bit is a difference
        Words flipped = made.results;
        const std::size_t at = crc32(probe.name.data(), probe.name.size()) % flipped.size();
        flipped[at] ^= 1u << (at % 32);
        CHECK(compare(probe, loaded, flipped).words == 1);
      }
      break;
    }
  }
  INFO(bytes << " bytes");
  CHECK(bytes < 16u << 20);
}

// Devices whose tensor cores compute alike stand in one group.
using Groups = std::vector<std::vector<EmulatorProfile>>;

void check_apart(const char* name, const Groups& groups) {
  const Probe& probe = *find_probe(name);
  struct Made {
    std::size_t group;
    EmulatorProfile profile;
    Recording recording;
  };
  std::vector<Made> made;
  for (std::size_t group = 0; group < groups.size(); ++group) {
    for (const EmulatorProfile profile : groups[group]) {
      made.push_back({group, profile, record_on(profile, name)});
    }
  }
  for (const Made& one : made) {
    for (const Made& other : made) {
      INFO(name << ": " << runtime::to_string(one.profile) << " and "
                << runtime::to_string(other.profile));
      const Difference difference = compare(probe, one.recording, other.recording.results);
      if (one.group == other.group) {
        CHECK(difference.words == 0);
      } else {
        CHECK(difference.words > 20);
      }
    }
  }
}

TEST_CASE("the operands tell every two models of the tensor cores apart") {
  using P = EmulatorProfile;
  const Groups sixteen_bits = {{P::sm_80, P::sm_86, P::sm_89}, {P::sm_90, P::sm_120}, {P::ideal}};
  for (const char* name :
       {"mma_m16n8k16_f16_f16_f32", "mma_m16n8k16_f16_f16_f16", "mma_m16n8k8_f16_f16_f32",
        "mma_m16n8k16_bf16_bf16_f32", "mma_m16n8k8_tf32_tf32_f32", "wmma_m16n16k16_f16_f32"}) {
    check_apart(name, sixteen_bits);
  }
  const Groups eight_bits = {{P::sm_89}, {P::sm_90}, {P::sm_120}, {P::ideal}};
  for (const char* name :
       {"mma_m16n8k32_e4m3_e4m3_f32", "mma_m16n8k32_e4m3_e4m3_f16", "mma_m16n8k32_e5m2_e5m2_f32",
        "mma_m16n8k32_e5m2_e5m2_f16", "mma_m16n8k32_e4m3_e5m2_f32", "mma_m16n8k16_e4m3_e4m3_f32"}) {
    check_apart(name, eight_bits);
  }
  check_apart("mma_m16n8k64_s4_s32",
              {{P::sm_80, P::sm_86, P::sm_89, P::sm_90, P::sm_120, P::ideal}});
}

// README.md, "Record first". Both questions need operands that only a few of the general ones have.
TEST_CASE("the first probes ask what the published models leave open") {
  const std::string first[] = {"mma_m16n8k16_f16_f16_f16_zero_sign",
                               "mma_m16n8k16_bf16_bf16_f32_zero_beside_huge",
                               "mma_m16n8k8_tf32_tf32_f32_zero_beside_huge"};
  for (std::size_t i = 0; i < std::size(first); ++i) CHECK(all_probes()[i].name == first[i]);

  // The emulator gives -0 to negative sums that vanish; +0 is what the other model says.
  for (const EmulatorProfile profile : {EmulatorProfile::sm_80, EmulatorProfile::sm_90}) {
    const Recording signs = record_on(profile, first[0]);
    std::size_t minus = 0, plus = 0;
    for (const std::uint32_t word : signs.results) {
      for (const std::uint32_t half : {word & 0xffffu, word >> 16}) {
        minus += half == 0x8000u ? 1 : 0;
        plus += half == 0 ? 1 : 0;
      }
    }
    CHECK(minus > 1000);
    CHECK(plus > 1000);
  }

  // If the zero's product counted, with -126 and its partner's exponent, all other terms would lose bits:
  // with the partner cut down to 1 it never counts, and the emulator, which leaves it out, gives the same.
  for (const std::string& name : {first[1], first[2]}) {
    const Probe& probe = *find_probe(name);
    const bool wide = name.find("tf32") != std::string::npos;
    const int elements = wide ? 1 : 2;  // of a word
    const Words operands = probe_operands(probe, 5);
    const auto inputs = static_cast<std::size_t>(probe.inputs);
    std::size_t zeros = 0, huge = 0;
    Words without = operands;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      if (i / kLanes % inputs >= 6) continue;  // C
      for (int e = 0; e < elements; ++e) {
        const std::uint32_t code = wide ? operands[i] >> 16 : operands[i] >> (16 * e) & 0xffffu;
        const std::uint32_t field = code >> 7 & 0xffu;
        zeros += (wide ? operands[i] >> 13 << 14 : (code & 0x7fffu)) == 0 ? 1 : 0;
        if (field < 127 + 100) continue;
        ++huge;
        const int shift = wide ? 16 : 16 * e;
        without[i] = (without[i] & ~(0x7f80u << shift)) | 0x3f80u << shift;
      }
    }
    CHECK(zeros > 500);
    CHECK(huge > 500);
    Probe cut = probe;
    const std::size_t words = probe.input_words();
    cut.fill = [&](int index, Random&, Words& out) {
      std::copy_n(without.begin() + static_cast<std::ptrdiff_t>(index * words), words, out.begin());
    };
    for (const EmulatorProfile profile : {EmulatorProfile::sm_80, EmulatorProfile::sm_90}) {
      const Recording as_is = record(emulated(profile), probe, 5);
      CHECK((as_is.results == record(emulated(profile), cut, 5).results));
    }
  }
}

TEST_CASE("each kind of operands tells some models apart") {
  std::set<std::pair<int, int>> telling;
  const Probe& probe = *find_probe("mma_m16n8k32_e4m3_e4m3_f32");
  const EmulatorProfile profiles[] = {EmulatorProfile::sm_89, EmulatorProfile::sm_90,
                                      EmulatorProfile::sm_120, EmulatorProfile::ideal};
  const Words reference = record_on(profiles[0], probe.name).results;
  for (const EmulatorProfile profile : profiles) {
    const Words results = record_on(profile, probe.name).results;
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (results[i] != reference[i]) {
        const int index = static_cast<int>(i / probe.output_words());
        telling.insert({index % kFills, index / kFills % kFillsC});
      }
    }
  }
  for (int fill = 0; fill < kFills; ++fill) {
    INFO("fill " << fill);
    CHECK(std::any_of(telling.begin(), telling.end(),
                      [&](const auto& pair) { return pair.first == fill; }));
  }
  for (int fill = 0; fill < kFillsC; ++fill) {
    INFO("accumulator fill " << fill);
    CHECK(std::any_of(telling.begin(), telling.end(),
                      [&](const auto& pair) { return pair.second == fill; }));
  }
  // One product against half a unit of C's last place: truncation and rounding to even part.
  CHECK(telling.contains({static_cast<int>(Fill::single), static_cast<int>(FillC::tie)}));
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}
void check_refused(const std::string& path, const std::string& reason) {
  try {
    load(path);
    FAIL("loaded, expected: " << reason);
  } catch (const RecordingError& e) {
    CHECK_THAT(e.what(), Catch::Contains(reason));
    CHECK_THAT(e.what(), Catch::Contains(path));
  }
}

TEST_CASE("the driver's release is read from what its kernel module says of itself") {
  CHECK(driver_release_in("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n"
                          "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n") == "550.54.15");
  CHECK(driver_release_in("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  "
                          "Release Build  (user@host)\n") == "580.159.04");
  CHECK(driver_release_in("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86") == "570.86");
  CHECK(driver_release_in("GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n").empty());
  CHECK(driver_release_in("no release\nKernel Module  550.54.15 \n").empty());
  CHECK(driver_release_in("").empty());
}

TEST_CASE("damaged recordings are refused") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("shfl_bfly.rec");
  save(record_on(EmulatorProfile::sm_80, "shfl_bfly"), path);
  const std::string good = read(path);
  const std::size_t body = good.find('\n') + 1;

  std::string flipped = good;
  flipped[body + 100] ^= 1;
  write(path, flipped);
  check_refused(path, "are damaged");
  write(path, good.substr(0, good.size() - 4));
  check_refused(path, "are cut off or more than the header says");
  write(path, good + "more");
  check_refused(path, "4 bytes follow");
  write(path, good.substr(0, body / 2));
  check_refused(path, "not a recording");
  write(path, "");
  check_refused(path, "not a recording");
  write(path, "[1, 2]\n");
  check_refused(path, "not a recording");
  auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  write(path, replaced("\"schema\":3", "\"schema\":2"));
  check_refused(path, "schema 2, and this program reads 3");
  write(path, replaced("\"schema\":3", "\"schema\":[]"));
  check_refused(path, "header");
  write(path, replaced("\"format\":\"sagegen-recording\"", "\"format\":3"));
  check_refused(path, "not a recording");
  write(path, replaced("\"result_words\":3072", "\"result_words\":3071"));
  check_refused(path, "are cut off or more than the header says");
  write(path, replaced("\"result_words\":3072", "\"result_words\":3073"));
  check_refused(path, "are fewer than the header says");
  write(path, replaced("\"result_words\":3072", "\"result_words\":30720000000"));
  check_refused(path, "30720000000 words, too many");
  write(path, replaced("\"device\":\"", "\"device\":\"" + std::string(20000, 'x')));
  check_refused(path, "not a recording");
  write(path, replaced("\"seed\":5", "\"sEEd\":5"));
  check_refused(path, "seed");
  check_refused(directory.file("absent.rec"), "cannot be read: No such file");
  check_refused("/proc/self/mem", "cannot be read: Input/output error");
  write(path, good);
  CHECK(load(path).results.size() > 0);

  // Numbers that JSON allows and the format does not.
  auto number = [&](const std::string& key) {
    const std::size_t at = good.find("\"" + key + "\":") + key.size() + 3;
    return std::pair{at, good.find_first_of(",}", at) - at};
  };
  const auto [crc_at, crc_length] = number("results_crc32");
  std::string other_crc = good;
  write(path, other_crc.replace(crc_at, crc_length, "1"));
  check_refused(path, "checksum");
  for (const char* key :
       {"schema", "compute_capability", "driver_version", "generator", "seed", "cases", "ptx_crc32",
        "operands_crc32", "result_words", "results_crc32"}) {
    const auto [at, length] = number(key);
    const std::string value = good.substr(at, length);
    for (const std::string& wrong :
         {value + ".9", std::string("1e300"), std::string("-1"), std::string("3.0"),
          "18446744073709551616" + value, std::string("true"), "\"" + value + "\"",
          std::string("null")}) {
      INFO(key << ": " << wrong);
      std::string text = good;
      write(path, text.replace(at, length, wrong));
      check_refused(path, std::string(key) + " is ");
    }
    if (std::string(key) == "seed" || std::string(key) == "result_words") continue;
    std::string text = good;  // the same in the lowest 32 bits
    write(path,
          text.replace(at, length, std::to_string((std::uint64_t{1} << 32) + std::stoull(value))));
    check_refused(path, std::string(key) + " is ");
  }
  for (const auto& [key, wrong] : {std::pair{"cases", "0"},
                                   {"compute_capability", "8"},
                                   {"compute_capability", "8000"},
                                   {"result_words", "0"}}) {
    const auto [at, length] = number(key);
    std::string text = good;
    write(path, text.replace(at, length, wrong));
    check_refused(path, std::string(key) + " is " + wrong + ", and must be");
  }
}

TEST_CASE("a replay fails if a recording differs or is stale, or there is none") {
  const TemporaryDirectory directory;
  const Recording good = record_on(EmulatorProfile::sm_80, "shfl_bfly");
  Recording stale = good, waiting = good, wrong = good;
  stale.generator = kGeneratorVersion + 1;
  waiting.compute_capability = 75;
  wrong.results[0] ^= 1;
  auto replayed = [&](const std::vector<Recording>& recordings) {
    std::vector<std::string> paths;
    for (const Recording& recording : recordings) {
      paths.push_back(directory.file(std::to_string(paths.size()) + ".rec"));
      save(recording, paths.back());
    }
    std::size_t told = 0;
    const ReplayCounts counts = replay_all(paths, [&](const Recording&, const Replay&) { ++told; });
    CHECK(told == recordings.size());
    return counts.good();
  };
  CHECK(replayed({good}));
  CHECK(replayed({good, waiting}));
  CHECK_FALSE(replayed({}));
  CHECK_FALSE(replayed({stale}));
  CHECK(replayed({waiting}));  // a device without a model: its recordings are as wanted
  CHECK_FALSE(replayed({good, stale}));
  CHECK_FALSE(replayed({good, wrong}));
}

TEST_CASE("a recording that disagrees is reported with case, lane and operands") {
  Recording recording = record_on(EmulatorProfile::sm_89, "mma_m16n8k32_e4m3_e4m3_f32");
  const std::size_t index = (17 * 4 + 2) * 32 + 9;  // case 17, word 2, lane 9
  recording.results[index] ^= 1;
  const Replay result = replay(recording);
  CHECK(result.verdict == Verdict::differs);
  CHECK(result.difference.words == 1);
  CHECK_THAT(result.text, Catch::Contains("case 17, word 2, lane 9"));
  CHECK_THAT(result.text,
             Catch::Contains(fmt::format("recorded {:08x}, now {:08x}", recording.results[index],
                                         recording.results[index] ^ 1)));
}

TEST_CASE("recordings of other probes, operands or devices do not pass for agreement") {
  const Recording good = record_on(EmulatorProfile::sm_80, "shfl_bfly");
  CHECK(replay(good).verdict == Verdict::agrees);
  Recording other = good;
  other.generator = kGeneratorVersion + 1;
  CHECK(replay(other).verdict == Verdict::stale);
  other = good;
  other.ptx_crc ^= 1;
  CHECK(replay(other).verdict == Verdict::stale);
  other = good;
  other.seed += 1;
  CHECK(replay(other).verdict == Verdict::stale);
  other = good;
  other.cases -= 1;
  CHECK(replay(other).verdict == Verdict::stale);
  other = good;
  other.probe = "shfl_sideways";
  CHECK(replay(other).verdict == Verdict::stale);
  other = good;
  other.compute_capability = 75;
  CHECK(replay(other).verdict == Verdict::waiting);
}

TEST_CASE("special functions are held to a bound in units of the last place") {
  Probe probe = *find_probe("rcp_approx_f32");
  REQUIRE(probe.tolerance.ulps == 1);
  Recording recording;
  recording.probe = probe.name;
  auto differing = [&](std::uint32_t recorded, std::uint32_t now) {
    recording.results.assign(32, recorded);
    return compare(probe, recording, Words(32, now)).words;
  };
  CHECK(differing(0x3f800000, 0x3f800000) == 0);
  CHECK(differing(0x3f800000, 0x3f800001) == 0);
  CHECK(differing(0x3f800000, 0x3f7fffff) == 0);
  CHECK(differing(0x3f800000, 0x3f800002) == 32);
  CHECK(differing(0x00000000, 0x80000000) == 0);
  CHECK(differing(0x00000001, 0x80000000) == 0);
  CHECK(differing(0x00000001, 0x80000001) == 32);
  CHECK(differing(0x7f800000, 0x7f7fffff) == 32);
  CHECK(differing(0x7f800000, 0xff800000) == 32);
  CHECK(differing(0x7fffffff, 0x7fc00000) == 0);
  CHECK(differing(0x7fffffff, 0x7f800000) == 32);
  probe.tolerance = {.kind = Tolerance::Kind::f32_ulps, .ulps = 0, .absolute = 0x1p-20};
  CHECK(differing(0x00000000, 0x35000000) == 0);   // 2^-21
  CHECK(differing(0x00000000, 0x35900000) == 32);  // 1.125 * 2^-20
  probe.tolerance = {.kind = Tolerance::Kind::f16x2_ulps, .ulps = 2};
  CHECK(differing(0x3c003c00, 0x3c023bfe) == 0);
  CHECK(differing(0x3c003c00, 0x3c033c00) == 32);
  CHECK(differing(0x7fff3c00, 0x7e013c00) == 0);
  probe.tolerance.kind = Tolerance::Kind::bf16x2_ulps;
  CHECK(differing(0x3f803f80, 0x3f7e3f82) == 0);
  CHECK(differing(0x3f803f80, 0x3f803f83) == 32);
}

TEST_CASE("operands of this generator version never change") {
  // If this fails, the change needs a new kGeneratorVersion: recordings store results only. New probes
  // change nothing of the others; they have a sum of their own.
  const std::set<std::string> later = {"mma_m16n8k16_f16_f16_f16_zero_sign",
                                       "mma_m16n8k16_bf16_bf16_f32_zero_beside_huge",
                                       "mma_m16n8k8_tf32_tf32_f32_zero_beside_huge",
                                       "mma_m16n8k8_tf32_tf32_f32",
                                       "mma_m16n8k4_tf32_tf32_f32",
                                       "mma_m16n8k256_b1_xor",
                                       "mma_m16n8k256_b1_and",
                                       "mma_m8n8k4_f64",
                                       "mma_m16n8k16_f64",
                                       "wmma_m16n16k16_f16_f32",
                                       "setp_lt_f32",
                                       "setp_ge_f32",
                                       "setp_leu_f32",
                                       "setp_num_f32",
                                       "mma_m16n8k32_s8_u8_s32",
                                       "rcp_rn_f32"};
  Words checksums, later_checksums;
  std::set<std::string> names;
  for (const Probe& probe : all_probes()) {
    const Words operands = probe_operands(probe, 1);
    CHECK(operands.size() == static_cast<std::size_t>(probe.cases) * probe.input_words());
    (later.contains(probe.name) ? later_checksums : checksums)
        .push_back(crc32(operands.data(), operands.size() * 4));
    CHECK(names.insert(probe.name).second);
    CHECK(probe.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_N") ==
          std::string::npos);
  }
  CHECK(kGeneratorVersion == 2);
  CHECK(crc32(checksums.data(), checksums.size() * 4) == 0x527201d1u);
  CHECK(later_checksums.size() == later.size());
  CHECK(crc32(later_checksums.data(), later_checksums.size() * 4) == 0x9a4d3468u);
  CHECK(crc32("123456789", 9) == 0xcbf43926u);  // the check value of CRC-32
  // The exhaustive ones are.
  const Words halves = probe_operands(*find_probe("cvt_e4m3x2_f16x2_all"), 1);
  std::set<std::uint32_t> values;
  for (const std::uint32_t word : halves) {
    values.insert(word & 0xffffu);
    values.insert(word >> 16);
  }
  CHECK(values.size() == 65536);
}

// Opcodes with their modifiers of a PTX text.
std::set<std::string> opcodes(const std::string& ptx) {
  std::set<std::string> found;
  std::istringstream lines(ptx);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word.starts_with('@')) {
      words >> word;
    }
    if (!word.empty() && std::isalpha(static_cast<unsigned char>(word[0])) != 0) {
      found.insert(word.substr(0, word.find(';')));
    }
  }
  return found;
}

// Instructions whose results are a device's own affair, unlike moves, addresses and integer
// arithmetic.
bool needs_probe(const std::string& opcode) {
  for (const char* plain : {"mov.", "ld.", "st.", "selp."}) {
    if (opcode.starts_with(plain)) {
      return false;
    }
  }
  for (const char* part : {".f32", ".f16", ".bf16", ".e4m3", "mma.", "ldmatrix", "shfl", "prmt",
                           ".relu", "cp.async.cg", "cp.async.ca"}) {
    if (opcode.find(part) != std::string::npos) {
      return true;
    }
  }
  return false;
}

TEST_CASE("every instruction of generated/ that is worth it has a probe") {
  std::set<std::string> probed;
  for (const Probe& probe : all_probes()) {
    probed.merge(opcodes(probe_ptx(probe)));
  }
  std::set<std::string> used;
  for (const auto& [name, ptx] : sagegen::test::generated_kernels()) used.merge(opcodes(ptx));
  if (used.empty()) {
    WARN("generated/ has no PTX");
  }
  for (const std::string& opcode : used) {
    INFO(opcode);
    CHECK((!needs_probe(opcode) || probed.contains(opcode)));
  }
  // The sieve itself.
  CHECK(needs_probe("fma.rn.f32"));
  CHECK(needs_probe("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"));
  CHECK(!needs_probe("add.s32"));
  CHECK(opcodes("\t@!%p1 bra \t$L__1;\n\tret;\n// x\n$L__1:\n") ==
        std::set<std::string>{"bra", "ret"});
}

std::string ptxas() {
  for (const char* path : {"/usr/local/cuda/bin/ptxas", "/usr/bin/ptxas"}) {
    if (fs::exists(path)) {
      return path;
    }
  }
  return "";
}

TEST_CASE("every probe assembles for the devices that it names") {
  if (ptxas().empty()) {
    WARN("no ptxas on this machine: the probes' PTX is checked by the emulator only");
    return;
  }
  const TemporaryDirectory directory;
  for (const Probe& probe : all_probes()) {
    INFO(probe.name);
    write(directory.file("probe.ptx"), probe_ptx(probe));
    const std::string command = fmt::format("{} -arch {} -o {} {} > {} 2>&1", ptxas(), probe.target,
                                            directory.file("probe.cubin"),
                                            directory.file("probe.ptx"), directory.file("log"));
    const int status = std::system(command.c_str());
    INFO(read(directory.file("log")));
    CHECK(status == 0);
    CHECK_THAT(read(directory.file("log")), !Catch::Contains("C75"));
  }
}

}  // namespace
}  // namespace sagegen::test
