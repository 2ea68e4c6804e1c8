#include "sagegen/runtime/device.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/driver/in_context.h"
#include "sagegen/runtime/code_cache.h"

namespace sagegen::runtime {

void check(DriverApi& api, Result result, const char* call, std::string_view about,
           std::string_view log) {
  if (result == Result::success) return;
  std::string text = fmt::format("{}{}{} failed: {} ({})", call, about.empty() ? "" : " ", about,
                                 api.result_name(result), static_cast<int>(result));
  if (const std::string detail = api.last_error_detail(); !detail.empty()) text += "\n" + detail;
  if (!log.empty()) text += fmt::format("\n{}", log);
  throw DriverError(static_cast<int>(result), call, text);
}

// ---- Device -------------------------------------------------------------------------------------

struct Device::Shared {
  std::shared_ptr<DriverApi> api;
  DeviceOrdinal ordinal = 0;
  int compute_capability = 0;
  ContextHandle context = nullptr;
  std::shared_ptr<CodeCache> code_cache;

  ~Shared() {
    if (context != nullptr) api->primary_context_release(ordinal);
  }
};

Device::Device(std::shared_ptr<DriverApi> api, DeviceOrdinal ordinal)
    : Device(api, ordinal,
             api != nullptr && api->can_compile() ? code_cache_of_environment() : nullptr) {}

Device::Device(std::shared_ptr<DriverApi> api, DeviceOrdinal ordinal,
               std::shared_ptr<CodeCache> cache)
    : shared_(std::make_shared<Shared>()) {
  shared_->code_cache = std::move(cache);
  if (api == nullptr) throw ArgumentError("device: there is no driver (a null DriverApi)");
  shared_->api = std::move(api);
  shared_->ordinal = ordinal;
  DriverApi& driver = *shared_->api;

  check(driver, driver.init(), "cuInit");
  int count = 0;
  check(driver, driver.device_count(&count), "cuDeviceGetCount");
  if (ordinal < 0 || ordinal >= count) {
    throw ArgumentError(fmt::format("device {}: the {} driver has {} device{}, numbered from 0",
                                    ordinal, driver.name(), count, count == 1 ? "" : "s"));
  }
  shared_->compute_capability = 10 * attribute(DeviceAttribute::compute_capability_major) +
                                attribute(DeviceAttribute::compute_capability_minor);
  check(driver, driver.primary_context_retain(&shared_->context, ordinal),
        "cuDevicePrimaryCtxRetain");
}

DriverApi& Device::api() const { return *shared_->api; }
DeviceOrdinal Device::ordinal() const { return shared_->ordinal; }
CodeCache* Device::code_cache() const { return shared_->code_cache.get(); }
int Device::compute_capability() const { return shared_->compute_capability; }

std::string Device::name() const {
  char text[256] = {};
  check(api(), api().device_name(text, sizeof text, ordinal()), "cuDeviceGetName");
  text[sizeof text - 1] = '\0';
  return text;
}

int Device::attribute(DeviceAttribute attribute) const {
  int value = 0;
  check(api(), api().device_attribute(&value, attribute, ordinal()), "cuDeviceGetAttribute");
  return value;
}

std::size_t Device::total_memory() const {
  std::size_t bytes = 0;
  check(api(), api().device_total_memory(&bytes, ordinal()), "cuDeviceTotalMem");
  return bytes;
}

void Device::synchronize() const {
  in_context(*this, [](DriverApi& driver) {
    check(driver, driver.context_synchronize(), "cuCtxSynchronize");
  });
}

Device::Scope::Scope(const Device& device) : api_(&device.api()) {
  check(*api_, api_->get_current(&previous_), "cuCtxGetCurrent");
  if (previous_ == device.shared_->context) {
    api_ = nullptr;
    return;
  }
  check(*api_, api_->set_current(device.shared_->context), "cuCtxSetCurrent");
}

Device::Scope::~Scope() {
  if (api_ != nullptr) api_->set_current(previous_);
}

void Device::Scope::restore() {
  if (api_ == nullptr) return;
  check(*api_, api_->set_current(previous_), "cuCtxSetCurrent");  // if it fails, ~Scope tries again
  api_ = nullptr;
}

// ---- Buffer -------------------------------------------------------------------------------------

DevicePtr allocate_memory(const Device& device, std::size_t bytes) {
  DevicePtr data = 0;
  in_context(
      device,
      [&](DriverApi& driver) {
        check(driver, driver.mem_alloc(&data, bytes), "cuMemAlloc",
              fmt::format("of {} bytes", bytes));
      },
      [&](DriverApi& driver) { driver.mem_free(data); });
  return data;
}

Buffer::Buffer(const Device& device, std::size_t bytes) : device_(device) {
  if (bytes == 0) return;
  data_ = allocate_memory(device, bytes);
  bytes_ = bytes;
}

Buffer::~Buffer() {
  if (data_ == 0) return;
  release_in_context(*device_, [&](DriverApi& driver) { driver.mem_free(data_); });
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(std::exchange(other.device_, std::nullopt)),
      data_(std::exchange(other.data_, 0)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  Buffer taken(std::move(other));
  std::swap(device_, taken.device_);
  std::swap(data_, taken.data_);
  std::swap(bytes_, taken.bytes_);
  return *this;
}

namespace {

void check_span(const char* verb, std::size_t span, std::size_t buffer) {
  if (span > buffer) {
    throw ArgumentError(
        fmt::format("buffer {}: {} bytes asked for, the buffer holds {}", verb, span, buffer));
  }
}

}  // namespace

void Buffer::upload(std::span<const std::byte> from) {
  check_span("upload", from.size(), bytes_);
  if (from.empty()) return;
  in_context(*device_, [&](DriverApi& driver) {
    check(driver, driver.copy_to_device(data_, from.data(), from.size(), nullptr),
          "cuMemcpyHtoDAsync", fmt::format("of {} bytes", from.size()));
    check(driver, driver.stream_synchronize(nullptr), "cuStreamSynchronize");
  });
}

void Buffer::download(std::span<std::byte> to) const {
  check_span("download", to.size(), bytes_);
  if (to.empty()) return;
  in_context(*device_, [&](DriverApi& driver) {
    check(driver, driver.copy_to_host(to.data(), data_, to.size(), nullptr), "cuMemcpyDtoHAsync",
          fmt::format("of {} bytes", to.size()));
    check(driver, driver.stream_synchronize(nullptr), "cuStreamSynchronize");
  });
}

void Buffer::fill(unsigned char value) {
  if (bytes_ == 0) return;
  in_context(*device_, [&](DriverApi& driver) {
    check(driver, driver.fill_bytes(data_, value, bytes_, nullptr), "cuMemsetD8Async",
          fmt::format("of {} bytes", bytes_));
    check(driver, driver.stream_synchronize(nullptr), "cuStreamSynchronize");
  });
}

// ---- Stream and Event ---------------------------------------------------------------------------

namespace {

// The null handles of CUDA mean the default stream; a moved-from object must not become that.
template <typename Handle>
Handle require(Handle handle, const char* what) {
  if (handle == nullptr) throw ArgumentError(fmt::format("{}: the object was moved from", what));
  return handle;
}

// Creates a handle; if the caller's context cannot be restored afterwards, destroys it again.
template <typename Handle, typename Create, typename Destroy>
Handle create_in_context(const Device& device, Create create, Destroy destroy) {
  Handle handle = nullptr;
  in_context(
      device, [&](DriverApi& driver) { create(driver, &handle); },
      [&](DriverApi& driver) { destroy(driver, handle); });
  return handle;
}

}  // namespace

Stream::Stream(const Device& device)
    : device_(device),
      handle_(create_in_context<StreamHandle>(
          device,
          [](DriverApi& driver, StreamHandle* handle) {
            check(driver, driver.stream_create(handle), "cuStreamCreate");
          },
          [](DriverApi& driver, StreamHandle handle) { driver.stream_destroy(handle); })) {}

Stream::~Stream() {
  if (handle_ == nullptr) return;
  release_in_context(device_, [&](DriverApi& driver) { driver.stream_destroy(handle_); });
}

Stream::Stream(Stream&& other) noexcept
    : device_(other.device_), handle_(std::exchange(other.handle_, nullptr)) {}

void Stream::synchronize() const {
  const StreamHandle stream = require(handle_, "stream synchronize");
  in_context(device_, [&](DriverApi& driver) {
    check(driver, driver.stream_synchronize(stream), "cuStreamSynchronize");
  });
}

Event::Event(const Device& device)
    : device_(device),
      handle_(create_in_context<EventHandle>(
          device,
          [](DriverApi& driver, EventHandle* handle) {
            check(driver, driver.event_create(handle), "cuEventCreate");
          },
          [](DriverApi& driver, EventHandle handle) { driver.event_destroy(handle); })) {}

Event::~Event() {
  if (handle_ == nullptr) return;
  release_in_context(device_, [&](DriverApi& driver) { driver.event_destroy(handle_); });
}

Event::Event(Event&& other) noexcept
    : device_(other.device_), handle_(std::exchange(other.handle_, nullptr)) {}

void Event::record(StreamHandle stream) {
  const EventHandle event = require(handle_, "event record");
  in_context(device_, [&](DriverApi& driver) {
    check(driver, driver.event_record(event, stream), "cuEventRecord");
  });
}

void Event::synchronize() const {
  const EventHandle event = require(handle_, "event synchronize");
  in_context(device_, [&](DriverApi& driver) {
    check(driver, driver.event_synchronize(event), "cuEventSynchronize");
  });
}

float Event::milliseconds_since(const Event& start) const {
  const EventHandle first = require(start.handle_, "event time");
  const EventHandle last = require(handle_, "event time");
  float milliseconds = 0;
  in_context(device_, [&](DriverApi& driver) {
    check(driver, driver.event_elapsed_ms(&milliseconds, first, last), "cuEventElapsedTime");
  });
  return milliseconds;
}

}  // namespace sagegen::runtime
