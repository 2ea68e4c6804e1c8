// A driver for measurements of the runtime itself.
#pragma once

#include <cstddef>
#include <string>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::bench {

using namespace sagegen::runtime;

// Answers every call with success, as little as a driver can do.
class IdleDriver : public DriverApi {
 public:
  std::string name() const override { return "idle"; }
  Result init() override { return Result::success; }
  Result driver_version(int* version) override { return *version = 13000, Result::success; }
  Result device_count(int* count) override { return *count = 1, Result::success; }
  Result device_name(char* name, int length, DeviceOrdinal) override {
    if (length > 0) *name = '\0';
    return Result::success;
  }
  Result device_attribute(int* value, DeviceAttribute attribute, DeviceOrdinal) override {
    *value = attribute == DeviceAttribute::compute_capability_major   ? 8
             : attribute == DeviceAttribute::compute_capability_minor ? 9
                                                                      : 1 << 20;
    return Result::success;
  }
  Result device_total_memory(std::size_t* bytes, DeviceOrdinal) override {
    return *bytes = 0, Result::success;
  }
  Result primary_context_retain(ContextHandle* context, DeviceOrdinal) override {
    return *context = handle<ContextHandle>(), Result::success;
  }
  Result primary_context_release(DeviceOrdinal) override { return Result::success; }
  Result set_current(ContextHandle context) override { return current_ = context, Result::success; }
  Result get_current(ContextHandle* context) override {
    return *context = current_, Result::success;
  }
  Result context_synchronize() override { return Result::success; }
  Result module_load(ModuleHandle* module, const char*, std::string*) override {
    return *module = handle<ModuleHandle>(), Result::success;
  }
  Result module_unload(ModuleHandle) override { return Result::success; }
  Result module_function(FunctionHandle* function, ModuleHandle, const char*) override {
    return *function = handle<FunctionHandle>(), Result::success;
  }
  Result function_attribute(int* value, FunctionAttribute, FunctionHandle) override {
    return *value = 1024, Result::success;
  }
  Result function_set_attribute(FunctionHandle, FunctionAttribute, int) override {
    return Result::success;
  }
  Result launch(FunctionHandle, Dim3, Dim3, unsigned, StreamHandle, void**) override {
    return Result::success;
  }
  Result mem_alloc(DevicePtr* ptr, std::size_t) override { return *ptr = 256, Result::success; }
  Result mem_free(DevicePtr) override { return Result::success; }
  Result copy_to_device(DevicePtr, const void*, std::size_t, StreamHandle) override {
    return Result::success;
  }
  Result copy_to_host(void*, DevicePtr, std::size_t, StreamHandle) override {
    return Result::success;
  }
  Result copy_on_device(DevicePtr, DevicePtr, std::size_t, StreamHandle) override {
    return Result::success;
  }
  Result fill_bytes(DevicePtr, unsigned char, std::size_t, StreamHandle) override {
    return Result::success;
  }
  Result tensor_map_encode_tiled(TensorMap*, const TensorMapLayout&) override {
    return Result::not_supported;
  }
  Result stream_create(StreamHandle* stream) override {
    return *stream = handle<StreamHandle>(), Result::success;
  }
  Result stream_destroy(StreamHandle) override { return Result::success; }
  Result stream_synchronize(StreamHandle) override { return Result::success; }
  Result event_create(EventHandle* event) override {
    return *event = handle<EventHandle>(), Result::success;
  }
  Result event_destroy(EventHandle) override { return Result::success; }
  Result event_record(EventHandle, StreamHandle) override { return Result::success; }
  Result event_synchronize(EventHandle) override { return Result::success; }
  Result event_elapsed_ms(float* ms, EventHandle, EventHandle) override {
    return *ms = 0, Result::success;
  }
  Result stream_begin_capture(StreamHandle) override { return Result::not_supported; }
  Result stream_end_capture(StreamHandle, GraphHandle*) override { return Result::not_supported; }
  Result graph_destroy(GraphHandle) override { return Result::not_supported; }
  Result graph_instantiate(GraphExecutableHandle*, GraphHandle) override {
    return Result::not_supported;
  }
  Result graph_executable_destroy(GraphExecutableHandle) override { return Result::not_supported; }
  Result graph_launch(GraphExecutableHandle, StreamHandle) override {
    return Result::not_supported;
  }
  std::string result_name(Result) const override { return "result"; }

 private:
  // Any address but null.
  template <typename Handle>
  Handle handle() {
    return reinterpret_cast<Handle>(this);
  }
  ContextHandle current_ = nullptr;
};

}  // namespace sagegen::bench
