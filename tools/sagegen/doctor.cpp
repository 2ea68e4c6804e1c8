// `sagegen doctor`: what this machine has and what is wrong with it, with advice.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/code_cache.h"
#include "sagegen/runtime/tuning.h"
#include "templates/attention/plan_tuned.h"
#include "tools/model/ptxas.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/progress.h"
#include "tools/sagegen/run_inputs.h"
#include "tools/sagegen/run_job.h"
#include "tools/sagegen/run_judge.h"

namespace sagegen::cli {
namespace {

struct DoctorCommand {
  bool quick = false;
};

// missing: something is not there that not everybody needs. bad: something that is there does not work.
enum class State { good, missing, bad };

std::string_view word_of(State state) {
  switch (state) {
    case State::good:
      return "good";
    case State::missing:
      return "missing";
    case State::bad:
      return "BAD";
  }
  return "";
}

struct Check {
  std::string name;
  State state;
  std::string what;
  std::string advice = {};
};

// ---- the machine ----------------------------------------------------------------------------------

std::string in_a_container_or_wsl() {
  std::error_code ignored;
  if (std::filesystem::exists("/usr/lib/wsl/lib", ignored)) return "WSL";
  for (const char* sign : {"/.dockerenv", "/run/.containerenv"}) {
    if (std::filesystem::exists(sign, ignored)) return "a container";
  }
  return {};
}

// Why libcuda may not be found, or may find nothing, as far as the file system tells.
std::string advice_without_cuda() {
  std::error_code ignored;
  const std::string where = in_a_container_or_wsl();
  const bool kernel_module = std::filesystem::exists("/proc/driver/nvidia/version", ignored);
  const bool device_files = std::filesystem::exists("/dev/nvidiactl", ignored);
  if (kernel_module && device_files && ::access("/dev/nvidiactl", R_OK | W_OK) != 0) {
    return "the kernel module is loaded, but this user may not open /dev/nvidiactl: join the group "
           "that owns it "
           "(`ls -l /dev/nvidia*`)";
  }
  if (kernel_module) {
    return where == "a container"
               ? "the kernel module is loaded, and this is a container: start it with the GPUs "
                 "passed in (`docker run "
                 "--gpus all`, with the NVIDIA Container Toolkit)"
               : "the kernel module is loaded: install the user-space driver of the same version "
                 "(libcuda1 or "
                 "nvidia-driver-cuda), or set LD_LIBRARY_PATH to where libcuda.so.1 is";
  }
  if (where == "WSL")
    return "this is WSL: install the NVIDIA driver for Windows, none in WSL, and restart WSL";
  if (where == "a container")
    return "this is a container: the host has no NVIDIA driver, or the GPUs are not passed in "
           "(`docker run --gpus all`)";
  return "if there is a GPU, install NVIDIA's driver; without one the emulator runs the same PTX "
         "on the CPU";
}

Check driver_check(const std::shared_ptr<runtime::DriverApi>& cuda, const std::string& why) {
  if (!cuda) {
    std::string advice = advice_without_cuda();
    if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr) {
      advice = fmt::format(
          "CUDA_VISIBLE_DEVICES is \"{}\", which may hide the GPUs: unset it and try again; else "
          "{}",
          visible, advice);
    }
    return {"driver", State::missing, why, advice};
  }
  int version = 0, devices = 0;
  if (cuda->driver_version(&version) != runtime::Result::success ||
      cuda->device_count(&devices) != runtime::Result::success) {
    return {"driver", State::bad, "libcuda is there, and does not answer",
            "restart the machine, or reinstall the driver"};
  }
  return {"driver", State::good,
          fmt::format("CUDA {}.{}, {}", version / 1000, version % 1000 / 10,
                      counted(static_cast<std::uint64_t>(devices), "device"))};
}

// Which targets an old driver cannot compile for.
Check ptx_check(runtime::DriverApi& cuda) {
  int version = 0;
  runtime::check(cuda, cuda.driver_version(&version), "cuDriverGetVersion");
  std::string behind;
  for (const TargetInfo& info : supported_targets()) {
    const int first = runtime::first_cuda_for(info.target);
    if (version >= first) continue;
    behind += fmt::format("{}{} needs CUDA {}.{}", behind.empty() ? "" : ", ", info.name,
                          first / 1000, first % 1000 / 10);
  }
  if (behind.empty()) return {"PTX", State::good, "the driver compiles the PTX of every target"};
  return {"PTX", State::missing, behind,
          "GPUs of these targets run the kernels of an older one until the driver is updated"};
}

// ---- a device -------------------------------------------------------------------------------------

// A small problem with rows beyond whole tiles, quantized, attended and judged against fp64.
Check self_test(const RunDevice& on) {
  const std::string name = on.name + ", self-test";
  try {
    InputOptions input;
    input.shape = {
        .batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 70, .kv_len = 150, .head_dim = 64};
    input.dtype = "f16";
    attention::Spec spec = attention::usual_spec(on.target);
    spec.head_dim = 64;
    const Kernel kernel(attention::family(), spec, on.target);
    AttentionJob job = make_job(load_run_inputs(input), kernel, {}, input.seed);
    job.source = runtime::embedded_ptx();
    const AttentionResult result = run_attention(job, on);
    const Judgement judgement = judge(job, result, on, {.rows = 0});
    if (judgement.passed && result.findings.empty()) {
      return {name, State::good,
              fmt::format("{}: relative L1 {:.4f} (its formats cost {:.4f})", result.kernels.back(),
                          judgement.kernel.o.relative_l1, judgement.model.o.relative_l1)};
    }
    return {name, State::bad, fmt::format("{} computes wrong numbers", kernel.key()),
            fmt::format("`sagegen run {} --device {}` says more; please report it", kernel.key(),
                        on.name)};
  } catch (const Error& error) {
    return {name, State::bad, error.what(),
            "see the driver's log (`dmesg | grep -i nvrm`), and whether another process has lost "
            "the device"};
  }
}

constexpr int kExclusiveProcess = 3, kProhibited = 2;  // CUcomputemode

std::vector<Check> gpu_checks(const std::shared_ptr<runtime::DriverApi>& cuda, int ordinal,
                              bool quick) {
  const std::string name = fmt::format("cuda:{}", ordinal);
  int mode = 0;
  if (cuda->device_attribute(&mode, runtime::DeviceAttribute::compute_mode, ordinal) ==
          runtime::Result::success &&
      mode == kProhibited) {
    return {{name, State::bad, "its compute mode is prohibited",
             "`nvidia-smi -i " + std::to_string(ordinal) +
                 " -c DEFAULT` as root lets programs use it"}};
  }
  try {
    const RunDevice on = open_run_device(name, "", {});
    const int capability = on.device.compute_capability();
    Check found{name, State::good,
                fmt::format("{}, compute capability {}.{}, runs {}{}",
                            to_string(runtime::fingerprint_of(on.device)), capability / 10,
                            capability % 10, to_string(on.target),
                            mode == kExclusiveProcess ? "; one process at a time may use it" : "")};
    if (!on.note.empty()) found = {name, State::missing, found.what, on.note};
    std::vector<Check> checks{std::move(found)};
    if (!quick) checks.push_back(self_test(on));
    return checks;
  } catch (const Error& error) {
    return {{name, State::bad, error.what(), "see `sagegen devices` and `nvidia-smi`"}};
  }
}

// ---- files ----------------------------------------------------------------------------------------

Check cache_check() {
  const std::filesystem::path folder = runtime::cache_folder();
  if (folder.empty()) {
    return {"cache", State::missing,
            "neither SAGEGEN_CACHE_DIR, nor XDG_CACHE_HOME, nor HOME is set",
            "set SAGEGEN_CACHE_DIR to a folder that survives restarts"};
  }
  if (const std::string why = why_no_new_folder(folder / "tuning"); !why.empty()) {
    return {"cache", State::bad, why,
            "set SAGEGEN_CACHE_DIR to a folder that can be written; what is there is read all the "
            "same"};
  }
  try {
    std::size_t good = 0;
    std::string damaged;
    const runtime::TuningDatabase database(folder / "tuning");
    for (const auto& listed : database.list()) {
      if (listed.entry) {
        ++good;
      } else {
        damaged = listed.why_not;
      }
    }
    const std::string what =
        fmt::format("{}: {}", folder.string(), counted(good, "tuned entry", "tuned entries"));
    if (damaged.empty()) return {"cache", State::good, what};
    return {"cache", State::bad, what + "; " + damaged,
            "`sagegen cache verify` lists what is damaged; the defaults run in its place"};
  } catch (const Error& failure) {
    return {"cache", State::bad, failure.what(), "set SAGEGEN_CACHE_DIR to another folder"};
  }
}

Check code_cache_check() {
  const std::filesystem::path folder = runtime::code_cache_folder();
  const std::shared_ptr<runtime::CodeCache> cache = runtime::code_cache_of_environment();
  if (!cache) {
    return {"code cache", State::missing, "off, or without a folder",
            "every process compiles its kernels; SAGEGEN_CODE_CACHE names a folder"};
  }
  if (const std::string why = why_no_new_folder(folder); !why.empty()) {
    return {"code cache", State::bad, why,
            "set SAGEGEN_CODE_CACHE to a folder that can be written, or off; until then every "
            "process compiles its kernels"};
  }
  try {
    std::size_t damaged = 0;
    std::uint64_t bytes = 0;
    const auto all = cache->list();
    for (const auto& listed : all) {
      damaged += listed.why_not.empty() ? 0 : 1;
      bytes += listed.bytes;
    }
    const std::string what = fmt::format("{}: {}, {}", folder.string(),
                                         counted(all.size(), "kernel"), counted(bytes, "byte"));
    if (damaged == 0) return {"code cache", State::good, what};
    return {"code cache", State::bad, fmt::format("{}, {} damaged", what, damaged),
            "`sagegen cache clear --code` removes all; the driver compiles again"};
  } catch (const Error& failure) {
    return {"code cache", State::bad, failure.what(), "set SAGEGEN_CODE_CACHE to another folder, or off"};
  }
}

// What readers of the variables would say, each of them when it is too late. Where ptxas is one of them: ptxas_check().
std::vector<Check> environment_checks() {
  std::vector<std::string> bad;
  for (const char* name : {"XDG_CACHE_HOME", "HOME"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0' && !std::filesystem::path(value).is_absolute())
      bad.push_back(fmt::format("{}=\"{}\" is ignored: it is an absolute path", name, value));
  }
  (void)runtime::code_cache_of_environment([&](const std::string& text) {
    if (!runtime::code_cache_folder().empty())
      bad.push_back(text);  // else code_cache_check() says it
  });
  const auto attempt = [&](const auto& read) {
    try {
      read();
    } catch (const std::exception& error) {
      bad.emplace_back(error.what());
    }
  };
  attempt([] {
    const attention::TuningChoice choice = attention::tuning_choice_of_environment();
    if (choice.mode != attention::TuningMode::pinned) return;
    const std::string file = choice.pinned.string();
    try {
      (void)runtime::parse_tuning_entries(runtime::read_artifact(choice.pinned), file);
    } catch (const Error& error) {
      throw FileError(fmt::format("SAGEGEN_TUNING=\"pinned {}\": {}", file, error.what()));
    }
  });
  attempt([] {
    const std::shared_ptr<runtime::EmulatorDriver> emulator = runtime::make_emulator({});
    runtime::check(*emulator, emulator->init(), "cuInit of the emulator");
  });
  std::vector<Check> checks;
  for (const std::string& text : bad)
    checks.push_back({"environment", State::bad, text, "correct the variable, or unset it"});
  if (checks.empty())
    checks.push_back({"environment", State::good, "no variable that sagegen reads is wrong"});
  return checks;
}

Check generator_check() {
  if (generator_state() == GeneratorState::built_in)
    return {"generator", State::good, "LLVM " + generator_llvm_version()};
  return {"generator", State::missing,
          "not built in; kernels are the embedded ones, or those of --ptx",
          "`sagegen bundle` on a machine with the generator packs others"};
}

Check ptxas_check() {
  if (const std::string& version = model::ptxas_version(); !version.empty())
    return {"ptxas", State::good, fmt::format("{} at {}", version, model::ptxas_path())};
  if (const std::string why = model::why_named_ptxas_fails(); !why.empty())
    return {"ptxas", State::bad, why, "correct the variable, or unset it"};
  return {"ptxas", State::missing, "none " + model::ptxas_places(),
          "only predictions need it (`inspect --model`, `compare --pick`); tools/install_ptxas.sh "
          "gets it"};
}

Exit doctor_command(const DoctorCommand& command, Output& output) {
  const InterruptScope interruptible;
  std::optional<Progress> progress(std::in_place, "examining this machine", 0);
  std::vector<Check> checks{generator_check()};
  for (Check& check : environment_checks()) checks.push_back(std::move(check));
  std::string why;
  const std::shared_ptr<runtime::DriverApi> cuda = runtime::load_cuda(&why);
  checks.push_back(driver_check(cuda, why));
  if (cuda && checks.back().state == State::good) {
    checks.push_back(ptx_check(*cuda));
    int devices = 0;
    runtime::check(*cuda, cuda->device_count(&devices), "cuDeviceGetCount");
    for (int i = 0; i < devices; ++i) {
      for (Check& check : gpu_checks(cuda, i, command.quick)) checks.push_back(std::move(check));
    }
  }
  if (!command.quick) {
    try {
      checks.push_back(
          self_test(open_run_device("emulator:sm_89", "", {.interrupt = interrupt_flag()})));
    } catch (const runtime::DriverError& error) {  // environment_checks() has said why
      checks.push_back({"emulator:sm_89, self-test", State::bad, error.what(), "see above"});
    }
  }
  checks.push_back(cache_check());
  checks.push_back(code_cache_check());
  checks.push_back(ptxas_check());
  progress.reset();

  Json list = Json::array();
  bool bad = false;
  for (const Check& check : checks) {
    bad = bad || check.state == State::bad;
    Json line{{"check", check.name},
              {"state", check.state == State::bad ? "bad" : word_of(check.state)},
              {"what", check.what}};
    if (!check.advice.empty()) line["advice"] = check.advice;
    list.push_back(line);
  }
  std::string text;
  for (const Check& check : checks) {
    text += fmt::format("{:<8} {}: {}\n", word_of(check.state), check.name, check.what);
    if (!check.advice.empty()) text += fmt::format("         -> {}\n", check.advice);
  }
  output.text(text);
  output.json({{"sagegen", tool_version()}, {"checks", list}, {"healthy", !bad}});
  return bad ? Exit::check_failed : Exit::ok;
}

}  // namespace

void add_doctor(App& app) {
  app.add<DoctorCommand>(
      "doctor", "say what this machine has, run a small attention on each device, and advise",
      "  sagegen doctor\n  sagegen doctor --json",
      [](CLI::App& options, DoctorCommand& command) {
        options.add_flag("--quick", command.quick, "run nothing");
      },
      doctor_command);
}

}  // namespace sagegen::cli
