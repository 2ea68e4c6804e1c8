// RAII over the driver seam: Device, Buffer, Stream, Event, Kernel. Every object keeps what it
// needs alive; every failed driver call throws DriverError with the call and the result's name. A
// call leaves the calling thread's current context as it found it, also when it throws. Destructors
// never throw. A moved-from object owns nothing and may only be destroyed, assigned to or asked for
// data()/handle().
//
// Objects may move between threads. Device and Kernel may be used by several threads at once; the
// others by one at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "sagegen/runtime/driver_api.h"
#include "sagegen/runtime/error.h"
#include "sagegen/runtime/ptx_entry.h"

namespace sagegen {
struct MachineCode;  // artifact.h
}

namespace sagegen::runtime {

// Throws DriverError unless result is success. call: the CUDA function, "cuMemAlloc". about: what
// it was called for, "of 4096 bytes", or empty. log: the JIT's messages, or empty.
void check(DriverApi& api, Result result, const char* call, std::string_view about = {},
           std::string_view log = {});

class CodeCache;  // code_cache.h

// One device with its primary context. Copies share the context, which is released with the last
// one.
class Device {
 public:
  // Throws ArgumentError if there is no such device, DriverError.
  // Kernels that the driver compiles are kept in the code cache that the environment names.
  Device(std::shared_ptr<DriverApi> api, DeviceOrdinal ordinal);
  // The same with this cache; null: none.
  Device(std::shared_ptr<DriverApi> api, DeviceOrdinal ordinal, std::shared_ptr<CodeCache> cache);
  Device(const Device&) = default;  // no move: a moved-from Device would be an empty one
  Device& operator=(const Device&) = default;

  DriverApi& api() const;
  DeviceOrdinal ordinal() const;
  std::string name() const;
  int compute_capability() const;  // 89 for 8.9
  int attribute(DeviceAttribute attribute) const;
  std::size_t total_memory() const;  // bytes
  CodeCache* code_cache() const;     // null: none
  void synchronize() const;

  // Makes the context current in this thread while alive and restores the caller's afterwards. The
  // destructor restores as well as it can; restore() does it now and throws if that fails.
  class Scope {
   public:
    explicit Scope(const Device& device);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    void restore();

   private:
    DriverApi* api_;  // null: nothing to restore
    ContextHandle previous_ = nullptr;
  };

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

// Device memory, freed on destruction. Zero bytes are no allocation.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Device& device, std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  DevicePtr data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

  // Synchronous copies of the whole span, from the start of the buffer, on the default stream: work
  // on other streams has to be synchronized by the caller. Throw ArgumentError if the span is
  // larger.
  void upload(std::span<const std::byte> from);
  void download(std::span<std::byte> to) const;
  void fill(unsigned char value);

 private:
  std::optional<Device> device_;
  DevicePtr data_ = 0;
  std::size_t bytes_ = 0;
};

// A tensor map of memory that the caller keeps alive. Throws ArgumentError naming the rule of
// cuTensorMapEncodeTiled that the layout breaks, or that the device has no bulk tensor copies;
// DriverError.
TensorMap make_tensor_map(const Device& device, const TensorMapLayout& layout);

// A stream that does not synchronize with the default stream.
class Stream {
 public:
  explicit Stream(const Device& device);
  ~Stream();
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&&) = delete;
  StreamHandle handle() const { return handle_; }
  void synchronize() const;

 private:
  Device device_;
  StreamHandle handle_ = nullptr;
};

class Event {
 public:
  explicit Event(const Device& device);
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&&) = delete;
  void record(StreamHandle stream);
  void synchronize() const;
  float milliseconds_since(const Event& start) const;

 private:
  Device device_;
  EventHandle handle_ = nullptr;
};

// How one launch differs from what the kernel was loaded for.
struct LaunchSize {
  Dim3 grid;
  Dim3 block{.x = 0, .y = 0, .z = 0};    // zeros: as loaded
  std::optional<int> dynamic_smem = {};  // bytes; not given: as loaded
};

struct KernelOptions {
  // Of launches that say none; zeros: the entry's .reqntid, or each launch has to say it.
  Dim3 block{.x = 0, .y = 0, .z = 0};
  // Bytes of shared memory beside what the entry declares: of launches that say none, and the most that one
  // may say.
  int dynamic_smem = 0;
};

// One argument of a launch.
struct KernelArgument {
  enum class Kind { integer, floating, other };
  const void* data = nullptr;
  std::size_t bytes = 0;
  Kind kind = Kind::other;
};

// What a kernel takes by value: numbers, device addresses (Buffer::data(); DevicePtr{0} for none), structs
// of these; host pointers never.
template <typename T>
concept KernelValue =
    std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> && !std::is_null_pointer_v<T>;

template <KernelValue T>
KernelArgument kernel_argument(const T& value) {
  using Kind = KernelArgument::Kind;
  constexpr Kind kKind = std::is_floating_point_v<T> ? Kind::floating
                         : std::is_integral_v<T>     ? Kind::integer
                                                     : Kind::other;
  return {.data = &value, .bytes = sizeof(T), .kind = kKind};
}

// One entry point of a loaded module, with its parameters as the PTX declares them. Launches are checked
// against these; the checks cost a comparison for each argument.
class Kernel {
 public:
  // Loads `ptx`; `entry` may be empty where there is only one. Throws DriverError with the JIT log, or
  // SpecError if there is no such entry, if its parameters cannot be understood, or if the device cannot
  // run it with so much shared memory or so many threads.
  Kernel(const Device& device, const std::string& ptx, const std::string& entry,
         const KernelOptions& options = {});
  // The same for an entry that takes one block of `param_bytes` bytes, such as a ParamLayout.
  // SpecError if it takes anything else. `assembled`, machine code of this PTX, is loaded in its place where it
  // runs on the device; null: there is none.
  Kernel(const Device& device, const std::string& ptx, const std::string& entry, int threads,
         int dynamic_smem, std::size_t param_bytes, const MachineCode* assembled = nullptr);
  ~Kernel();
  Kernel(Kernel&& other) noexcept;
  Kernel& operator=(Kernel&&) = delete;

  // One parameter block.
  template <KernelValue Params>
  void launch(Dim3 grid, const Params& params, StreamHandle stream) const {
    launch_block(grid, &params, sizeof(Params), stream);
  }
  // The same, put together at run time (ParamPack).
  void launch_block(Dim3 grid, const void* params, std::size_t bytes, StreamHandle stream) const;
  // The same for a caller that is in a Device::Scope of the kernel's device, once for many launches.
  void launch_block_in_scope(Dim3 grid, const void* params, std::size_t bytes,
                             StreamHandle stream) const;
  // A list of arguments: numbers, device addresses, structs, in the order of the entry's parameters. Throws
  // ArgumentError, and launches nothing, if their number, a size, or an integer in place of a
  // floating-point number (or the reverse) does not fit the entry.
  template <KernelValue... Args>
  void launch(Dim3 grid, StreamHandle stream, const Args&... args) const {
    launch(LaunchSize{.grid = grid}, stream, args...);
  }
  template <KernelValue... Args>
  void launch(const LaunchSize& size, StreamHandle stream, const Args&... args) const {
    const std::array<KernelArgument, sizeof...(Args)> arguments{kernel_argument(args)...};
    launch_list(size, stream, arguments);
  }
  // The same for lists that are made at run time.
  void launch_list(const LaunchSize& size, StreamHandle stream,
                   std::span<const KernelArgument> arguments) const;
  // One pointer per parameter, each to as many bytes as it has: the `kernelParams` of cuLaunchKernel. Only
  // their number is checked, and that none is null.
  void launch_pointers(const LaunchSize& size, StreamHandle stream,
                       std::span<void* const> arguments) const;

  const std::string& name() const;
  const std::string& note() const;  // why `assembled` was not loaded, as a sentence; else empty
  std::span<const PtxParameter> parameters() const;
  int attribute(FunctionAttribute attribute) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::runtime
