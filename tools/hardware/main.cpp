// What real devices do, for machines with a GPU and no toolkit (tools/gpu_check.sh drives it):
//   sagegen-hardware record --device cuda:0 --out DIR   what each probe gives; resumes
//   sagegen-hardware replay DIR                         recordings against the emulator
//   sagegen-hardware compare A.safetensors B.safetensors
//   sagegen-hardware probes [--ptx NAME]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"
#include "tools/hardware/recorder.h"
#include "tools/hardware/replay.h"
#include "tools/reference/printable.h"
#include "tools/reference/tensor_file.h"
#include "tools/reference/whole_file.h"

namespace {

using namespace sagegen;
using namespace sagegen::hardware;
namespace fs = std::filesystem;

constexpr int kExitProblems = 1, kExitNoDevice = 3;
constexpr std::size_t kMaxMessage = 4000;  // bytes; what files hold may be quoted in it

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
    if (which.find_first_not_of("0123456789") != std::string::npos || which.size() > 3) {
      throw std::runtime_error(fmt::format("device '{}': cuda takes a number, as in cuda:0", text));
    }
    return runtime::Device(api, which.empty() ? 0 : std::stoi(which));
  }
  if (kind == "emulator") {
    for (int ordinal = 0; ordinal <= static_cast<int>(runtime::EmulatorProfile::ideal); ++ordinal) {
      if (runtime::to_string(static_cast<runtime::EmulatorProfile>(ordinal)) == which) {
        return runtime::Device(runtime::make_emulator(), ordinal);
      }
    }
  }
  throw std::runtime_error(fmt::format("device '{}' is neither cuda:N nor emulator:sm_XX", text));
}

std::vector<std::string> recordings_under(const std::string& directory) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.path().extension() == ".rec") {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

struct RecordOptions {
  std::string device = "cuda:0", out, only;
  std::uint64_t seed = 1;
};

int record_all(const RecordOptions& options) {
  if (!options.only.empty() && find_probe(options.only) == nullptr) {
    throw std::runtime_error(fmt::format("no probe is named {}", options.only));
  }
  const RecorderCounts counts =
      hardware::record_all({.open = [&] { return open_device(options.device); },
                            .out = options.out,
                            .only = options.only,
                            .seed = options.seed});
  fmt::print(
      "{} recorded, {} already there, {} not for this device, {} not modelled by the emulator, "
      "{} unexpected, {} failed\n",
      counts.recorded, counts.kept, counts.other_device, counts.waiting, counts.unexpected,
      counts.failed);
  const bool good = counts.unexpected + counts.failed == 0 && counts.recorded + counts.kept > 0;
  return good ? 0 : kExitProblems;
}

int replay_all(const std::string& directory) {
  const ReplayCounts counts = hardware::replay_all(
      recordings_under(directory), [](const Recording& recording, const Replay& result) {
        constexpr const char* kWords[] = {"agrees", "DIFFERS", "waiting", "STALE"};
        fmt::print("{:8} {:32} {}\n", kWords[static_cast<int>(result.verdict)],
                   reference::printable(recording.probe),
                   reference::printable(result.text, kMaxMessage));
      });
  fmt::print(
      "{} recordings agree, {} differ from the emulator, {} wait for a model, {} are stale{}\n",
      counts.agree, counts.differ, counts.waiting, counts.stale,
      counts.stale > 0 ? " and have to be made again" : "");
  return counts.good() ? 0 : kExitProblems;
}

// Two results of `sagegen run --out`: the relative L1 distance of each tensor, |a - b| over |a|.
int compare_files(const std::string& one, const std::string& other, double limit) {
  const reference::TensorFile a = reference::read_safetensors(one);
  const reference::TensorFile b = reference::read_safetensors(other);
  bool close = !a.tensors.empty();
  for (const reference::StoredTensor& x : a.tensors) {
    const reference::StoredTensor* y = b.find(x.name);
    if (y == nullptr || y->shape != x.shape) {
      throw std::runtime_error(fmt::format("{}: no tensor {} of the shape that {} has", other,
                                           reference::printable(x.name), one));
    }
    double distance = 0, size = 0, largest = 0;
    std::size_t different = 0;
    bool finite = true;
    for (std::size_t i = 0; i < x.data.size(); ++i) {
      if (x.data[i] == y->data[i]) {  // also infinities: LSE of rows without keys
        size += std::isfinite(x.data[i]) ? std::fabs(x.data[i]) : 0.0;
        continue;
      }
      ++different;
      finite = finite && std::isfinite(x.data[i]) && std::isfinite(y->data[i]);
      const double apart = std::fabs(static_cast<double>(x.data[i]) - y->data[i]);
      distance += apart;
      size += std::fabs(x.data[i]);
      largest = std::max(largest, apart);
    }
    const double relative = size > 0 ? distance / size : distance;
    const bool good = finite && relative <= limit;
    close = close && good;
    fmt::print("{} {}: relative L1 {:.3g}, largest {:.3g}, {} of {} values differ{}\n",
               good ? "close" : "APART", reference::printable(x.name), relative, largest, different,
               x.data.size(), finite ? "" : ", some not finite on one side");
  }
  return close ? 0 : kExitProblems;
}

void print_probes(const std::string& ptx_of) {
  if (!ptx_of.empty()) {
    const Probe* probe = find_probe(ptx_of);
    if (probe == nullptr) {
      throw std::runtime_error(fmt::format("no probe is named {}", ptx_of));
    }
    fmt::print("{}", probe_ptx(*probe));
    return;
  }
  for (const Probe& probe : all_probes()) {
    fmt::print("{:36} {:7} {:5} cases, {:4} KiB  {}\n", probe.name, probe.target, probe.cases,
               static_cast<std::size_t>(probe.cases) * probe.output_words() * 4 / 1024, probe.what);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"What real devices compute, recorded and compared with the emulator"};
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);

  RecordOptions options;
  CLI::App* record_command = app.add_subcommand("record", "run every probe and keep its results");
  record_command->add_option("--device", options.device, "cuda:N or emulator:sm_XX")
      ->capture_default_str();
  record_command->add_option("--out", options.out, "directory of the recordings; made if missing")
      ->required();
  record_command->add_option("--probe", options.only, "only this probe");
  record_command->add_option("--seed", options.seed, "of the operands")->capture_default_str();

  std::string directory;
  CLI::App* replay_command = app.add_subcommand(
      "replay",
      "compare recordings with the emulator; fails if one differs or is stale, or there is none");
  replay_command->add_option("directory", directory, "searched for *.rec")
      ->required()
      ->check(CLI::ExistingDirectory);

  std::string one, other;
  double limit = 1e-3;
  CLI::App* compare_command =
      app.add_subcommand("compare", "distance of two results of `sagegen run --out`");
  compare_command->add_option("one", one)->required()->check(CLI::ExistingFile);
  compare_command->add_option("other", other)->required()->check(CLI::ExistingFile);
  compare_command->add_option("--limit", limit, "largest relative L1 distance")
      ->capture_default_str();

  CLI::App* probes_command = app.add_subcommand("probes", "list the probes");
  std::string ptx_of;
  probes_command->add_option("--ptx", ptx_of, "print the PTX of this probe instead");
  try {
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {  // or --help
      const int code = app.exit(e);
      reference::flush_standard_output();
      return code;
    }
    int code = 0;
    if (record_command->parsed()) code = record_all(options);
    if (replay_command->parsed()) code = replay_all(directory);
    if (compare_command->parsed()) code = compare_files(one, other, limit);
    if (probes_command->parsed()) print_probes(ptx_of);
    reference::flush_standard_output();
    return code;
  } catch (const std::exception& e) {
    std::fputs((reference::printable(e.what(), kMaxMessage) + "\n").c_str(), stderr);
    return record_command->parsed() ? kExitNoDevice : kExitProblems;
  }
}
