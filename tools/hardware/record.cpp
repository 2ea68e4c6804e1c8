// Records what the probes give on a device, one file each; existing up-to-date recordings are kept, so
// that an interrupted run continues. With --replay it compares recordings with the emulator instead.
//   sagegen-record --device cuda:0 --out DIR
//   sagegen-record --replay DIR
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"
#include "tools/hardware/recording.h"
#include "tools/hardware/replay.h"

namespace {

using namespace sagegen;
using namespace sagegen::hardware;

constexpr int kExitProblems = 1, kExitUsage = 2, kExitNoDevice = 3;

// "cuda:0", "emulator:sm_89". Throws std::runtime_error naming what is missing.
runtime::Device open_device(const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  const std::string which = colon == std::string::npos ? "" : text.substr(colon + 1);
  if (kind == "cuda") {
    std::string why;
    auto api = runtime::load_cuda(&why);
    if (api == nullptr) {
      throw std::runtime_error(fmt::format("no CUDA device: {}", why));
    }
    return runtime::Device(api, which.empty() ? 0 : std::stoi(which));
  }
  if (kind == "emulator") {
    using runtime::EmulatorProfile;
    for (const auto profile :
         {EmulatorProfile::sm_80, EmulatorProfile::sm_86, EmulatorProfile::sm_89,
          EmulatorProfile::sm_90, EmulatorProfile::sm_120, EmulatorProfile::ideal}) {
      if (runtime::to_string(profile) == which) {
        return runtime::Device(runtime::make_emulator(), static_cast<int>(profile));
      }
    }
  }
  throw std::runtime_error(fmt::format("device '{}' is neither cuda:N nor emulator:sm_XX", text));
}

// Every recording of a directory against the emulator. Returns how many differ.
int replay_directory(const std::string& directory) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.path().extension() == ".rec") {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  int differing = 0;
  for (const std::string& path : paths) {
    const Recording recording = load(path);
    const Replay result = replay(recording);
    constexpr const char* kWords[] = {"agrees", "DIFFERS", "waiting", "stale"};
    fmt::print("{:8} {:32} {}\n", kWords[static_cast<int>(result.verdict)], recording.probe,
               result.text);
    differing += result.verdict == Verdict::differs ? 1 : 0;
  }
  fmt::print("{} recordings, {} differ from the emulator\n", paths.size(), differing);
  return differing;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Records, instruction by instruction, what a device computes"};
  std::string device_text = "cuda:0", out;
  std::string only, replayed;
  std::uint64_t seed = 1;
  bool list = false;
  app.add_option("--device", device_text, "cuda:N or emulator:sm_XX")->capture_default_str();
  app.add_option("--out", out, "directory of the recordings; made if missing");
  app.add_option("--probe", only, "only this probe");
  app.add_option("--seed", seed, "seed of the operands")->capture_default_str();
  app.add_option("--replay", replayed,
                 "compare the recordings of this directory with the emulator, and stop");
  app.add_flag("--list", list, "print the probes and stop");
  CLI11_PARSE(app, argc, argv);
  if (list) {
    for (const Probe& probe : all_probes()) {
      fmt::print("{:32} sm_{}{} {:5} cases  {}\n", probe.name, probe.compute_capability,
                 probe.target.back() == 'a' ? "a" : " ", probe.cases, probe.what);
    }
    return 0;
  }
  if (!replayed.empty()) {
    try {
      return replay_directory(replayed) == 0 ? 0 : kExitProblems;
    } catch (const std::exception& e) {
      fmt::print(stderr, "{}\n", e.what());
      return kExitProblems;
    }
  }
  if (out.empty()) {
    fmt::print(stderr, "--out DIR is missing: where the recordings go\n");
    return kExitUsage;
  }
  try {
    const runtime::Device device = open_device(device_text);
    const int capability = device.compute_capability();
    fmt::print(stderr, "{} (compute capability {}.{})\n", device.name(), capability / 10,
               capability % 10);
    std::filesystem::create_directories(out);
    int recorded = 0, kept = 0, failed = 0, skipped = 0;
    for (const Probe& probe : all_probes()) {
      if (!only.empty() && probe.name != only) {
        continue;
      }
      if (!runs_on(probe, capability)) {
        ++skipped;
        continue;
      }
      const std::string path = fmt::format("{}/{}.rec", out, probe.name);
      try {
        if (std::filesystem::exists(path) && why_stale(load(path), probe).empty()) {
          ++kept;
          continue;
        }
      } catch (const RecordingError& e) {
        fmt::print(stderr, "{}; recording again\n", e.what());
      }
      try {
        save(record(device, probe, seed), path);
        fmt::print(stderr, "recorded {}\n", probe.name);
        ++recorded;
      } catch (const Error& e) {
        fmt::print(stderr, "FAILED {}: {}\n", probe.name, e.what());
        ++failed;
      }
    }
    fmt::print("{} recorded, {} already there, {} not for this device, {} failed\n", recorded, kept,
               skipped, failed);
    return failed == 0 && recorded + kept > 0 ? 0 : kExitProblems;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return kExitNoDevice;
  }
}
