#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "runtime/driver/in_context.h"
#include "runtime/driver/ptx_version.h"
#include "sagegen/runtime/device.h"
#include "sagegen/runtime/ptx_entry.h"

namespace sagegen::runtime {
namespace {

// What every device allows a block without asking (CUDA C++ Programming Guide, compute
// capabilities).
constexpr int kDynamicSmemWithoutOptIn = 48 * 1024;

void check_parameters(const std::string& ptx, const std::string& entry, std::size_t param_bytes) {
  const std::vector<PtxEntry> entries = ptx_entries(ptx);
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const PtxEntry& e) { return e.name == entry; });
  if (found == entries.end()) {
    std::vector<std::string> names;
    for (const PtxEntry& e : entries) names.push_back(e.name);
    throw SpecError(
        fmt::format("kernel {}: the PTX has no entry of that name; it has: {}", entry,
                    names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))));
  }
  if (found->parameter_bytes() == std::vector<std::size_t>{param_bytes}) return;
  throw SpecError(fmt::format(
      "kernel {}: the PTX declares parameters of [{}] bytes, but this library passes "
      "one block of {} bytes; the PTX comes from another version of sagegen, generate it again",
      entry, fmt::join(found->parameter_bytes(), ", "), param_bytes));
}

void check_shared_memory(const Device& device, const std::string& entry, int dynamic_smem) {
  const int limit = device.attribute(DeviceAttribute::max_shared_memory_per_block_optin);
  if (dynamic_smem <= limit) return;
  throw SpecError(
      fmt::format("kernel {}: it needs {} bytes of shared memory per block, and {} (compute "
                  "capability {}) allows {}; choose a smaller tile or fewer stages",
                  entry, dynamic_smem, device.name(), device.compute_capability(), limit));
}

// Also makes the driver load the code now: with lazy loading the first launch would allocate, and a
// stream that is being captured does not allow that.
void check_threads(DriverApi& driver, FunctionHandle function, const std::string& entry,
                   int threads) {
  int limit = 0;
  check(driver,
        driver.function_attribute(&limit, FunctionAttribute::max_threads_per_block, function),
        "cuFuncGetAttribute", entry);
  if (threads <= limit) return;
  throw SpecError(
      fmt::format("kernel {}: it is launched with {} threads per block, and this device runs it "
                  "with at most {}",
                  entry, threads, limit));
}

// What to do about a failed load, where the result alone does not say it.
std::string load_hint(DriverApi& driver, Result loaded, const std::string& ptx) {
  int version = 0;
  if (loaded != Result::unsupported_ptx_version ||
      driver.driver_version(&version) != Result::success) {
    return {};
  }
  const int needed = ptx_version(ptx);
  const std::string of_version =
      needed == 0 ? ""
                  : fmt::format(", of version {}.{}, which drivers of CUDA {} and later compile,",
                                needed / 10, needed % 10, cuda_name(first_cuda_with(needed)));
  return fmt::format("\nThe PTX{} is newer than this driver (CUDA {}): update the driver.",
                     of_version, cuda_name(version));
}

}  // namespace

struct Kernel::Impl {
  Device device;
  std::string name;
  int threads;
  int dynamic_smem;
  std::size_t param_bytes;
  ModuleHandle module = nullptr;
  FunctionHandle function = nullptr;

  ~Impl() {
    if (module == nullptr) return;
    release_in_context(device, [&](DriverApi& driver) { driver.module_unload(module); });
  }
};

Kernel::Kernel(const Device& device, const std::string& ptx, const std::string& entry, int threads,
               int dynamic_smem, std::size_t param_bytes)
    : impl_(new Impl{.device = device,
                     .name = entry,
                     .threads = threads,
                     .dynamic_smem = dynamic_smem,
                     .param_bytes = param_bytes}) {
  check_shared_memory(device, entry, dynamic_smem);
  const auto load = [&](DriverApi& driver) {
    std::string log;
    const Result loaded = driver.module_load(&impl_->module, ptx.c_str(), &log);
    if (loaded != Result::success) log += load_hint(driver, loaded, ptx);
    check(driver, loaded, "cuModuleLoadDataEx", "for kernel " + entry, log);
    check_parameters(ptx, entry, param_bytes);
    check(driver, driver.module_function(&impl_->function, impl_->module, entry.c_str()),
          "cuModuleGetFunction", entry);
    check_threads(driver, impl_->function, entry, threads);
    if (dynamic_smem > kDynamicSmemWithoutOptIn) {
      check(driver,
            driver.function_set_attribute(
                impl_->function, FunctionAttribute::max_dynamic_shared_size_bytes, dynamic_smem),
            "cuFuncSetAttribute",
            fmt::format("{} bytes of shared memory for {}", dynamic_smem, entry));
    }
  };
  in_context(device, load, [&](DriverApi& driver) {
    driver.module_unload(std::exchange(impl_->module, nullptr));
  });
}

Kernel::~Kernel() = default;
Kernel::Kernel(Kernel&& other) noexcept = default;

const std::string& Kernel::name() const { return impl_->name; }

int Kernel::attribute(FunctionAttribute attribute) const {
  int value = 0;
  in_context(impl_->device, [&](DriverApi& driver) {
    check(driver, driver.function_attribute(&value, attribute, impl_->function),
          "cuFuncGetAttribute", impl_->name);
  });
  return value;
}

void Kernel::launch_bytes(Dim3 grid, const void* params, std::size_t bytes,
                          StreamHandle stream) const {
  if (bytes != impl_->param_bytes) {
    throw ArgumentError(
        fmt::format("kernel {}: launched with a parameter block of {} bytes, loaded "
                    "for one of {}",
                    impl_->name, bytes, impl_->param_bytes));
  }
  in_context(impl_->device, [&](DriverApi& driver) {
    void* arguments[] = {const_cast<void*>(params)};  // the driver only reads them
    const Result result = driver.launch(
        impl_->function, grid, Dim3{.x = static_cast<unsigned>(impl_->threads), .y = 1, .z = 1},
        static_cast<unsigned>(impl_->dynamic_smem), stream, arguments);
    if (result == Result::success) return;  // no text is made on the fast path
    check(driver, result, "cuLaunchKernel",
          fmt::format("{} with grid ({}, {}, {})", impl_->name, grid.x, grid.y, grid.z));
  });
}

}  // namespace sagegen::runtime
