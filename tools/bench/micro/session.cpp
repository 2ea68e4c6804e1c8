// Loading and launching, and what the stamps of a launch say.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <span>
#include <utility>

#include "sagegen/runtime/error.h"
#include "tools/bench/micro/micro.h"
#include "tools/hardware/probe.h"
#include "tools/reference/whole_file.h"

namespace sagegen::micro {
namespace {

constexpr int kExclusiveShared = 120 * 1024;  // more than half of what an SM has

// Throws if two blocks shared an SM: their clocks would not be those of one stream of work.
void require_own_multiprocessors(const std::vector<Stamp>& stamps, int warps) {
  std::set<std::uint32_t> seen;
  for (std::size_t i = 0; i < stamps.size(); i += static_cast<std::size_t>(warps)) {
    if (stamps[i].stop != 0 && !seen.insert(stamps[i].sm).second) {
      throw std::runtime_error(fmt::format(
          "two blocks ran on SM {}: is another program using the device?", stamps[i].sm));
    }
  }
}

}  // namespace

LoadedProgram::LoadedProgram(const runtime::Device& device, const Program& program,
                             const std::string& image)
    : device_(device), threads_(program.threads), shared_bytes_(program.shared_bytes) {
  runtime::DriverApi& api = device_.api();
  runtime::Device::Scope scope(device_);
  code_.program = program.name;
  code_.origin = image == program.ptx ? "driver JIT" : "cubin";
  code_.crc = hardware::crc32(image.data(), image.size());
  const runtime::Result result = api.module_load(&module_, image.c_str(), &code_.log);
  runtime::check(api, result, "cuModuleLoadDataEx", "for " + program.name, code_.log);
  try {
    using Attribute = runtime::FunctionAttribute;
    runtime::check(api, api.module_function(&function_, module_, "micro"), "cuModuleGetFunction");
    runtime::check(api, api.function_attribute(&code_.registers, Attribute::num_regs, function_),
                   "cuFuncGetAttribute");
    runtime::check(
        api, api.function_attribute(&code_.local_bytes, Attribute::local_size_bytes, function_),
        "cuFuncGetAttribute");
    const int most_shared = std::max(shared_bytes_, kExclusiveShared);
    runtime::check(api,
                   api.function_set_attribute(function_, Attribute::max_dynamic_shared_size_bytes,
                                              most_shared),
                   "cuFuncSetAttribute", fmt::format("{} bytes of shared memory", most_shared));
    scope.restore();
  } catch (...) {
    api.module_unload(module_);
    throw;
  }
}

LoadedProgram::~LoadedProgram() {
  try {
    runtime::Device::Scope scope(device_);
    device_.api().module_unload(module_);
  } catch (const Error&) {  // the driver is shutting down
  }
}

void LoadedProgram::launch(int blocks, const Parameters& parameters,
                           runtime::StreamHandle stream) const {
  runtime::Device::Scope scope(device_);
  Parameters copy = parameters;
  void* arguments[] = {&copy};
  const int shared = blocks > 1 ? std::max(shared_bytes_, kExclusiveShared) : shared_bytes_;
  runtime::check(device_.api(),
                 device_.api().launch(function_, {.x = static_cast<unsigned>(blocks)},
                                      {.x = static_cast<unsigned>(threads_)},
                                      static_cast<unsigned>(shared), stream, arguments),
                 "cuLaunchKernel", fmt::format("{} with {} blocks", code_.program, blocks));
}

Session::Session(const runtime::Device& device, const SessionOptions& options)
    : device_(device),
      options_(options),
      emulated_(device.api().name() != "cuda"),
      dry_(emulated_ && options.emulated == SessionOptions::Emulated::dry),
      multiprocessors_(emulated_ && !dry_
                           ? 1
                           : device.attribute(runtime::DeviceAttribute::multiprocessor_count)) {}

std::string Session::cubin_path(const Program& program) const {
  if (options_.cubins.empty() || emulated_) return {};
  const std::string path = fmt::format("{}/{}.cubin", options_.cubins, program.name);
  return std::filesystem::exists(path) ? path : std::string{};
}

std::shared_ptr<LoadedProgram> Session::load(const Program& program) {
  return cubin_path(program).empty() ? load_ptx(program) : load_cubin(program);
}

std::shared_ptr<LoadedProgram> Session::load_ptx(const Program& program) {
  auto loaded = std::make_shared<LoadedProgram>(device_, program, program.ptx);
  loaded_.push_back(loaded->code());
  return loaded;
}

std::shared_ptr<LoadedProgram> Session::load_cubin(const Program& program) {
  const std::string path = cubin_path(program);
  if (path.empty()) {
    throw NotExecuted(fmt::format("no {}.cubin was carried: see --cubin", program.name));
  }
  auto loaded = std::make_shared<LoadedProgram>(device_, program, reference::read_whole_file(path));
  loaded_.push_back(loaded->code());
  return loaded;
}

std::vector<LoadedCode> Session::take_loaded() { return std::exchange(loaded_, {}); }

Observed observe(Session& session, const LoadedProgram& program, const LaunchPlan& plan) {
  Observed observed;
  observed.blocks = session.blocks();
  observed.warps = program.warps();
  const auto blocks = static_cast<std::size_t>(observed.blocks);
  const std::size_t stamps = blocks * static_cast<std::size_t>(observed.warps);
  runtime::Buffer in(session.device(), plan.in.size() * sizeof(std::uint32_t));
  runtime::Buffer out(session.device(), blocks * plan.out_words * sizeof(std::uint32_t));
  runtime::Buffer stamp_buffer(session.device(), stamps * sizeof(Stamp));
  in.upload(std::as_bytes(std::span(plan.in)));
  Parameters parameters{.in = in.data(),
                        .out = out.data(),
                        .stamps = stamp_buffer.data(),
                        .iterations = plan.iterations,
                        .option = plan.option};
  if (plan.prepare) plan.prepare(parameters);
  const int warm_up = session.dry() ? 0 : 1;
  for (int run = -warm_up; run < session.repetitions(plan.repetitions); ++run) {
    out.fill(0xcd);
    stamp_buffer.fill(0);
    program.launch(observed.blocks, parameters, nullptr);
    session.device().synchronize();
    if (run < 0) continue;
    std::vector<Stamp> read(stamps);
    stamp_buffer.download(std::as_writable_bytes(std::span(read)));
    if (!session.dry()) require_own_multiprocessors(read, observed.warps);
    observed.runs.push_back(std::move(read));
  }
  observed.out.resize(blocks * plan.out_words);
  out.download(std::as_writable_bytes(std::span(observed.out)));
  return observed;
}

double Observed::span(int run, int block, int first_warp, int warp_count) const {
  std::uint64_t first = ~std::uint64_t{0}, last = 0;
  for (int w = first_warp; w < first_warp + warp_count; ++w) {
    first = std::min(first, stamp(run, block, w).start);
    last = std::max(last, stamp(run, block, w).stop);
  }
  return static_cast<double>(last - first);
}

std::vector<double> clocks_per(const Observed& observed, double operations, int first_warp,
                               int warp_count) {
  std::vector<double> samples;
  for (int run = 0; run < static_cast<int>(observed.runs.size()); ++run) {
    for (int block = 0; block < observed.blocks; ++block) {
      samples.push_back(
          observed.span(run, block, first_warp, warp_count == 0 ? observed.warps : warp_count) /
          operations);
    }
  }
  return samples;
}

std::vector<double> per_clock(const Observed& observed, double operations) {
  std::vector<double> samples = clocks_per(observed, operations);
  for (double& sample : samples) sample = 1 / sample;
  return samples;
}

double quantile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  const double at = q * static_cast<double>(samples.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, samples.size() - 1);
  return samples[low] + (at - static_cast<double>(low)) * (samples[high] - samples[low]);
}

std::string first_difference(const Observed& observed, const Words& expected, const char* what) {
  const std::size_t stride = observed.out.size() / static_cast<std::size_t>(observed.blocks);
  for (int block = 0; block < observed.blocks; ++block) {
    const std::uint32_t* out = &observed.out[static_cast<std::size_t>(block) * stride];
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (out[i] == expected[i]) continue;
      return fmt::format("{}: word {} of block {} is {:08x}, expected {:08x}", what, i, block,
                         out[i], expected[i]);
    }
  }
  return {};
}

}  // namespace sagegen::micro
