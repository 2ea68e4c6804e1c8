// The DriverApi over the executor: devices, contexts, modules, memory, streams, events and graphs. Launches are
// in launch_rules.cpp as far as they are rules.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <vector>

#include "runtime/emulator/device/handle_table.h"
#include "runtime/emulator/device/launch_rules.h"
#include "runtime/emulator/device/loaded_module.h"
#include "runtime/emulator/device/profiles.h"
#include "runtime/emulator/device/results.h"
#include "runtime/emulator/device/thread_state.h"
#include "runtime/emulator/numerics/host_lanes.h"
#include "sagegen/runtime/emulator.h"

namespace sagegen::emulator {
namespace {

using namespace runtime;  // this file implements runtime's interface, with its types throughout

constexpr std::size_t kMostFindings = 256;

// A primary context: what lives on one device between the first retain and the last release.
struct Context {
  const DeviceDescription* device = nullptr;
  std::shared_ptr<DeviceMemory> memory = std::make_shared<DeviceMemory>(kDeviceMemoryBytes);
};

struct ModuleObject {
  std::shared_ptr<Context> context;
  std::shared_ptr<LoadedModule> loaded;
  std::map<std::string, FunctionHandle, std::less<>> functions;
};

struct FunctionObject {
  std::shared_ptr<Context> context;
  std::shared_ptr<LoadedModule> module;  // keeps the module's variables while a launch runs
  std::shared_ptr<const Program> program;
  std::atomic<int> max_dynamic_shared = 0;
};

// What a stream was given while it was captured, in order. Arguments are those of the capture; memory is what it is
// when the graph runs.
struct GraphNode {
  std::shared_ptr<FunctionObject> function = nullptr;  // of a launch; null: bytes are written
  LaunchRequest request = {};
  DevicePtr to = 0;
  std::optional<DevicePtr> from = {};  // of a copy; else bytes are filled with value
  unsigned char value = 0;
  std::size_t count = 0;
};
struct GraphObject {
  std::shared_ptr<Context> context;
  std::vector<GraphNode> nodes;
};
struct GraphExecutableObject {
  std::shared_ptr<Context> context;
  std::vector<GraphNode> nodes;
};

struct StreamObject {
  std::shared_ptr<Context> context;
  std::shared_ptr<GraphObject> captured = {};  // while it is
};

struct EventObject {
  std::shared_ptr<Context> context;
  std::optional<std::chrono::steady_clock::time_point> recorded;
};

struct PrimaryContext {
  int retained = 0;
  ContextHandle handle = nullptr;
};

// One mutex guards all tables and is not held while a kernel runs: objects are found under the lock and
// kept alive by shared pointers, so another thread may destroy a handle at any time.
class Driver final : public EmulatorDriver {
 public:
  explicit Driver(const EmulatorOptions& options) : options_(options) {}

  std::string name() const override { return "emulator"; }
  std::string result_name(Result result) const override { return emulator::result_name(result); }
  std::string last_error_detail() const override { return thread_state(identity_).detail; }

  // ---- the emulator's own controls ----
  void configure(const EmulatorOptions& options) override {
    const std::scoped_lock lock(mutex_);
    options_ = options;
  }
  std::vector<Finding> findings() const override {
    const std::scoped_lock lock(mutex_);
    return findings_;
  }
  void clear_findings() override {
    const std::scoped_lock lock(mutex_);
    findings_.clear();
  }
  LaunchCounters last_launch() const override {
    const std::scoped_lock lock(mutex_);
    return counters_;
  }
  std::uint64_t warp_instructions() const override {
    const std::scoped_lock lock(mutex_);
    return warp_instructions_;
  }

  // ---- devices ----
  Result init() override {
    return call([&] {
      emulator::host_lanes();  // refuses a choice that cannot be, before anything rests on it
      initialized_ = true;
      return Result::success;
    });
  }
  Result driver_version(int* version) override {
    return call([&] { return store(version, kDriverVersion); });
  }
  Result device_count(int* count) override {
    return on_driver([&] { return store(count, emulator::device_count()); });
  }
  Result device_name(char* name, int length, DeviceOrdinal ordinal) override {
    return on_device(ordinal, [&](const DeviceDescription& device) {
      if (name == nullptr || length <= 0) return fail(Result::invalid_value, "no room for a name");
      const std::size_t room = static_cast<std::size_t>(length) - 1;
      const std::size_t count = std::min(room, std::strlen(device.name));
      std::memcpy(name, device.name, count);
      name[count] = '\0';
      return Result::success;
    });
  }
  Result device_attribute(int* value, DeviceAttribute attribute, DeviceOrdinal ordinal) override {
    return on_device(ordinal, [&](const DeviceDescription& device) {
      switch (attribute) {
        case DeviceAttribute::max_threads_per_block:
          return store(value, kMaxThreadsPerBlock);
        case DeviceAttribute::multiprocessor_count:
          return store(value, device.multiprocessors);
        case DeviceAttribute::compute_capability_major:
          return store(value, device.major);
        case DeviceAttribute::compute_capability_minor:
          return store(value, device.minor);
        case DeviceAttribute::max_shared_memory_per_multiprocessor:
          return store(value, device.shared_per_multiprocessor);
        case DeviceAttribute::max_shared_memory_per_block_optin:
          return store(value, device.shared_per_block_optin);
        case DeviceAttribute::clock_rate:
        case DeviceAttribute::compute_mode:
        case DeviceAttribute::pci_bus_id:
        case DeviceAttribute::pci_device_id:
        case DeviceAttribute::pci_domain_id:
        case DeviceAttribute::memory_clock_rate:
        case DeviceAttribute::global_memory_bus_width:
        case DeviceAttribute::l2_cache_size:
          break;  // there is no such thing
      }
      return fail(Result::invalid_value, fmt::format("the emulator has no device attribute {}",
                                                     static_cast<int>(attribute)));
    });
  }
  Result device_total_memory(std::size_t* bytes, DeviceOrdinal ordinal) override {
    return on_device(ordinal,
                     [&](const DeviceDescription&) { return store(bytes, kDeviceMemoryBytes); });
  }

  // ---- contexts ----
  Result primary_context_retain(ContextHandle* context, DeviceOrdinal ordinal) override {
    return on_device(ordinal, [&](const DeviceDescription& device) {
      if (context == nullptr) return null_argument();
      PrimaryContext& primary = primary_[ordinal];
      if (primary.retained++ == 0) {
        auto created = std::make_shared<Context>();
        created->device = &device;
        primary.handle = contexts_.add(std::move(created));
      }
      *context = primary.handle;
      return Result::success;
    });
  }
  Result primary_context_release(DeviceOrdinal ordinal) override {
    return on_device(ordinal, [&](const DeviceDescription& device) {
      PrimaryContext& primary = primary_[ordinal];
      if (primary.retained == 0) {
        return fail(Result::invalid_context,
                    fmt::format("the primary context of {} is not retained", device.name));
      }
      if (--primary.retained == 0) destroy(primary);
      return Result::success;
    });
  }
  Result set_current(ContextHandle context) override {
    return on_driver([&] {
      if (context != nullptr && contexts_.find(context) == nullptr) {
        return fail(Result::invalid_context, "the context does not exist");
      }
      thread_state(identity_).context = context;
      return Result::success;
    });
  }
  Result get_current(ContextHandle* context) override {
    return on_driver([&] { return store(context, thread_state(identity_).context); });
  }
  Result context_synchronize() override {
    return in_context([](const std::shared_ptr<Context>&) { return Result::success; });
  }

  // ---- modules ----
  Result module_load(ModuleHandle* module, const char* ptx, std::string* log) override {
    std::shared_ptr<Context> context;
    const Result found = in_context([&](const std::shared_ptr<Context>& current) {
      context = current;
      return module == nullptr || ptx == nullptr ? null_argument() : Result::success;
    });
    if (found != Result::success) return found;
    return call([&] {
      std::string messages;
      Result result = Result::success;
      auto loaded = LoadedModule::load(ptx, *context->device, context->memory, messages, result);
      if (log != nullptr) *log = messages;
      if (loaded == nullptr) return result;  // the log has the reasons
      const std::scoped_lock lock(mutex_);
      *module = modules_.add(std::make_shared<ModuleObject>(ModuleObject{
          .context = std::move(context), .loaded = std::move(loaded), .functions = {}}));
      return Result::success;
    });
  }
  Result module_unload(ModuleHandle module) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      const auto object = modules_.find(module);
      if (object == nullptr) return no_such_handle("module");
      for (const auto& [entry, handle] : object->functions) functions_.remove(handle);
      modules_.remove(module);
      return Result::success;
    });
  }
  Result module_function(FunctionHandle* function, ModuleHandle module,
                         const char* entry) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      if (function == nullptr || entry == nullptr) return null_argument();
      const auto object = modules_.find(module);
      if (object == nullptr) return no_such_handle("module");
      if (const auto known = object->functions.find(entry); known != object->functions.end()) {
        return store(function, known->second);
      }
      auto program = object->loaded->function(entry);
      if (program == nullptr) {
        return fail(Result::not_found, fmt::format("the module has no entry '{}'", entry));
      }
      auto created = std::make_shared<FunctionObject>();
      created->context = object->context;
      created->module = object->loaded;
      created->max_dynamic_shared = default_dynamic_shared(info(*program));
      created->program = std::move(program);
      *function = functions_.add(std::move(created));
      object->functions.emplace(entry, *function);
      return Result::success;
    });
  }
  Result function_attribute(int* value, FunctionAttribute attribute,
                            FunctionHandle function) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      const auto object = functions_.find(function);
      if (object == nullptr) return no_such_handle("function");
      const ProgramInfo& program = info(*object->program);
      switch (attribute) {
        case FunctionAttribute::max_threads_per_block:
          return store(value, max_threads(program));
        case FunctionAttribute::shared_size_bytes:
          return store(value, static_cast<int>(program.static_shared_bytes));
        case FunctionAttribute::local_size_bytes:
          return store(value, static_cast<int>(program.local_bytes));
        case FunctionAttribute::num_regs:
          return store(value, registers_per_thread(program));
        case FunctionAttribute::max_dynamic_shared_size_bytes:
          return store(value, object->max_dynamic_shared.load());
      }
      return fail(Result::invalid_value, fmt::format("the emulator has no function attribute {}",
                                                     static_cast<int>(attribute)));
    });
  }
  Result function_set_attribute(FunctionHandle function, FunctionAttribute attribute,
                                int value) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      const auto object = functions_.find(function);
      if (object == nullptr) return no_such_handle("function");
      if (attribute != FunctionAttribute::max_dynamic_shared_size_bytes) {
        return fail(Result::invalid_value, fmt::format("function attribute {} cannot be set",
                                                       static_cast<int>(attribute)));
      }
      const std::string why =
          why_not_dynamic_shared(info(*object->program), *object->context->device, value);
      if (!why.empty()) return fail(Result::invalid_value, why);
      object->max_dynamic_shared = value;
      return Result::success;
    });
  }

  Result launch(FunctionHandle function, Dim3 grid, Dim3 block, unsigned dynamic_smem_bytes,
                StreamHandle stream, void** params) override {
    std::shared_ptr<FunctionObject> object;
    std::shared_ptr<GraphObject> captured;
    const Result found = on_stream(stream, [&](const std::shared_ptr<Context>& context) {
      object = functions_.find(function);
      captured = capture_of(stream);
      if (object == nullptr) return no_such_handle("function");
      if (object->context != context) {
        return fail(Result::invalid_context, "the function was loaded in another context");
      }
      return Result::success;
    });
    if (found != Result::success) return found;
    return call([&] {
      const Refusal refusal = why_not_launchable(
          info(*object->program), {.grid = grid,
                                   .block = block,
                                   .dynamic_shared = dynamic_smem_bytes,
                                   .max_dynamic_shared = object->max_dynamic_shared});
      if (refusal.result != Result::success) return fail(refusal.result, refusal.why);
      LaunchRequest request;
      request.grid = grid;
      request.block = block;
      request.dynamic_shared_bytes = dynamic_smem_bytes;
      if (!pack_parameters(info(*object->program), params, request.params)) return null_argument();
      if (captured == nullptr) return run(*object, std::move(request));
      const std::scoped_lock lock(mutex_);
      captured->nodes.push_back({.function = object, .request = std::move(request)});
      return Result::success;
    });
  }

  // ---- memory ----
  Result mem_alloc(DevicePtr* ptr, std::size_t bytes) override {
    return in_context([&](const std::shared_ptr<Context>& context) {
      if (ptr == nullptr) return null_argument();
      if (bytes == 0) return fail(Result::invalid_value, "an allocation of 0 bytes");
      *ptr = context->memory->allocate(bytes);
      if (*ptr != 0) return Result::success;
      return fail(Result::out_of_memory,
                  fmt::format("{} bytes do not fit: {} of {} bytes are in use", bytes,
                              context->memory->used_bytes(), context->memory->capacity_bytes()));
    });
  }
  Result mem_free(DevicePtr ptr) override {
    return in_context([&](const std::shared_ptr<Context>& context) {
      if (context->memory->release(ptr)) return Result::success;
      return fail(Result::invalid_value,
                  fmt::format("no allocation starts at {}",
                              describe_address(*context->memory->snapshot(), ptr)));
    });
  }
  Result copy_to_device(DevicePtr dst, const void* src, std::size_t bytes,
                        StreamHandle stream) override {
    return on_stream(stream, [&](const std::shared_ptr<Context>& context) {
      if (bytes == 0) return Result::success;
      if (src == nullptr) return null_argument();
      if (capture_of(stream) != nullptr) return not_while_captured(stream, "a copy");
      return in_range(context->memory->write(dst, src, bytes));
    });
  }
  Result copy_to_host(void* dst, DevicePtr src, std::size_t bytes, StreamHandle stream) override {
    return on_stream(stream, [&](const std::shared_ptr<Context>& context) {
      if (bytes == 0) return Result::success;
      if (dst == nullptr) return null_argument();
      if (capture_of(stream) != nullptr) return not_while_captured(stream, "a copy");
      const Result result = in_range(context->memory->read(dst, src, bytes));
      if (result == Result::success && options_.checks == Checks::on) {
        report_undefined(*context->memory, src, bytes);
      }
      return result;
    });
  }
  Result copy_on_device(DevicePtr dst, DevicePtr src, std::size_t bytes,
                        StreamHandle stream) override {
    return now_or_captured(stream, {.to = dst, .from = src, .count = bytes});
  }
  Result fill_bytes(DevicePtr dst, unsigned char value, std::size_t count,
                    StreamHandle stream) override {
    return now_or_captured(stream, {.to = dst, .value = value, .count = count});
  }

  Result tensor_map_encode_tiled(TensorMap*, const TensorMapLayout&) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      return fail(Result::not_supported, "the emulator has no bulk tensor copies yet");
    });
  }

  // ---- graphs: of launches, fills and copies on the device. What a capture cannot hold is refused, as CUDA does or where this does less. ----
  Result stream_begin_capture(StreamHandle stream) override {
    return on_stream(stream, [&](const std::shared_ptr<Context>& context) {
      if (stream == nullptr)
        return fail(kCaptureUnsupported, "the default stream cannot be captured");
      const auto object = streams_.find(stream);
      if (object->captured != nullptr)
        return fail(kIllegalState, "the stream is being captured already");
      object->captured =
          std::make_shared<GraphObject>(GraphObject{.context = context, .nodes = {}});
      return Result::success;
    });
  }
  Result stream_end_capture(StreamHandle stream, GraphHandle* graph) override {
    return on_stream(stream, [&](const std::shared_ptr<Context>&) {
      if (graph == nullptr) return null_argument();
      const auto captured = capture_of(stream);
      if (captured == nullptr) return fail(kIllegalState, "the stream is not being captured");
      streams_.find(stream)->captured = nullptr;
      *graph = graphs_.add(captured);
      return Result::success;
    });
  }
  Result graph_destroy(GraphHandle graph) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      return graphs_.remove(graph) ? Result::success : no_such_handle("graph");
    });
  }
  Result graph_instantiate(GraphExecutableHandle* executable, GraphHandle graph) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      const auto object = graphs_.find(graph);
      if (object == nullptr) return no_such_handle("graph");
      if (executable == nullptr) return null_argument();
      *executable = executables_.add(std::make_shared<GraphExecutableObject>(
          GraphExecutableObject{.context = object->context, .nodes = object->nodes}));
      return Result::success;
    });
  }
  Result graph_executable_destroy(GraphExecutableHandle executable) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      return executables_.remove(executable) ? Result::success : no_such_handle("executable graph");
    });
  }
  Result graph_launch(GraphExecutableHandle executable, StreamHandle stream) override {
    std::shared_ptr<GraphExecutableObject> object;
    const Result found = on_stream(stream, [&](const std::shared_ptr<Context>& context) {
      object = executables_.find(executable);
      if (object == nullptr) return no_such_handle("executable graph");
      if (object->context != context)
        return fail(kInvalidHandle, "the graph belongs to another context than the stream");
      return not_while_captured(stream, "a graph");
    });
    if (found != Result::success) return found;
    return call([&] {
      for (const GraphNode& node : object->nodes) {
        const Result result = node.function != nullptr ? run(*node.function, node.request)
                                                       : write_bytes(*object->context, node);
        if (result != Result::success) return result;
      }
      return Result::success;
    });
  }

  // ---- streams and events. Everything is done when a call returns, so nothing ever waits. ----
  Result stream_create(StreamHandle* stream) override {
    return in_context([&](const std::shared_ptr<Context>& context) {
      if (stream == nullptr) return null_argument();
      *stream = streams_.add(std::make_shared<StreamObject>(StreamObject{.context = context}));
      return Result::success;
    });
  }
  Result stream_destroy(StreamHandle stream) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      return streams_.remove(stream) ? Result::success : no_such_handle("stream");
    });
  }
  Result stream_synchronize(StreamHandle stream) override {
    return on_stream(stream, [&](const std::shared_ptr<Context>&) {
      return not_while_captured(stream, "waiting");
    });
  }
  Result event_create(EventHandle* event) override {
    return in_context([&](const std::shared_ptr<Context>& context) {
      if (event == nullptr) return null_argument();
      *event = events_.add(
          std::make_shared<EventObject>(EventObject{.context = context, .recorded = {}}));
      return Result::success;
    });
  }
  Result event_destroy(EventHandle event) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      return events_.remove(event) ? Result::success : no_such_handle("event");
    });
  }
  Result event_record(EventHandle event, StreamHandle stream) override {
    return on_stream(stream, [&](const std::shared_ptr<Context>& context) {
      const auto object = events_.find(event);
      if (object == nullptr) return no_such_handle("event");
      if (object->context != context) {
        return fail(kInvalidHandle, "the event belongs to another context than the stream");
      }
      if (capture_of(stream) != nullptr) return not_while_captured(stream, "an event");
      object->recorded = std::chrono::steady_clock::now();
      return Result::success;
    });
  }
  Result event_synchronize(EventHandle event) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      return events_.find(event) != nullptr ? Result::success : no_such_handle("event");
    });
  }
  Result event_elapsed_ms(float* ms, EventHandle start, EventHandle end) override {
    return in_context([&](const std::shared_ptr<Context>&) {
      const auto first = events_.find(start);
      const auto last = events_.find(end);
      if (first == nullptr || last == nullptr) return no_such_handle("event");
      if (!first->recorded || !last->recorded) {
        return fail(kInvalidHandle, "an event was never recorded");
      }
      const std::chrono::duration<float, std::milli> elapsed = *last->recorded - *first->recorded;
      return store(ms, elapsed.count());
    });
  }

 private:
  // Null if the stream is not being captured.
  std::shared_ptr<GraphObject> capture_of(StreamHandle stream) const {
    const auto object = stream == nullptr ? nullptr : streams_.find(stream);
    return object == nullptr ? nullptr : object->captured;
  }
  Result not_while_captured(StreamHandle stream, const char* what) const {
    if (capture_of(stream) == nullptr) return Result::success;
    return fail(kCaptureUnsupported,
                fmt::format("{} on a stream that is being captured: the emulator's graphs hold "
                            "launches, fills and copies of device memory",
                            what));
  }

  Result write_bytes(const Context& context, const GraphNode& node) const {
    return in_range(node.from ? context.memory->copy(node.to, *node.from, node.count)
                              : context.memory->fill(node.to, node.value, node.count));
  }
  Result now_or_captured(StreamHandle stream, const GraphNode& node) {
    return on_stream(stream, [&](const std::shared_ptr<Context>& context) {
      if (node.count == 0) return Result::success;
      const auto captured = capture_of(stream);
      if (captured == nullptr) return write_bytes(*context, node);
      captured->nodes.push_back(node);
      return Result::success;
    });
  }

  Result run(const FunctionObject& function, LaunchRequest request) {
    {
      const std::scoped_lock lock(mutex_);
      request.options = options_;
    }
    return finish(emulator::launch(*function.program, *function.context->memory, request));
  }

  // Every entry point goes through here: a failure keeps its detail for the calling thread, and nothing
  // is thrown at the caller.
  template <typename Body>
  Result call(Body body) {
    thread_state(identity_).detail.clear();
    try {
      return body();
    } catch (const std::bad_alloc&) {
      return fail(Result::out_of_memory, "the host has no memory left");
    } catch (const std::invalid_argument& error) {
      return fail(Result::invalid_value, error.what());
    } catch (const std::exception& error) {
      return fail(kUnknownError, error.what());
    }
  }
  template <typename Body>
  Result on_driver(Body body) {
    return call([&] {
      const std::scoped_lock lock(mutex_);
      if (!initialized_) return fail(Result::not_initialized, "init() was not called");
      return body();
    });
  }
  template <typename Body>
  Result on_device(DeviceOrdinal ordinal, Body body) {
    return on_driver([&] {
      if (ordinal < 0 || ordinal >= emulator::device_count()) {
        return fail(Result::invalid_device, fmt::format("device {} does not exist; there are {}",
                                                        ordinal, emulator::device_count()));
      }
      return body(device_description(ordinal));
    });
  }
  template <typename Body>
  Result in_context(Body body) {
    return on_driver([&] {
      const ContextHandle current = thread_state(identity_).context;
      if (current == nullptr) {
        return fail(Result::invalid_context, "no context is current in this thread");
      }
      const std::shared_ptr<Context> context = contexts_.find(current);
      if (context == nullptr) return fail(kContextIsDestroyed, "the current context was released");
      return body(context);
    });
  }
  template <typename Body>
  Result on_stream(StreamHandle stream, Body body) {
    return in_context([&](const std::shared_ptr<Context>& context) {
      if (stream != nullptr) {
        const auto object = streams_.find(stream);
        if (object == nullptr) return no_such_handle("stream");
        if (object->context != context) {
          return fail(kInvalidHandle, "the stream belongs to another context");
        }
      }
      return body(context);
    });
  }

  Result fail(Result result, std::string detail) const {
    thread_state(identity_).detail = std::move(detail);
    return result;
  }
  Result null_argument() const { return fail(Result::invalid_value, "a null pointer"); }
  Result no_such_handle(const char* what) const {
    return fail(kInvalidHandle, fmt::format("the {} does not exist or was destroyed", what));
  }
  Result in_range(const std::string& problem) const {
    return problem.empty() ? Result::success : fail(Result::invalid_value, problem);
  }
  template <typename T>
  Result store(T* to, T value) const {
    if (to == nullptr) return null_argument();
    *to = value;
    return Result::success;
  }

  void destroy(PrimaryContext& primary) {
    const std::shared_ptr<Context> gone = contexts_.find(primary.handle);
    const auto belongs = [&](const auto& object) { return object.context == gone; };
    functions_.remove_if(belongs);
    modules_.remove_if(belongs);
    streams_.remove_if(belongs);
    events_.remove_if(belongs);
    graphs_.remove_if(belongs);
    executables_.remove_if(belongs);
    contexts_.remove(primary.handle);
    primary.handle = nullptr;
  }

  // The host may copy what no kernel wrote, but a result that depends on it is a bug.
  void report_undefined(const DeviceMemory& memory, DevicePtr src, std::size_t bytes) {
    const DeviceMemory::Undefined undefined = memory.undefined(src, bytes);
    if (undefined.bytes == 0) return;
    Finding finding;
    finding.kernel = "copy to host";
    finding.check = "uninitialized";
    finding.message = fmt::format(
        "{} of {} bytes from {:#x} on were never written or hold undefined data, the first at "
        "{:#x}",
        undefined.bytes, bytes, src, undefined.first);
    keep(std::move(finding));
  }

  // One that is there already is counted. See EmulatorDriver::findings().
  void keep(Finding finding) {
    const auto known = std::find_if(findings_.begin(), findings_.end(), [&](const Finding& f) {
      return f.ptx_line == finding.ptx_line && f.check == finding.check &&
             f.kernel == finding.kernel && (f.ptx_line != 0 || f.message == finding.message);
    });
    if (known != findings_.end()) {
      known->count += finding.count;
    } else if (findings_.size() < kMostFindings) {
      findings_.push_back(std::move(finding));
    }
  }

  Result finish(const LaunchReport& report) {
    const std::scoped_lock lock(mutex_);
    counters_ = report.counters;
    warp_instructions_ += counters_.warp_instructions;
    if (report.findings.empty()) return Result::success;
    for (const Finding& finding : report.findings) keep(finding);
    return fail(result_of(report.findings), describe(report.findings, report.truncated));
  }

  const std::shared_ptr<const DriverIdentity> identity_ = std::make_shared<DriverIdentity>();
  mutable std::mutex mutex_;
  bool initialized_ = false;
  EmulatorOptions options_;
  std::vector<Finding> findings_;
  LaunchCounters counters_;
  std::uint64_t warp_instructions_ = 0;
  std::map<DeviceOrdinal, PrimaryContext> primary_;
  HandleTable<ContextHandle, Context> contexts_;
  HandleTable<ModuleHandle, ModuleObject> modules_;
  HandleTable<FunctionHandle, FunctionObject> functions_;
  HandleTable<StreamHandle, StreamObject> streams_;
  HandleTable<EventHandle, EventObject> events_;
  HandleTable<GraphHandle, GraphObject> graphs_;
  HandleTable<GraphExecutableHandle, GraphExecutableObject> executables_;
};

}  // namespace
}  // namespace sagegen::emulator

namespace sagegen::runtime {

std::shared_ptr<EmulatorDriver> make_emulator(const EmulatorOptions& options) {
  return std::make_shared<emulator::Driver>(options);
}

}  // namespace sagegen::runtime
