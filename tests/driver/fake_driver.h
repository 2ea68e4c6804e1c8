// A driver that executes nothing: it records every call, keeps account of every handle and fails
// the call it is told to fail. It is strict where CUDA is: calls that need a context fail without
// one, and a handle that was never given out or is gone already is reported as misuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::test {

using namespace sagegen::runtime;

struct FakeLaunch {
  std::string kernel;
  Dim3 grid, block;
  unsigned dynamic_smem = 0;
  StreamHandle stream = nullptr;
  std::vector<std::byte> params;  // as many bytes as the PTX of the kernel declares, without gaps
};

// What the fake compiles a text to, and an assembler would.
std::string fake_machine_code(const std::string& ptx, int compute_capability);

// Text that the fake (and ptx_entries) understands as a kernel with one parameter block.
std::string fake_ptx(const std::string& entry, std::size_t param_bytes);

class FakeDriver : public DriverApi {
 public:
  // ---- what tests set and read ----
  void fail_call(int number, Result result);  // 1-based, over all calls; 0: none
  // From this call on, contexts can neither be asked for nor switched.
  void lose_contexts(int from_call) { contexts_lost_from_ = from_call; }
  void set_devices(int count) { devices_ = count; }
  void set_compute_capability(int value) { compute_capability_ = value; }
  void set_smem_optin(int bytes) { smem_optin_ = bytes; }
  void set_threads_per_block(int limit) { threads_per_block_ = limit; }
  // module_load fails with this log and result.
  void reject_ptx(const std::string& log, Result result = Result::invalid_ptx) {
    jit_log_ = log;
    jit_result_ = result;
  }
  // The driver is of this CUDA version, and module_load refuses newer PTX than this version (x10).
  void set_cuda_version(int cuda, int newest_ptx) {
    cuda_version_ = cuda;
    newest_ptx_ = newest_ptx;
  }
  // Compiles PTX to machine code, as drivers with a linker do: a tag with the compute capability, and the text.
  void set_compiles(bool compiles) { compiles_ = compiles; }
  void set_build(const std::string& build) { build_ = build; }
  int call_count() const { return static_cast<int>(calls_.size()); }
  const std::vector<std::string>& calls() const { return calls_; }  // names as in cuda.h
  const std::vector<FakeLaunch>& launches() const { return launches_; }
  const std::vector<std::string>& misuse() const { return misuse_; }
  std::vector<std::string> live() const;  // handles and contexts that nobody released
  ContextHandle foreign_context();        // a context of somebody else
  ContextHandle current() const;          // of the calling thread
  void clear_launches() { launches_.clear(); }
  std::map<std::string, int> smem_allowed() const { return smem_allowed_; }

  // ---- DriverApi ----
  std::string name() const override { return "fake"; }
  Result init() override;
  Result driver_version(int* version) override;
  Result device_count(int* count) override;
  Result device_name(char* name, int length, DeviceOrdinal device) override;
  Result device_attribute(int* value, DeviceAttribute attribute, DeviceOrdinal device) override;
  Result device_total_memory(std::size_t* bytes, DeviceOrdinal device) override;
  Result primary_context_retain(ContextHandle* context, DeviceOrdinal device) override;
  Result primary_context_release(DeviceOrdinal device) override;
  Result set_current(ContextHandle context) override;
  Result get_current(ContextHandle* context) override;
  Result context_synchronize() override;
  Result module_load(ModuleHandle* module, const char* ptx, std::string* log) override;
  bool takes_machine_code() const override { return true; }
  bool can_compile() const override { return compiles_; }
  Result compile(std::string* code, const char* ptx, std::string* log) override;
  std::string build() const override { return build_; }
  // What compile() is made of.
  Result link_create(std::uintptr_t* link);
  Result link_add(std::uintptr_t link, const char* ptx, std::string* log);
  Result link_complete(std::uintptr_t link, const std::string** code);  // the link's
  Result link_destroy(std::uintptr_t link);
  Result module_unload(ModuleHandle module) override;
  Result module_function(FunctionHandle* function, ModuleHandle module, const char* name) override;
  Result function_attribute(int* value, FunctionAttribute attribute,
                            FunctionHandle function) override;
  Result function_set_attribute(FunctionHandle function, FunctionAttribute attribute,
                                int value) override;
  Result launch(FunctionHandle function, Dim3 grid, Dim3 block, unsigned dynamic_smem_bytes,
                StreamHandle stream, void** params) override;
  Result mem_alloc(DevicePtr* ptr, std::size_t bytes) override;
  Result mem_free(DevicePtr ptr) override;
  Result copy_to_device(DevicePtr dst, const void* src, std::size_t bytes,
                        StreamHandle stream) override;
  Result copy_to_host(void* dst, DevicePtr src, std::size_t bytes, StreamHandle stream) override;
  Result copy_on_device(DevicePtr dst, DevicePtr src, std::size_t bytes,
                        StreamHandle stream) override;
  Result fill_bytes(DevicePtr dst, unsigned char value, std::size_t count,
                    StreamHandle stream) override;
  Result tensor_map_encode_tiled(TensorMap* map, const TensorMapLayout& layout) override;
  Result stream_create(StreamHandle* stream) override;
  Result stream_destroy(StreamHandle stream) override;
  Result stream_synchronize(StreamHandle stream) override;
  Result event_create(EventHandle* event) override;
  Result event_destroy(EventHandle event) override;
  Result event_record(EventHandle event, StreamHandle stream) override;
  Result event_synchronize(EventHandle event) override;
  Result event_elapsed_ms(float* ms, EventHandle start, EventHandle end) override;
  Result stream_begin_capture(StreamHandle stream) override;
  Result stream_end_capture(StreamHandle stream, GraphHandle* graph) override;
  Result graph_destroy(GraphHandle graph) override;
  Result graph_instantiate(GraphExecutableHandle* executable, GraphHandle graph) override;
  Result graph_executable_destroy(GraphExecutableHandle executable) override;
  Result graph_launch(GraphExecutableHandle executable, StreamHandle stream) override;
  std::string result_name(Result result) const override;

 private:
  enum class Needs { nothing, context };
  struct Entry {
    std::vector<std::size_t> param_bytes;
    int static_smem = 0;
  };
  struct Function {
    std::string name;
    Entry entry;
    std::uintptr_t module;
  };
  static Entry entry_of(const std::string& text);

  Result refuse_ptx(const std::string& text, std::string* log) const;
  // Records the call. Success: the call may go on.
  Result begin(const char* call, Needs needs);
  // Null, which is misuse, if they are not all in one allocation.
  std::byte* bytes_at(const char* call, DevicePtr ptr, std::size_t bytes);
  Result forget(const char* kind, std::uintptr_t handle);
  Result require(const char* kind, std::uintptr_t handle);  // null streams are fine
  std::uintptr_t give(const char* kind);

  mutable std::mutex mutex_;
  int devices_ = 1;
  int cuda_version_ = 13000;
  int newest_ptx_ = 90;
  bool compiles_ = false;
  std::string build_;
  std::map<std::uintptr_t, std::string> links_;  // the machine code
  int compute_capability_ = 89;
  int smem_optin_ = 101376;
  int threads_per_block_ = 1024;
  std::string jit_log_;
  Result jit_result_ = Result::invalid_ptx;
  int failing_call_ = 0, contexts_lost_from_ = 0;
  Result failure_ = Result::success;
  std::vector<std::string> calls_;
  std::vector<std::string> misuse_;
  std::vector<FakeLaunch> launches_;
  std::uintptr_t next_handle_ = 0x1000;
  std::map<std::uintptr_t, std::string> handles_;  // live, by kind
  std::map<std::uintptr_t, std::map<std::string, Entry>> modules_;
  std::map<std::uintptr_t, Function> functions_;
  std::map<std::string, int> smem_allowed_;
  DevicePtr next_address_ = 0x7f0000000000;
  std::map<DevicePtr, std::vector<std::byte>> memory_;
  std::map<std::thread::id, ContextHandle> current_;
  int retained_ = 0;
};

}  // namespace sagegen::test
