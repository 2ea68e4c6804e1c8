#include "runtime/python/src/device.h"

#include <fmt/format.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "runtime/python/src/errors.h"
#include "runtime/python/src/tensor.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/code_cache.h"

namespace nb = nanobind;

namespace sagegen::python {
namespace {

using runtime::ArgumentError;

constexpr std::string_view kGpu = "cuda:", kEmulator = "emulator:";

int gpu_ordinal(const std::string& name) {
  int ordinal = 0;
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kGpu.size(), end, ordinal);
  if (error != std::errc() || stop != end || ordinal < 0)
    throw ArgumentError(fmt::format("device \"{}\": a GPU is cuda:N with N from 0", name));
  return ordinal;
}

int profile_ordinal(runtime::DriverApi& emulator, const std::string& name) {
  runtime::check(emulator, emulator.init(), "cuInit");
  int count = 0;
  runtime::check(emulator, emulator.device_count(&count), "cuDeviceGetCount");
  std::string profiles;
  for (int i = 0; i < count; ++i) {
    const std::string profile = to_string(static_cast<runtime::EmulatorProfile>(i));
    if (kEmulator.size() + profile.size() == name.size() && name.ends_with(profile)) return i;
    profiles += (i > 0 ? ", " : "") + profile;
  }
  throw ArgumentError(
      fmt::format("device \"{}\": the emulator has the profiles {}", name, profiles));
}

std::shared_ptr<runtime::DriverApi> cuda(const std::string& name) {
  std::string why;
  std::shared_ptr<runtime::DriverApi> driver = runtime::load_cuda(&why);
  if (driver) return driver;
  throw runtime::DriverError(
      static_cast<int>(runtime::Result::no_device), "load_cuda",
      fmt::format("device \"{}\": {}; \"emulator:sm_89\" needs no GPU", name, why));
}

std::shared_ptr<runtime::EmulatorDriver> emulator_of(const std::string& name,
                                                     const runtime::EmulatorOptions& options) {
  return name.starts_with(kEmulator) ? runtime::make_emulator(options) : nullptr;
}

runtime::Device open(const std::string& name,
                     const std::shared_ptr<runtime::EmulatorDriver>& emulator) {
  if (emulator) return runtime::Device(emulator, profile_ordinal(*emulator, name));
  if (name.starts_with(kGpu)) {
    return runtime::Device(cuda(name), gpu_ordinal(name), runtime::code_cache_of_environment(warn));
  }
  throw ArgumentError(fmt::format(
      "device \"{}\": there are cuda:N and emulator:PROFILE, for example cuda:0 and emulator:sm_89",
      name));
}

runtime::EmulatorOptions with_interrupt(runtime::EmulatorOptions options,
                                        const std::shared_ptr<std::atomic<bool>>& interrupt) {
  options.interrupt = interrupt;
  return options;
}

template <typename Enum>
Enum one_of(const char* option, const std::string& word,
            std::initializer_list<std::pair<const char*, Enum>> words) {
  std::string list;
  for (const auto& [name, value] : words) {
    if (word == name) return value;
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  throw ArgumentError(fmt::format("{} \"{}\" is refused: there are {}", option, word, list));
}

}  // namespace

OpenDevice::OpenDevice(std::string name, runtime::EmulatorOptions options)
    : name_(std::move(name)),
      interrupt_(std::make_shared<std::atomic<bool>>(false)),
      emulator_(emulator_of(name_, with_interrupt(std::move(options), interrupt_))),
      device_(open(name_, emulator_)) {}

void OpenDevice::run(const std::function<void()>& work) const {
  if (!emulator_) {
    const nb::gil_scoped_release release;
    work();
    return;
  }
  run_interruptibly(work);
}

// The work is done by a thread of its own: a Python thread that waits can look at signals, and one that works cannot.
void OpenDevice::run_interruptibly(const std::function<void()>& work) const {
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  std::exception_ptr thrown;
  std::optional<nb::python_error> raised;
  std::thread worker([&] {
    try {
      work();
    } catch (...) {
      thrown = std::current_exception();
    }
    const std::scoped_lock lock(mutex);
    done = true;
    ended.notify_one();
  });
  {
    const nb::gil_scoped_release release;
    constexpr std::chrono::milliseconds kBetweenLooks{50};
    const auto is_done = [&] { return done; };
    std::unique_lock lock(mutex);
    while (!ended.wait_for(lock, kBetweenLooks, is_done)) {
      lock.unlock();
      if (!interrupt_->load()) {
        const nb::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) {
          raised.emplace();
          interrupt_->store(true);
        }
      }
      lock.lock();
    }
    lock.unlock();
    worker.join();
  }
  if (raised) {
    interrupt_->store(false);
    emulator_->clear_findings();
    throw std::move(*raised);
  }
  if (thrown == nullptr) {
    throw_findings();
    return;
  }
  try {
    std::rethrow_exception(thrown);
  } catch (const runtime::DriverError&) {
    throw_findings();
    throw;
  }
}

void OpenDevice::throw_findings() const {
  std::vector<runtime::Finding> findings = emulator_->findings();
  if (findings.empty()) return;
  emulator_->clear_findings();
  std::string text = fmt::format("the emulator found {} fault{}", findings.size(),
                                 findings.size() == 1 ? "" : "s");
  constexpr std::size_t kShown = 3;
  for (std::size_t i = 0; i < std::min(kShown, findings.size()); ++i) {
    const runtime::Finding& finding = findings[i];
    text += fmt::format("\n  {}: {} ({} line {}{}{}, cta {} {} {}, warp {}, lane {})",
                        finding.check, finding.message, finding.kernel, finding.ptx_line,
                        finding.source.empty() ? "" : ", ", finding.source, finding.cta[0],
                        finding.cta[1], finding.cta[2], finding.warp, finding.lane);
  }
  if (findings.size() > kShown) text += "\n  ...";
  throw FoundError(text, std::move(findings));
}

namespace {

std::shared_ptr<OpenDevice> open_device(const std::string& name, bool checks,
                                        const std::string& schedule, const std::string& copies,
                                        std::uint64_t seed, int threads,
                                        std::uint64_t launch_limit) {
  if (threads < 0)
    throw ArgumentError(fmt::format("threads is {}; it is 0, for all there are, or more", threads));
  runtime::EmulatorOptions options;
  options.checks = checks ? runtime::Checks::on : runtime::Checks::off;
  options.schedule =
      one_of<runtime::SchedulePolicy>("schedule", schedule,
                                      {{"round_robin", runtime::SchedulePolicy::round_robin},
                                       {"random", runtime::SchedulePolicy::random},
                                       {"reverse", runtime::SchedulePolicy::reverse}});
  options.async = one_of<runtime::AsyncPolicy>("copies", copies,
                                               {{"late", runtime::AsyncPolicy::late},
                                                {"eager", runtime::AsyncPolicy::eager},
                                                {"random", runtime::AsyncPolicy::random}});
  options.seed = seed;
  options.threads = threads;
  options.launch_limit = launch_limit;
  return std::make_shared<OpenDevice>(name, options);
}

// Device memory, freed with the object. Keeps what it needs of the device alive.
class Memory {
 public:
  Memory(std::shared_ptr<OpenDevice> device, std::size_t bytes)
      : device_(std::move(device)), buffer_(device_->device(), bytes) {}

  std::uint64_t address() const { return buffer_.data(); }
  std::size_t bytes() const { return buffer_.bytes(); }
  void fill(unsigned char value) { buffer_.fill(value); }

  void upload(const Tensor& tensor, std::int64_t channels) {
    const std::vector<std::byte> bytes = tensor.packed(channels);
    device_->run([&] { buffer_.upload(bytes); });
  }
  void download(const Tensor& tensor, std::int64_t channels) const {
    std::vector<std::byte> bytes(buffer_.bytes());
    device_->run([&] { buffer_.download(bytes); });
    tensor.unpack(bytes, channels);
  }

 private:
  std::shared_ptr<OpenDevice> device_;
  runtime::Buffer buffer_;
};

}  // namespace

void bind_device(nb::module_& module) {
  using runtime::Finding;
  nb::class_<Finding>(module, "Finding", "One report of a check of the emulator.")
      .def_ro("kernel", &Finding::kernel, "Entry point.")
      .def_ro("check", &Finding::check, "\"out-of-bounds\", \"uninitialized\", \"race\", ...")
      .def_ro("message", &Finding::message, "A sentence with values.")
      .def_ro("ptx_line", &Finding::ptx_line, "From 1; 0: none.")
      .def_ro("source", &Finding::source, "\"file:line\" that the PTX names, or empty.")
      .def_prop_ro(
          "cta", [](const Finding& f) { return nb::make_tuple(f.cta[0], f.cta[1], f.cta[2]); },
          nb::sig("def cta(self) -> tuple[int, int, int]"))
      .def_ro("warp", &Finding::warp)
      .def_ro("lane", &Finding::lane)
      .def_ro("count", &Finding::count, "How often the check found this at this line.")
      .def("__repr__", [](const Finding& f) {
        return fmt::format("<Finding {} in {} line {}: {}>", f.check, f.kernel, f.ptx_line,
                           f.message);
      });

  nb::class_<OpenDevice>(module, "Device",
                         "A GPU (\"cuda:0\"), or an emulator of its own (\"emulator:sm_89\").")
      .def(nb::new_(&open_device), nb::arg("name"), nb::kw_only(), nb::arg("checks") = true,
           nb::arg("schedule") = "round_robin", nb::arg("copies") = "late", nb::arg("seed") = 0,
           nb::arg("threads") = 0, nb::arg("launch_limit") = 0)
      .def_prop_ro("name", &OpenDevice::name)
      .def_prop_ro("description", [](const OpenDevice& device) { return device.device().name(); })
      .def_prop_ro(
          "compute_capability",
          [](const OpenDevice& device) { return device.device().compute_capability(); },
          "89 for 8.9.")
      .def_prop_ro("is_emulator",
                   [](const OpenDevice& device) { return device.emulator() != nullptr; })
      .def_prop_ro(
          "total_memory", [](const OpenDevice& device) { return device.device().total_memory(); },
          "Bytes.")
      .def_prop_ro(
          "target",
          [](const OpenDevice& device) { return to_string(runtime::best_target(device.device())); },
          "\"sm_89\": what kernels are asked for here, with this driver.")
      .def_prop_ro(
          "highest_target",
          [](const OpenDevice& device) {
            return to_string(runtime::best_target(device.device().compute_capability()));
          },
          "The same whatever the driver.")
      .def_prop_ro(
          "note",
          [](const OpenDevice& device) { return runtime::best_target_note(device.device()); },
          "What the driver is too old for, or empty.")
      .def_prop_ro(
          "warp_instructions",
          [](const OpenDevice& device) {
            return device.emulator() == nullptr ? std::uint64_t{0}
                                                : device.emulator()->warp_instructions();
          },
          "Of all launches of an emulator so far; 0 of a GPU.")
      .def("synchronize",
           [](const OpenDevice& device) { device.run([&] { device.device().synchronize(); }); });

  nb::class_<Memory>(module, "Memory", "Memory of a device, freed with the object.")
      .def(nb::init<std::shared_ptr<OpenDevice>, std::size_t>(), nb::arg("device"),
           nb::arg("bytes"))
      .def_prop_ro("address", &Memory::address)
      .def_prop_ro("bytes", &Memory::bytes)
      .def("fill", &Memory::fill, nb::arg("value"))
      .def("upload", &Memory::upload, nb::arg("tensor"), nb::arg("channels") = 0,
           "All of an array of the host, without gaps, rows padded with zeros to so many channels; "
           "0: as they are.")
      .def("download", &Memory::download, nb::arg("tensor"), nb::arg("channels") = 0);
}

}  // namespace sagegen::python
