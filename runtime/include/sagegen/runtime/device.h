// RAII over the driver seam: Device, Buffer, Stream, Event, Module, Kernel. Every object keeps what it
// needs alive; every failed driver call throws DriverError with the call and the result's name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "sagegen/runtime/driver_api.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {

// Throws DriverError unless result is success.
void check(DriverApi& api, Result result, const char* call);

// One device with its primary context. Copies share the context.
class Device {
 public:
  Device(std::shared_ptr<DriverApi> api, DeviceOrdinal ordinal);

  DriverApi& api() const;
  DeviceOrdinal ordinal() const;
  std::string name() const;
  int compute_capability() const;            // 89 for 8.9
  int attribute(DeviceAttribute attribute) const;
  std::size_t total_memory() const;          // bytes
  void synchronize() const;

  // Makes the context current in this thread while alive and restores the caller's afterwards.
  class Scope {
   public:
    explicit Scope(const Device& device);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    DriverApi* api_;
    ContextHandle previous_;
  };

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

// Device memory, freed on destruction.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Device& device, std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  DevicePtr data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  // Synchronous copies of the whole span, from the start of the buffer.
  void upload(std::span<const std::byte> from);
  void download(std::span<std::byte> to) const;
  void fill(unsigned char value);

 private:
  std::shared_ptr<Device> device_;
  DevicePtr data_ = 0;
  std::size_t bytes_ = 0;
};

class Stream {
 public:
  explicit Stream(const Device& device);
  ~Stream();
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&&) = delete;
  StreamHandle handle() const { return handle_; }
  void synchronize() const;

 private:
  std::shared_ptr<Device> device_;
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
  std::shared_ptr<Device> device_;
  EventHandle handle_ = nullptr;
};

// One entry point of a loaded module. The parameter block is a struct of sagegen/abi.h; its size is
// checked against the kernel's declaration in the PTX when the module is loaded.
class Kernel {
 public:
  // Loads `ptx`, finds `entry`, allows `dynamic_smem` bytes. Throws DriverError with the JIT log.
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
