#include "tests/driver/fake_driver.h"

#include <cstdio>
#include <cstring>
#include <string_view>

namespace sagegen::test {
namespace {

const auto kPrimaryContext = reinterpret_cast<ContextHandle>(std::uintptr_t{0x100});
const auto kForeignContext = reinterpret_cast<ContextHandle>(std::uintptr_t{0x200});

template <typename Handle>
std::uintptr_t number(Handle handle) {
  return reinterpret_cast<std::uintptr_t>(handle);
}

constexpr std::string_view kElf = "\x7f"
                                 "ELF fake ";

}  // namespace

std::string fake_machine_code(const std::string& ptx, int compute_capability) {
  return std::string(kElf) + std::to_string(compute_capability) + "\n" + ptx;
}

// Of the text from `.entry` to the next: `.param .type name` or `.param .align N .b8 name[N]`, and
// `.shared .align N .b8 name[N]`.
FakeDriver::Entry FakeDriver::entry_of(const std::string& text) {
  Entry entry;
  const std::size_t end = text.find(')');
  for (std::size_t at = text.find(".param "); at < end; at = text.find(".param ", at + 1)) {
    std::size_t number = 0;
    if (std::sscanf(text.c_str() + at, ".param .align %*d .b8 %*[^[][%zu]", &number) == 1) {
      entry.param_bytes.push_back(number);
    } else if (std::sscanf(text.c_str() + at, ".param .%*[a-z]%zu", &number) == 1) {
      entry.param_bytes.push_back(number / 8);
    }
  }
  const std::size_t shared = text.find(".shared ");
  if (shared != std::string::npos) {
    std::sscanf(text.c_str() + shared, ".shared .align %*d .b8 %*[^[][%d]", &entry.static_smem);
  }
  return entry;
}

std::string fake_ptx(const std::string& entry, std::size_t param_bytes) {
  return ".version 8.4\n.target sm_89\n.address_size 64\n\n.visible .entry " + entry +
         "(\n\t.param .align 8 .b8 " + entry + "_param_0[" + std::to_string(param_bytes) +
         "]\n)\n.maxntid 128\n{\n\tret;\n}\n";
}

void FakeDriver::fail_call(int number, Result result) {
  failing_call_ = number;
  failure_ = result;
}

std::vector<std::string> FakeDriver::live() const {
  std::vector<std::string> result;
  for (const auto& [handle, kind] : handles_) result.push_back(kind);
  for (const auto& entry : memory_) {
    result.push_back("memory of " + std::to_string(entry.second.size()) + " bytes");
  }
  for (int i = 0; i < retained_; ++i) result.emplace_back("primary context");
  return result;
}

ContextHandle FakeDriver::foreign_context() { return kForeignContext; }

ContextHandle FakeDriver::current() const {
  const std::lock_guard lock(mutex_);
  const auto found = current_.find(std::this_thread::get_id());
  return found == current_.end() ? nullptr : found->second;
}

Result FakeDriver::begin(const char* call, Needs needs) {
  calls_.emplace_back(call);
  if (static_cast<int>(calls_.size()) == failing_call_) return failure_;
  const bool about_contexts =
      std::strcmp(call, "cuCtxSetCurrent") == 0 || std::strcmp(call, "cuCtxGetCurrent") == 0;
  if (contexts_lost_from_ > 0 && static_cast<int>(calls_.size()) >= contexts_lost_from_ &&
      about_contexts) {
    return Result::deinitialized;
  }
  if (needs == Needs::context) {
    const ContextHandle current = current_[std::this_thread::get_id()];
    if (current != kPrimaryContext || retained_ == 0) {
      misuse_.push_back(std::string(call) + " without the device's context");
      return Result::invalid_context;
    }
  }
  return Result::success;
}

std::uintptr_t FakeDriver::give(const char* kind) {
  next_handle_ += 0x10;
  handles_[next_handle_] = kind;
  return next_handle_;
}

Result FakeDriver::require(const char* kind, std::uintptr_t handle) {
  if (handle == 0 && std::string(kind) == "stream") return Result::success;
  const auto found = handles_.find(handle);
  if (found != handles_.end() && found->second == kind) return Result::success;
  misuse_.push_back(calls_.back() + " with a handle that is no live " + kind);
  return Result::invalid_value;
}

Result FakeDriver::forget(const char* kind, std::uintptr_t handle) {
  if (handle == 0) {
    misuse_.push_back(calls_.back() + " with a null handle");
    return Result::invalid_value;
  }
  if (const Result known = require(kind, handle); known != Result::success) return known;
  handles_.erase(handle);
  return Result::success;
}

std::byte* FakeDriver::bytes_at(const char* call, DevicePtr ptr, std::size_t bytes) {
  const auto after = memory_.upper_bound(ptr);
  if (after != memory_.begin()) {
    auto& [base, memory] = *std::prev(after);
    const std::size_t at = ptr - base;
    if (at <= memory.size() && bytes <= memory.size() - at) return memory.data() + at;
  }
  misuse_.push_back(std::string(call) + " outside of an allocation");
  return nullptr;
}

// Every call: lock, record, fail if it is its turn.
#define FAKE_BEGIN(call, needs)       \
  const std::lock_guard lock(mutex_); \
  if (const Result begun = begin(call, needs); begun != Result::success) return begun

Result FakeDriver::init() {
  FAKE_BEGIN("cuInit", Needs::nothing);
  return Result::success;
}

Result FakeDriver::driver_version(int* version) {
  FAKE_BEGIN("cuDriverGetVersion", Needs::nothing);
  *version = cuda_version_;
  return Result::success;
}

Result FakeDriver::device_count(int* count) {
  FAKE_BEGIN("cuDeviceGetCount", Needs::nothing);
  *count = devices_;
  return Result::success;
}

Result FakeDriver::device_name(char* name, int length, DeviceOrdinal) {
  FAKE_BEGIN("cuDeviceGetName", Needs::nothing);
  std::strncpy(name, "Fake GPU", static_cast<std::size_t>(length));
  return Result::success;
}

Result FakeDriver::device_attribute(int* value, DeviceAttribute attribute, DeviceOrdinal) {
  FAKE_BEGIN("cuDeviceGetAttribute", Needs::nothing);
  switch (attribute) {
    case DeviceAttribute::compute_capability_major:
      *value = compute_capability_ / 10;
      break;
    case DeviceAttribute::compute_capability_minor:
      *value = compute_capability_ % 10;
      break;
    case DeviceAttribute::max_shared_memory_per_block_optin:
      *value = smem_optin_;
      break;
    case DeviceAttribute::l2_cache_size:
      *value = 1 << 16;
      break;
    default:
      *value = 0;
  }
  return Result::success;
}

Result FakeDriver::device_total_memory(std::size_t* bytes, DeviceOrdinal) {
  FAKE_BEGIN("cuDeviceTotalMem", Needs::nothing);
  *bytes = std::size_t{24} << 30;
  return Result::success;
}

Result FakeDriver::primary_context_retain(ContextHandle* context, DeviceOrdinal) {
  FAKE_BEGIN("cuDevicePrimaryCtxRetain", Needs::nothing);
  ++retained_;
  *context = kPrimaryContext;
  return Result::success;
}

Result FakeDriver::primary_context_release(DeviceOrdinal) {
  FAKE_BEGIN("cuDevicePrimaryCtxRelease", Needs::nothing);
  if (retained_ == 0) misuse_.emplace_back("primary context released too often");
  --retained_;
  return Result::success;
}

Result FakeDriver::set_current(ContextHandle context) {
  FAKE_BEGIN("cuCtxSetCurrent", Needs::nothing);
  current_[std::this_thread::get_id()] = context;
  return Result::success;
}

Result FakeDriver::get_current(ContextHandle* context) {
  FAKE_BEGIN("cuCtxGetCurrent", Needs::nothing);
  *context = current_[std::this_thread::get_id()];
  return Result::success;
}

Result FakeDriver::context_synchronize() {
  FAKE_BEGIN("cuCtxSynchronize", Needs::context);
  return Result::success;
}

Result FakeDriver::module_load(ModuleHandle* module, const char* ptx, std::string* log) {
  FAKE_BEGIN("cuModuleLoadDataEx", Needs::context);
  std::map<std::string, Entry> entries;
  std::string text = ptx;
  if (text.starts_with(kElf)) {
    int capability = 0;
    if (std::sscanf(text.c_str() + kElf.size(), "%d", &capability) != 1)
      return Result::invalid_image;
    if (capability / 10 != compute_capability_ / 10 || capability > compute_capability_)
      return Result::no_binary_for_gpu;
    text.erase(0, text.find('\n') + 1);
  } else if (const Result refused = refuse_ptx(text, log); refused != Result::success) {
    return refused;
  }
  for (std::size_t at = text.find(".entry "); at != std::string::npos;
       at = text.find(".entry ", at + 1)) {
    char name[256] = {};
    if (std::sscanf(text.c_str() + at, ".entry %255[^( ]", name) == 1) {
      entries[name] = entry_of(text.substr(at, text.find(".entry ", at + 1) - at));
    }
  }
  const std::uintptr_t handle = give("module");
  modules_[handle] = entries;
  *module = reinterpret_cast<ModuleHandle>(handle);
  return Result::success;
}

Result FakeDriver::refuse_ptx(const std::string& text, std::string* log) const {
  if (!jit_log_.empty()) {
    *log = jit_log_;
    return jit_result_;
  }
  int major = 0, minor = 0;
  if (std::sscanf(text.c_str(), ".version %d.%d", &major, &minor) == 2 &&
      10 * major + minor > newest_ptx_) {
    *log = "ptxas fatal: unsupported .version";
    return Result::unsupported_ptx_version;
  }
  return Result::success;
}

Result FakeDriver::link_create(std::uintptr_t* link) {
  FAKE_BEGIN("cuLinkCreate", Needs::context);
  *link = give("link");
  return Result::success;
}

Result FakeDriver::link_add(std::uintptr_t link, const char* ptx, std::string* log) {
  FAKE_BEGIN("cuLinkAddData", Needs::context);
  if (const Result known = require("link", link); known != Result::success) return known;
  if (const Result refused = refuse_ptx(ptx, log); refused != Result::success) return refused;
  links_[link] = fake_machine_code(ptx, compute_capability_);
  return Result::success;
}

Result FakeDriver::link_complete(std::uintptr_t link, const std::string** code) {
  FAKE_BEGIN("cuLinkComplete", Needs::context);
  if (const Result known = require("link", link); known != Result::success) return known;
  *code = &links_[link];
  return Result::success;
}

Result FakeDriver::link_destroy(std::uintptr_t link) {
  FAKE_BEGIN("cuLinkDestroy", Needs::context);
  links_.erase(link);
  return forget("link", link);
}

Result FakeDriver::compile(std::string* code, const char* ptx, std::string* log) {
  std::uintptr_t link = 0;
  if (const Result made = link_create(&link); made != Result::success) return made;
  Result result = link_add(link, ptx, log);
  const std::string* made = nullptr;
  if (result == Result::success) result = link_complete(link, &made);
  if (result == Result::success) *code = *made;
  link_destroy(link);
  return result;
}

Result FakeDriver::module_unload(ModuleHandle module) {
  FAKE_BEGIN("cuModuleUnload", Needs::context);
  return forget("module", number(module));
}

Result FakeDriver::module_function(FunctionHandle* function, ModuleHandle module,
                                   const char* name) {
  FAKE_BEGIN("cuModuleGetFunction", Needs::context);
  if (const Result known = require("module", number(module)); known != Result::success)
    return known;
  const auto& entries = modules_[number(module)];
  const auto found = entries.find(name);
  if (found == entries.end()) return Result::not_found;
  next_handle_ += 0x10;
  functions_[next_handle_] = Function{found->first, found->second, number(module)};
  *function = reinterpret_cast<FunctionHandle>(next_handle_);
  return Result::success;
}

Result FakeDriver::function_attribute(int* value, FunctionAttribute attribute,
                                      FunctionHandle function) {
  FAKE_BEGIN("cuFuncGetAttribute", Needs::context);
  const auto found = functions_.find(number(function));
  if (found == functions_.end()) return Result::invalid_value;
  *value = attribute == FunctionAttribute::max_threads_per_block ? threads_per_block_
           : attribute == FunctionAttribute::shared_size_bytes   ? found->second.entry.static_smem
                                                                 : 42;
  return Result::success;
}

Result FakeDriver::function_set_attribute(FunctionHandle function, FunctionAttribute attribute,
                                          int value) {
  FAKE_BEGIN("cuFuncSetAttribute", Needs::context);
  if (attribute != FunctionAttribute::max_dynamic_shared_size_bytes || value > smem_optin_) {
    return Result::invalid_value;
  }
  smem_allowed_[functions_.at(number(function)).name] = value;
  return Result::success;
}

Result FakeDriver::launch(FunctionHandle function, Dim3 grid, Dim3 block,
                          unsigned dynamic_smem_bytes, StreamHandle stream, void** params) {
  FAKE_BEGIN("cuLaunchKernel", Needs::context);
  if (const Result known = require("stream", number(stream)); known != Result::success)
    return known;
  const Function& kernel = functions_.at(number(function));
  if (const Result known = require("module", kernel.module); known != Result::success) return known;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    return Result::invalid_value;
  }
  const auto allowed = smem_allowed_.find(kernel.name);
  const int limit =
      allowed == smem_allowed_.end() ? 48 * 1024 - kernel.entry.static_smem : allowed->second;
  if (static_cast<int>(dynamic_smem_bytes) > limit) return Result::invalid_value;
  FakeLaunch record{kernel.name, grid, block, dynamic_smem_bytes, stream, {}};
  for (std::size_t i = 0; i < kernel.entry.param_bytes.size(); ++i) {
    const auto* const from = static_cast<const std::byte*>(params[i]);
    record.params.insert(record.params.end(), from, from + kernel.entry.param_bytes[i]);
  }
  launches_.push_back(std::move(record));
  return Result::success;
}

Result FakeDriver::mem_alloc(DevicePtr* ptr, std::size_t bytes) {
  FAKE_BEGIN("cuMemAlloc", Needs::context);
  if (bytes == 0) return Result::invalid_value;
  *ptr = next_address_;
  memory_[next_address_].resize(bytes);
  next_address_ += (bytes + 511) / 256 * 256;
  return Result::success;
}

Result FakeDriver::mem_free(DevicePtr ptr) {
  FAKE_BEGIN("cuMemFree", Needs::context);
  if (memory_.erase(ptr) == 1) return Result::success;
  misuse_.emplace_back("cuMemFree of memory that is not allocated");
  return Result::invalid_value;
}

Result FakeDriver::copy_to_device(DevicePtr dst, const void* src, std::size_t bytes, StreamHandle) {
  FAKE_BEGIN("cuMemcpyHtoDAsync", Needs::context);
  std::byte* const to = bytes_at("cuMemcpyHtoDAsync", dst, bytes);
  if (to == nullptr) return Result::invalid_value;
  std::memcpy(to, src, bytes);
  return Result::success;
}

Result FakeDriver::copy_to_host(void* dst, DevicePtr src, std::size_t bytes, StreamHandle) {
  FAKE_BEGIN("cuMemcpyDtoHAsync", Needs::context);
  const std::byte* const from = bytes_at("cuMemcpyDtoHAsync", src, bytes);
  if (from == nullptr) return Result::invalid_value;
  std::memcpy(dst, from, bytes);
  return Result::success;
}

Result FakeDriver::copy_on_device(DevicePtr dst, DevicePtr src, std::size_t bytes, StreamHandle) {
  FAKE_BEGIN("cuMemcpyDtoDAsync", Needs::context);
  std::byte* const to = bytes_at("cuMemcpyDtoDAsync", dst, bytes);
  const std::byte* const from = bytes_at("cuMemcpyDtoDAsync", src, bytes);
  if (to == nullptr || from == nullptr) return Result::invalid_value;
  std::memcpy(to, from, bytes);
  return Result::success;
}

Result FakeDriver::fill_bytes(DevicePtr dst, unsigned char value, std::size_t count, StreamHandle) {
  FAKE_BEGIN("cuMemsetD8Async", Needs::context);
  std::byte* const to = bytes_at("cuMemsetD8Async", dst, count);
  if (to == nullptr) return Result::invalid_value;
  std::memset(to, value, count);
  return Result::success;
}

Result FakeDriver::tensor_map_encode_tiled(TensorMap* map, const TensorMapLayout& layout) {
  FAKE_BEGIN("cuTensorMapEncodeTiled", Needs::context);
  map->opaque[0] = layout.base;
  return Result::success;
}

Result FakeDriver::stream_create(StreamHandle* stream) {
  FAKE_BEGIN("cuStreamCreate", Needs::context);
  *stream = reinterpret_cast<StreamHandle>(give("stream"));
  return Result::success;
}

Result FakeDriver::stream_destroy(StreamHandle stream) {
  FAKE_BEGIN("cuStreamDestroy", Needs::context);
  return forget("stream", number(stream));
}

Result FakeDriver::stream_synchronize(StreamHandle stream) {
  FAKE_BEGIN("cuStreamSynchronize", Needs::context);
  return require("stream", number(stream));
}

Result FakeDriver::event_create(EventHandle* event) {
  FAKE_BEGIN("cuEventCreate", Needs::context);
  *event = reinterpret_cast<EventHandle>(give("event"));
  return Result::success;
}

Result FakeDriver::event_destroy(EventHandle event) {
  FAKE_BEGIN("cuEventDestroy", Needs::context);
  return forget("event", number(event));
}

Result FakeDriver::event_record(EventHandle event, StreamHandle stream) {
  FAKE_BEGIN("cuEventRecord", Needs::context);
  if (const Result known = require("stream", number(stream)); known != Result::success)
    return known;
  return require("event", number(event));
}

Result FakeDriver::event_synchronize(EventHandle event) {
  FAKE_BEGIN("cuEventSynchronize", Needs::context);
  return require("event", number(event));
}

Result FakeDriver::event_elapsed_ms(float* ms, EventHandle start, EventHandle end) {
  FAKE_BEGIN("cuEventElapsedTime", Needs::context);
  *ms = 1.5f;
  if (const Result known = require("event", number(start)); known != Result::success) return known;
  return require("event", number(end));
}

// Launches of a captured stream are recorded like others; replays are not.
Result FakeDriver::stream_begin_capture(StreamHandle stream) {
  FAKE_BEGIN("cuStreamBeginCapture", Needs::context);
  return require("stream", number(stream));
}

Result FakeDriver::stream_end_capture(StreamHandle stream, GraphHandle* graph) {
  FAKE_BEGIN("cuStreamEndCapture", Needs::context);
  *graph = reinterpret_cast<GraphHandle>(give("graph"));
  return require("stream", number(stream));
}

Result FakeDriver::graph_destroy(GraphHandle graph) {
  FAKE_BEGIN("cuGraphDestroy", Needs::context);
  return forget("graph", number(graph));
}

Result FakeDriver::graph_instantiate(GraphExecutableHandle* executable, GraphHandle graph) {
  FAKE_BEGIN("cuGraphInstantiateWithFlags", Needs::context);
  *executable = reinterpret_cast<GraphExecutableHandle>(give("executable graph"));
  return require("graph", number(graph));
}

Result FakeDriver::graph_executable_destroy(GraphExecutableHandle executable) {
  FAKE_BEGIN("cuGraphExecDestroy", Needs::context);
  return forget("executable graph", number(executable));
}

Result FakeDriver::graph_launch(GraphExecutableHandle executable, StreamHandle stream) {
  FAKE_BEGIN("cuGraphLaunch", Needs::context);
  if (const Result known = require("stream", number(stream)); known != Result::success)
    return known;
  return require("executable graph", number(executable));
}

#undef FAKE_BEGIN

std::string FakeDriver::result_name(Result result) const {
  return "FAKE_RESULT_" + std::to_string(static_cast<int>(result));
}

}  // namespace sagegen::test
