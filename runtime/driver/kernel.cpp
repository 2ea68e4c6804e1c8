#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "runtime/driver/in_context.h"
#include "runtime/driver/module_code.h"
#include "runtime/driver/ptx_version.h"
#include "sagegen/runtime/device.h"

namespace sagegen::runtime {
namespace {

// What every device allows a block without asking (CUDA C++ Programming Guide, compute
// capabilities).
constexpr int kSmemWithoutOptIn = 48 * 1024;

bool is_given(const Dim3& block) { return block.x != 0 || block.y != 0 || block.z != 0; }

bool is_same(const Dim3& a, const Dim3& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

std::uint64_t threads_of(const Dim3& block) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 21;  // more than any device has; no overflow
  std::uint64_t threads = 1;
  for (const unsigned extent : {block.x, block.y, block.z}) {
    threads *= std::min<std::uint64_t>(extent, kMost);
  }
  return threads;
}

// "1 x .u64 y, ..." as errors tell what an entry takes.
std::string spelled(const std::vector<PtxParameter>& parameters) {
  if (parameters.empty()) return "nothing";
  std::vector<std::string> words;
  for (const PtxParameter& p : parameters) {
    words.push_back(p.is_array ? fmt::format("{} ({} bytes)", p.name, p.bytes)
                               : fmt::format("{} (.{})", p.name, p.type));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

PtxEntry find_entry(const std::string& ptx, const std::string& entry) {
  const std::vector<PtxEntry> entries = ptx_entries(ptx);
  if (entry.empty() && entries.size() == 1) return entries.front();
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const PtxEntry& e) { return e.name == entry; });
  if (found != entries.end()) return *found;
  std::vector<std::string> names;
  for (const PtxEntry& e : entries) names.push_back(e.name);
  const std::string has = names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
  if (entry.empty()) {
    throw SpecError(fmt::format("the PTX has not one entry but: {}; name the one to load", has));
  }
  throw SpecError(
      fmt::format("kernel {}: the PTX has no entry of that name; it has: {}", entry, has));
}

// A launch copies as many bytes as an entry's parameters have, so each has to be known.
void check_understood(const PtxEntry& entry) {
  for (const PtxParameter& p : entry.parameters) {
    if (p.bytes != 0) continue;
    throw SpecError(fmt::format(
        "kernel {}: the size of its parameter {} is not understood; parameters are of type .b8 to "
        ".b128, .u, .s or .f, or arrays of these with their length",
        entry.name, p.name.empty() ? "without a name" : p.name));
  }
}

void check_one_block(const PtxEntry& entry, std::size_t param_bytes) {
  const std::vector<std::size_t> bytes = entry.parameter_bytes();
  if (bytes == std::vector<std::size_t>{param_bytes}) return;
  throw SpecError(fmt::format(
      "kernel {}: the PTX declares parameters of [{}] bytes, and it is to be launched with one "
      "block of {} bytes; if sagegen made the PTX, make it again with this version; for PTX from "
      "elsewhere, load it without the size of a block and launch it with a list of arguments",
      entry.name, fmt::join(bytes, ", "), param_bytes));
}

void check_shared_memory(const Device& device, const std::string& entry, std::int64_t static_smem,
                         int dynamic_smem) {
  if (dynamic_smem < 0) {
    throw SpecError(fmt::format("kernel {}: {} bytes of dynamic shared memory; it is 0 or more",
                                entry, dynamic_smem));
  }
  const int limit = device.attribute(DeviceAttribute::max_shared_memory_per_block_optin);
  if (static_smem + dynamic_smem <= limit) return;
  throw SpecError(fmt::format(
      "kernel {}: it needs {} bytes of shared memory per block{}, and {} (compute capability {}) "
      "allows {}; choose a smaller tile or fewer stages",
      entry, static_smem + dynamic_smem,
      static_smem > 0 ? fmt::format(" ({} of its own, {} at the launch)", static_smem, dynamic_smem)
                      : "",
      device.name(), device.compute_capability(), limit));
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
  PtxEntry entry;
  KernelOptions options;
  int max_threads = 0;  // per block
  ModuleHandle module = nullptr;
  FunctionHandle function = nullptr;
  std::string note;

  Impl(const Device& on, const std::string& name, const KernelOptions& with)
      : device(on), options(with) {
    entry.name = name;
  }
  ~Impl() {
    if (module == nullptr) return;
    release_in_context(device, [&](DriverApi& driver) { driver.module_unload(module); });
  }

  template <typename CheckParameters>
  void load(const std::string& ptx, const MachineCode* assembled, CheckParameters check_parameters);
  void choose_block();
  int attribute(DriverApi& driver, FunctionAttribute attribute) const;
  void check_arguments(std::span<const KernelArgument> arguments) const;
  void check_size(const LaunchSize& size, const Dim3& block, int dynamic_smem) const;
  // Both in a Device::Scope of the device; enqueue() takes sizes that are checked.
  void launch(const LaunchSize& size, StreamHandle stream, void** arguments) const;
  void enqueue(const Dim3& grid, const Dim3& block, int dynamic_smem, StreamHandle stream,
               void** arguments) const;
};

int Kernel::Impl::attribute(DriverApi& driver, FunctionAttribute attribute) const {
  int value = 0;
  check(driver, driver.function_attribute(&value, attribute, function), "cuFuncGetAttribute",
        entry.name);
  return value;
}

// The block of launches that say none, if there is one.
void Kernel::Impl::choose_block() {
  const Dim3& required = entry.required_block;
  if (!is_given(options.block)) options.block = required;
  if (!is_given(options.block)) return;
  if (is_given(required) && !is_same(options.block, required)) {
    throw SpecError(fmt::format(
        "kernel {}: it is to be launched with blocks of ({}, {}, {}) threads, and its .reqntid is "
        "({}, {}, {})",
        entry.name, options.block.x, options.block.y, options.block.z, required.x, required.y,
        required.z));
  }
  const std::uint64_t threads = threads_of(options.block);
  if (threads <= static_cast<std::uint64_t>(max_threads) && threads > 0) return;
  throw SpecError(
      fmt::format("kernel {}: it is launched with {} threads per block, and this device runs it "
                  "with at most {}",
                  entry.name, threads, max_threads));
}

// check_parameters(PtxEntry): throws if they are not those that will be passed.
template <typename CheckParameters>
void Kernel::Impl::load(const std::string& ptx, const MachineCode* assembled,
                        CheckParameters check_parameters) {
  check_shared_memory(device, entry.name, 0, options.dynamic_smem);
  const auto load = [&](DriverApi& driver) {
    LoadedModule loaded = load_module(device, ptx, assembled);
    module = loaded.module;
    note = std::move(loaded.note);
    if (loaded.result != Result::success) {
      check(driver, loaded.result, "cuModuleLoadDataEx",
            entry.name.empty() ? "" : "for kernel " + entry.name,
            loaded.log + load_hint(driver, loaded.result, ptx));
    }
    entry = find_entry(ptx, entry.name);
    check_parameters(entry);
    check(driver, driver.module_function(&function, module, entry.name.c_str()),
          "cuModuleGetFunction", entry.name);
    // Also makes the driver load the code now: with lazy loading the first launch would allocate, and a
    // stream that is being captured does not allow that.
    max_threads = attribute(driver, FunctionAttribute::max_threads_per_block);
    choose_block();
    const int static_smem = attribute(driver, FunctionAttribute::shared_size_bytes);
    check_shared_memory(device, entry.name, static_smem, options.dynamic_smem);
    if (static_smem + options.dynamic_smem > kSmemWithoutOptIn) {
      check(driver,
            driver.function_set_attribute(
                function, FunctionAttribute::max_dynamic_shared_size_bytes, options.dynamic_smem),
            "cuFuncSetAttribute",
            fmt::format("{} bytes of shared memory for {}", options.dynamic_smem, entry.name));
    }
  };
  in_context(device, load,
             [&](DriverApi& driver) { driver.module_unload(std::exchange(module, nullptr)); });
}

void Kernel::Impl::check_arguments(std::span<const KernelArgument> arguments) const {
  using Kind = KernelArgument::Kind;
  if (arguments.size() != entry.parameters.size()) {
    throw ArgumentError(fmt::format("kernel {}: launched with {} arguments; it takes {}: {}",
                                    entry.name, arguments.size(), entry.parameters.size(),
                                    spelled(entry.parameters)));
  }
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const KernelArgument& given = arguments[i];
    const PtxParameter& p = entry.parameters[i];
    const auto refuse = [&](const std::string& why) {
      return ArgumentError(fmt::format("kernel {}: argument {} is {}; it takes: {}", entry.name, i,
                                       why, spelled(entry.parameters)));
    };
    if (given.data == nullptr) throw refuse("a null pointer instead of the address of a value");
    if (given.bytes != p.bytes) {
      throw refuse(
          fmt::format("of {} bytes, and the parameter {} has {}", given.bytes, p.name, p.bytes));
    }
    if (p.is_array || given.kind == Kind::other || p.type.starts_with('b')) continue;
    const bool is_float = p.type.starts_with('f');
    if (is_float == (given.kind == Kind::floating)) continue;
    throw refuse(fmt::format(
        "{} number, and the parameter {} is {} one; convert it, or pass a struct that holds its "
        "bits",
        is_float ? "a whole" : "a floating-point", p.name,
        is_float ? "a floating-point" : "a whole"));
  }
}

void Kernel::Impl::check_size(const LaunchSize& size, const Dim3& block, int dynamic_smem) const {
  const auto refuse = [&](const std::string& why) {
    return ArgumentError(fmt::format("kernel {}: {}", entry.name, why));
  };
  const Dim3& required = entry.required_block;
  if (!is_given(block)) {
    throw refuse("it has no .reqntid, so load it with a block size or launch it with one");
  }
  if (is_given(size.block)) {
    const std::string spelled_block = fmt::format("({}, {}, {})", block.x, block.y, block.z);
    if (is_given(required) && !is_same(block, required)) {
      throw refuse(
          fmt::format("launched with blocks of {} threads, and its .reqntid is ({}, {}, {})",
                      spelled_block, required.x, required.y, required.z));
    }
    const std::uint64_t threads = threads_of(block);
    if (threads == 0 || threads > static_cast<std::uint64_t>(max_threads)) {
      throw refuse(fmt::format(
          "launched with blocks of {} threads, {} in all; this device runs it with 1 to {}",
          spelled_block, threads, max_threads));
    }
  }
  if (dynamic_smem < 0 || dynamic_smem > options.dynamic_smem) {
    throw refuse(
        fmt::format("launched with {} bytes of dynamic shared memory; it was loaded for 0 to {}",
                    dynamic_smem, options.dynamic_smem));
  }
}

void Kernel::Impl::launch(const LaunchSize& size, StreamHandle stream, void** arguments) const {
  const Dim3 block = is_given(size.block) ? size.block : options.block;
  const int dynamic_smem = size.dynamic_smem.value_or(options.dynamic_smem);
  check_size(size, block, dynamic_smem);
  enqueue(size.grid, block, dynamic_smem, stream, arguments);
}

void Kernel::Impl::enqueue(const Dim3& grid, const Dim3& block, int dynamic_smem,
                           StreamHandle stream, void** arguments) const {
  DriverApi& driver = device.api();
  const Result result =
      driver.launch(function, grid, block, static_cast<unsigned>(dynamic_smem), stream, arguments);
  if (result == Result::success) return;  // no text is made on the fast path
  check(driver, result, "cuLaunchKernel",
        fmt::format("{} with grid ({}, {}, {})", entry.name, grid.x, grid.y, grid.z));
}

Kernel::Kernel(const Device& device, const std::string& ptx, const std::string& entry,
               const KernelOptions& options)
    : impl_(new Impl(device, entry, options)) {
  impl_->load(ptx, nullptr, check_understood);
}

Kernel::Kernel(const Device& device, const std::string& ptx, const std::string& entry, int threads,
               int dynamic_smem, std::size_t param_bytes, const MachineCode* assembled)
    : impl_(new Impl(device, entry,
                     {.block = {.x = static_cast<unsigned>(std::max(threads, 0))},
                      .dynamic_smem = dynamic_smem})) {
  impl_->load(ptx, assembled, [&](const PtxEntry& found) { check_one_block(found, param_bytes); });
}

Kernel::~Kernel() = default;
Kernel::Kernel(Kernel&& other) noexcept = default;

const std::string& Kernel::name() const { return impl_->entry.name; }

const std::string& Kernel::note() const { return impl_->note; }

std::span<const PtxParameter> Kernel::parameters() const { return impl_->entry.parameters; }

int Kernel::attribute(FunctionAttribute attribute) const {
  int value = 0;
  in_context(impl_->device,
             [&](DriverApi& driver) { value = impl_->attribute(driver, attribute); });
  return value;
}

void Kernel::launch_block(Dim3 grid, const void* params, std::size_t bytes,
                          StreamHandle stream) const {
  in_context(impl_->device,
             [&](DriverApi&) { launch_block_in_scope(grid, params, bytes, stream); });
}

void Kernel::launch_block_in_scope(Dim3 grid, const void* params, std::size_t bytes,
                                   StreamHandle stream) const {
  const std::vector<PtxParameter>& parameters = impl_->entry.parameters;
  if (parameters.size() != 1 || bytes != parameters.front().bytes) {
    throw ArgumentError(
        fmt::format("kernel {}: launched with a parameter block of {} bytes, loaded for one of {}",
                    name(), bytes, fmt::join(impl_->entry.parameter_bytes(), " and one of ")));
  }
  void* arguments[] = {const_cast<void*>(params)};  // the driver only reads them
  const KernelOptions& loaded = impl_->options;
  if (!is_given(loaded.block)) impl_->check_size({.grid = grid}, loaded.block, loaded.dynamic_smem);
  impl_->enqueue(grid, loaded.block, loaded.dynamic_smem, stream, arguments);
}

void Kernel::launch_list(const LaunchSize& size, StreamHandle stream,
                         std::span<const KernelArgument> arguments) const {
  impl_->check_arguments(arguments);
  constexpr std::size_t kFew = 32;  // no allocation for these
  std::array<void*, kFew> few;
  std::vector<void*> many(arguments.size() > kFew ? arguments.size() : 0);
  void** const pointers = many.empty() ? few.data() : many.data();
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    pointers[i] = const_cast<void*>(arguments[i].data);  // the driver only reads them
  }
  in_context(impl_->device, [&](DriverApi&) { impl_->launch(size, stream, pointers); });
}

void Kernel::launch_pointers(const LaunchSize& size, StreamHandle stream,
                             std::span<void* const> arguments) const {
  std::vector<KernelArgument> list;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const bool is_known = i < impl_->entry.parameters.size();
    list.push_back(
        {.data = arguments[i], .bytes = is_known ? impl_->entry.parameters[i].bytes : 0});
  }
  launch_list(size, stream, list);
}

}  // namespace sagegen::runtime
