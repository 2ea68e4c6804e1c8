// RAII over the driver seam: Device, Buffer, Stream, Event, Kernel. Every object keeps what it
// needs alive; every failed driver call throws DriverError with the call and the result's name. A
// call leaves the calling thread's current context as it found it, also when it throws. Destructors
// never throw. A moved-from object owns nothing and may only be destroyed, assigned to or asked for
// data()/handle().
//
// Objects may move between threads. Device and Kernel may be used by several threads at once; the
// others by one at a time.
#pragma once

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

namespace sagegen::runtime {

// Throws DriverError unless result is success. call: the CUDA function, "cuMemAlloc". about: what
// it was called for, "of 4096 bytes", or empty. log: the JIT's messages, or empty.
void check(DriverApi& api, Result result, const char* call, std::string_view about = {},
           std::string_view log = {});

// One device with its primary context. Copies share the context, which is released with the last
// one.
class Device {
 public:
  // Throws ArgumentError if there is no such device, DriverError.
  Device(std::shared_ptr<DriverApi> api, DeviceOrdinal ordinal);
  Device(const Device&) = default;  // no move: a moved-from Device would be an empty one
  Device& operator=(const Device&) = default;

  DriverApi& api() const;
  DeviceOrdinal ordinal() const;
  std::string name() const;
  int compute_capability() const;  // 89 for 8.9
  int attribute(DeviceAttribute attribute) const;
  std::size_t total_memory() const;  // bytes
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

// One entry point of a loaded module. The parameter block is a struct of sagegen/abi.h; its size is
// checked against the kernel's declaration in the PTX when the module is loaded.
class Kernel {
 public:
  // Loads `ptx`, finds `entry`, allows `dynamic_smem` bytes. Throws DriverError with the JIT log, or
  // SpecError if the entry does not take one block of `param_bytes` bytes or the device cannot run it
  // with so much shared memory or so many threads.
  Kernel(const Device& device, const std::string& ptx, const std::string& entry, int threads,
         int dynamic_smem, std::size_t param_bytes);
  ~Kernel();
  Kernel(Kernel&& other) noexcept;
  Kernel& operator=(Kernel&&) = delete;

  template <typename Params>
  void launch(Dim3 grid, const Params& params, StreamHandle stream) const {
    static_assert(std::is_trivially_copyable_v<Params>);
    launch_bytes(grid, &params, sizeof(Params), stream);
  }
  const std::string& name() const;
  int attribute(FunctionAttribute attribute) const;

 private:
  void launch_bytes(Dim3 grid, const void* params, std::size_t bytes, StreamHandle stream) const;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::runtime
