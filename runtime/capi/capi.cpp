// The C API: translates handles, structs and exceptions, and decides nothing.
#include <fmt/format.h>

#include <atomic>
#include <charconv>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "runtime/artifacts/embedded.h"
#include "runtime/driver/in_context.h"
#include "runtime/driver/ptx_version.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/sagegen.h"
#include "templates/attention/plan.h"
#include "templates/attention/plan_mode_map.h"
#include "templates/attention/plan_tuned.h"

using namespace sagegen;
using namespace sagegen::runtime;

struct sagegen_device {
  Device device;
  std::string name;
  std::vector<const char*> kernels;  // keys of embedded attention kernels, NUL-terminated
  std::shared_ptr<std::atomic<bool>> interrupt;
};

struct sagegen_mode_map {
  attention::ModeMap map;
};

struct sagegen_attention {
  attention::TunedPlan plan;
  std::string kernel;
  std::string note;
};

namespace {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

sagegen_status fail(sagegen_status status, const char* text) noexcept {
  try {
    last_error() = text;
  } catch (...) {  // no memory for the text: the status has to do
  }
  return status;
}

// Runs `work` and maps what it throws.
template <typename Work>
sagegen_status guarded(Work work) noexcept {
  try {
    last_error().clear();
    work();
    return SAGEGEN_OK;
  } catch (const ArgumentError& error) {
    return fail(SAGEGEN_ARGUMENT_ERROR, error.what());
  } catch (const SpecError& error) {
    return fail(SAGEGEN_SPEC_ERROR, error.what());
  } catch (const ArtifactError& error) {  // the caller's files
    return fail(SAGEGEN_SPEC_ERROR, error.what());
  } catch (const CacheError& error) {
    return fail(SAGEGEN_SPEC_ERROR, error.what());
  } catch (const DriverError& error) {
    const bool memory = error.result() == static_cast<int>(Result::out_of_memory);
    return fail(memory ? SAGEGEN_OUT_OF_MEMORY : SAGEGEN_DRIVER_ERROR, error.what());
  } catch (const std::bad_alloc&) {
    return fail(SAGEGEN_OUT_OF_MEMORY, "out of host memory");
  } catch (const std::exception& error) {
    return fail(SAGEGEN_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(SAGEGEN_INTERNAL_ERROR, "an exception that is no std::exception");
  }
}

// One for the process, as the database is.
struct MessageSink {
  std::mutex mutex;
  sagegen_message_callback callback = nullptr;
  void* user = nullptr;
};
MessageSink& message_sink() {
  static MessageSink sink;
  return sink;
}

void tell(const std::string& text) {
  MessageSink& sink = message_sink();
  sagegen_message_callback callback = nullptr;
  void* user = nullptr;
  {
    const std::scoped_lock lock(sink.mutex);
    callback = sink.callback;
    user = sink.user;
  }
  if (callback != nullptr) callback(user, text.c_str());
}

void need(const void* pointer, const char* call, const char* what) {
  if (pointer == nullptr) throw ArgumentError(fmt::format("{}: {} is null", call, what));
}

// ---- devices ------------------------------------------------------------------------------------

Device open_gpu(const std::string& name) {
  const std::string digits = name.substr(std::string("cuda:").size());
  int ordinal = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, ordinal);
  if (error != std::errc() || stop != end || ordinal < 0)
    throw ArgumentError(fmt::format("device \"{}\": a GPU is cuda:N with N from 0", name));
  std::string why;
  const std::shared_ptr<DriverApi> cuda = load_cuda(&why);
  if (!cuda) {
    throw DriverError(static_cast<int>(Result::no_device), "load_cuda",
                      fmt::format("device \"{}\": {}", name, why));
  }
  return Device(cuda, ordinal);
}

using Interrupt = std::shared_ptr<std::atomic<bool>>;

Device open_emulator(const std::string& name, const Interrupt& interrupt) {
  const std::string profile = name.substr(std::string("emulator:").size());
  EmulatorOptions emulation;
  emulation.interrupt = interrupt;
  const std::shared_ptr<EmulatorDriver> emulator = make_emulator(emulation);
  check(*emulator, emulator->init(), "cuInit");
  int count = 0;
  check(*emulator, emulator->device_count(&count), "cuDeviceGetCount");
  std::string profiles;
  for (int i = 0; i < count; ++i) {
    const std::string candidate = to_string(static_cast<EmulatorProfile>(i));
    if (candidate == profile) return Device(emulator, i);
    profiles += (i > 0 ? ", " : "") + candidate;
  }
  throw ArgumentError(fmt::format("device \"{}\": the emulator has no profile \"{}\", only {}",
                                  name, profile, profiles));
}

Device open_device(const std::string& name, const Interrupt& interrupt) {
  if (name.starts_with("cuda:")) return open_gpu(name);
  if (name.starts_with("emulator:")) return open_emulator(name, interrupt);
  throw ArgumentError(
      fmt::format("device \"{}\": there are cuda:N and emulator:PROFILE, for example cuda:0 and "
                  "emulator:sm_89",
                  name));
}

std::vector<const char*> attention_kernels(const Device& device) {
  int cuda = 0;
  check(device.api(), device.api().driver_version(&cuda), "cuDriverGetVersion");
  std::vector<const char*> keys;
  for (const std::string_view name : embedded_bundle().names()) {
    const sagegen::Kernel kernel = parse_key(name);
    if (&kernel.family() == &attention::family() &&
        loads_on(kernel.target(), device.compute_capability()) &&
        attention::runs_on(kernel.view(attention::family()).spec, device.compute_capability()) &&
        first_cuda_with(kernel.ptx_version()) <= cuda) {
      keys.push_back(name.data());
    }
  }
  return keys;
}

// ---- attention ----------------------------------------------------------------------------------

Smoothing smoothing_of(const sagegen_attention_options& options, DType qk) {
  switch (options.smoothing) {
    case SAGEGEN_SMOOTH_USUAL:
      return attention::usual_smoothing(qk);
    case SAGEGEN_SMOOTH_NONE:
      return Smoothing::none;
    case SAGEGEN_SMOOTH_K:
      return Smoothing::k;
    case SAGEGEN_SMOOTH_QK:
      return Smoothing::qk;
    default:
      throw ArgumentError(
          fmt::format("attention: smoothing is {}; there are SAGEGEN_SMOOTH_USUAL, _NONE, _K and "
                      "_QK; start from options that are all zero",
                      options.smoothing));
  }
}

// FP8 where the device has it, whatever its driver: the load then says what the driver lacks.
Target fp8_target(const Device& device, std::string_view mode) {
  const Target target = best_target(device.compute_capability());
  if (!target_info(target).has(Feature::fp8_mma)) {
    throw SpecError(fmt::format(
        "attention: mode \"{}\" needs FP8 tensor cores, and {} (compute capability {}.{}) "
        "has "
        "none; use P V of 16 bits (int8-fp16, int4-fp16, 16bit), or null for what suits the device",
        mode, device.name(), device.compute_capability() / 10, device.compute_capability() % 10));
  }
  return target;
}

struct Asked {
  sagegen::Kernel kernel;
  std::string note;  // see best_target_note
};

// What the options describe.
Asked asked_for(const sagegen_attention_options& options, const Device& device) {
  const std::string mode = options.mode == nullptr ? "" : options.mode;
  smoothing_of(options, DType::s8);  // a bad one is refused whatever the mode
  if (mode.starts_with("sage_")) {
    const sagegen::Kernel kernel = parse_key(mode);
    if (&kernel.family() != &attention::family()) {
      throw SpecError(
          fmt::format("mode \"{}\" is the key of a kernel that prepares inputs; an "
                      "attention kernel's begins with sage_fwd_",
                      mode));
    }
    return {kernel, {}};
  }
  const std::string first_word = mode.substr(0, mode.find_first_of(" ="));
  if (find_field(attention::family().what, first_word) != nullptr ||
      mode.find('=') != std::string::npos) {
    const sagegen::Kernel kernel =
        kernel_of_options(attention::family(), mode, best_target(device.compute_capability()));
    return {kernel, {}};
  }
  if (options.dtype != SAGEGEN_F16 && options.dtype != SAGEGEN_BF16) {
    throw ArgumentError(fmt::format(
        "attention: dtype is {}; there are SAGEGEN_F16 and SAGEGEN_BF16", options.dtype));
  }
  if (options.mask != SAGEGEN_MASK_NONE && options.mask != SAGEGEN_MASK_CAUSAL) {
    throw ArgumentError(
        fmt::format("attention: mask is {}; there are SAGEGEN_MASK_NONE and SAGEGEN_MASK_CAUSAL",
                    options.mask));
  }
  const attention::Mode* named = nullptr;
  std::string names;
  for (const attention::Mode& each : attention::modes()) {
    if (each.name == mode) named = &each;
    names.append(each.name).append(", ");
  }
  if (named == nullptr && !mode.empty()) {
    throw ArgumentError(
        fmt::format("attention: mode \"{}\" is unknown; there are {}option texts (\"head_dim=64 "
                    "causal\") and the keys of attention kernels (sage_fwd_...)",
                    mode, names));
  }
  const bool fp8 = named != nullptr && named->pv == DType::e4m3;
  const Target target = fp8 ? fp8_target(device, mode) : best_target(device);
  attention::Spec spec = attention::usual_spec(target);
  spec.head_dim = options.head_dim;
  spec.io = options.dtype == SAGEGEN_BF16 ? DType::bf16 : DType::f16;
  spec.causal = options.mask == SAGEGEN_MASK_CAUSAL;
  if (named != nullptr) spec = attention::with_mode(spec, *named);
  spec.smoothing = smoothing_of(options, spec.qk);
  return {sagegen::Kernel(attention::family(), spec, target), fp8 ? "" : best_target_note(device)};
}

attention::Shape shape_of(const sagegen_shape& shape) {
  return {.batch = shape.batch,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .q_len = shape.q_len,
          .kv_len = shape.kv_len,
          .total_q = shape.total_q,
          .total_kv = shape.total_kv};
}

TensorView view_of(const sagegen_tensor& tensor) {
  return {.data = tensor.data,
          .stride_batch = tensor.stride_batch,
          .stride_head = tensor.stride_head,
          .stride_token = tensor.stride_token};
}

attention::Arguments arguments_of(const sagegen_arguments& arguments) {
  if (arguments.causal_alignment != SAGEGEN_TOP_LEFT &&
      arguments.causal_alignment != SAGEGEN_BOTTOM_RIGHT) {
    throw ArgumentError(fmt::format(
        "attention: causal_alignment is {}; there are SAGEGEN_TOP_LEFT and SAGEGEN_BOTTOM_RIGHT",
        arguments.causal_alignment));
  }
  if (arguments.mod_count > 0) need(arguments.mods, "sagegen_attention", "arguments.mods");
  attention::ModArguments mods;
  for (std::size_t i = 0; i < arguments.mod_count; ++i) {
    const sagegen_mod_argument& mod = arguments.mods[i];
    need(mod.name, "sagegen_attention", "the name of a mod's argument");
    for (std::size_t before = 0; before < i; ++before) {
      if (std::strcmp(arguments.mods[before].name, mod.name) != 0) continue;
      throw ArgumentError(fmt::format("attention: {} is given twice", mod.name));
    }
    attention::set_mod_argument(mods, mod.name, mod.integer, mod.number);
  }
  return {.q = view_of(arguments.q),
          .k = view_of(arguments.k),
          .v = view_of(arguments.v),
          .o = view_of(arguments.o),
          .lse = arguments.lse,
          .softmax_scale = arguments.softmax_scale,
          .causal = arguments.causal_alignment == SAGEGEN_BOTTOM_RIGHT
                        ? attention::CausalAlignment::bottom_right
                        : attention::CausalAlignment::top_left,
          .mods = mods,
          .cu_seqlens_q = arguments.cu_seqlens_q,
          .cu_seqlens_kv = arguments.cu_seqlens_kv,
          .o_scale = arguments.o_scale};
}

attention::CodeStrides strides_of(const sagegen_code_strides& strides) {
  return {.batch = strides.batch, .head = strides.head, .row = strides.row};
}

attention::QueryCodes codes_of(const sagegen_query_codes& codes) {
  return {.codes = codes.codes,
          .scale = codes.scale,
          .mean = codes.mean,
          .lse_correction = codes.lse_correction,
          .strides = strides_of(codes.strides),
          .scale_stride = codes.scale_stride,
          .scale_is_folded = codes.scale_is_folded != 0};
}

attention::KeyValueCodes codes_of(const sagegen_key_value_codes& codes) {
  return {.k_codes = codes.k_codes,
          .k_scale = codes.k_scale,
          .k_mean = codes.k_mean,
          .v_codes = codes.v_codes,
          .v_scale = codes.v_scale,
          .v_mean = codes.v_mean,
          .k_strides = strides_of(codes.k_strides),
          .v_strides = strides_of(codes.v_strides),
          .k_scale_stride = codes.k_scale_stride};
}

using Enqueue = void (attention::Plan::*)(const attention::Shape&, const attention::Arguments&,
                                          DevicePtr, std::size_t, StreamHandle) const;

sagegen_status enqueue(Enqueue part, const char* call, const sagegen_attention* attention,
                       const sagegen_shape* shape, const sagegen_arguments* arguments,
                       std::uint64_t workspace, std::size_t workspace_bytes, void* stream) {
  return guarded([&] {
    need(attention, call, "attention");
    need(shape, call, "shape");
    need(arguments, call, "arguments");
    const attention::Shape of = shape_of(*shape);
    (attention->plan.plan_for(of).*part)(of, arguments_of(*arguments), workspace, workspace_bytes,
                            static_cast<StreamHandle>(stream));
  });
}

}  // namespace

const char* sagegen_version(void) { return SAGEGEN_VERSION; }

void sagegen_on_message(sagegen_message_callback callback, void* user) {
  MessageSink& sink = message_sink();
  const std::scoped_lock lock(sink.mutex);
  sink.callback = callback;
  sink.user = user;
}

const char* sagegen_status_name(sagegen_status status) {
  switch (status) {
    case SAGEGEN_OK:
      return "ok";
    case SAGEGEN_ARGUMENT_ERROR:
      return "argument error";
    case SAGEGEN_SPEC_ERROR:
      return "spec error";
    case SAGEGEN_DRIVER_ERROR:
      return "driver error";
    case SAGEGEN_OUT_OF_MEMORY:
      return "out of memory";
    case SAGEGEN_INTERNAL_ERROR:
      return "internal error";
  }
  return "unknown status";
}

const char* sagegen_last_error(void) { return last_error().c_str(); }

sagegen_status sagegen_device_create(const char* name, sagegen_device** device) {
  return guarded([&] {
    need(name, "sagegen_device_create", "name");
    need(device, "sagegen_device_create", "device");
    const auto interrupt = std::make_shared<std::atomic<bool>>(false);
    Device opened = open_device(name, interrupt);
    std::string driver_name = opened.name();
    std::vector<const char*> kernels = attention_kernels(opened);
    *device = new sagegen_device{.device = opened,
                                 .name = std::move(driver_name),
                                 .kernels = std::move(kernels),
                                 .interrupt = interrupt};
  });
}

void sagegen_device_destroy(sagegen_device* device) { delete device; }

void sagegen_device_interrupt(sagegen_device* device, int32_t on) {
  if (device != nullptr) device->interrupt->store(on != 0, std::memory_order_relaxed);
}

const char* sagegen_device_name(const sagegen_device* device) {
  return device == nullptr ? nullptr : device->name.c_str();
}

int sagegen_device_compute_capability(const sagegen_device* device) {
  return device == nullptr ? 0 : device->device.compute_capability();
}

const char* sagegen_device_kernel(const sagegen_device* device, size_t index) {
  if (device == nullptr || index >= device->kernels.size()) return nullptr;
  return device->kernels[index];
}

sagegen_status sagegen_device_synchronize(sagegen_device* device) {
  return guarded([&] {
    need(device, "sagegen_device_synchronize", "device");
    device->device.synchronize();
  });
}

sagegen_status sagegen_memory_alloc(sagegen_device* device, size_t bytes, uint64_t* address) {
  return guarded([&] {
    need(device, "sagegen_memory_alloc", "device");
    need(address, "sagegen_memory_alloc", "address");
    if (bytes == 0) throw ArgumentError("sagegen_memory_alloc: 0 bytes asked for");
    *address = allocate_memory(device->device, bytes);
  });
}

sagegen_status sagegen_memory_free(sagegen_device* device, uint64_t address) {
  return guarded([&] {
    need(device, "sagegen_memory_free", "device");
    if (address == 0) return;
    in_context(device->device,
               [&](DriverApi& driver) { check(driver, driver.mem_free(address), "cuMemFree"); });
  });
}

sagegen_status sagegen_memory_upload(sagegen_device* device, uint64_t to, const void* from,
                                     size_t bytes) {
  return guarded([&] {
    need(device, "sagegen_memory_upload", "device");
    need(from, "sagegen_memory_upload", "from");
    in_context(device->device, [&](DriverApi& driver) {
      check(driver, driver.copy_to_device(to, from, bytes, nullptr), "cuMemcpyHtoDAsync",
            fmt::format("of {} bytes", bytes));
      check(driver, driver.stream_synchronize(nullptr), "cuStreamSynchronize");
    });
  });
}

sagegen_status sagegen_memory_download(sagegen_device* device, void* to, uint64_t from,
                                       size_t bytes) {
  return guarded([&] {
    need(device, "sagegen_memory_download", "device");
    need(to, "sagegen_memory_download", "to");
    in_context(device->device, [&](DriverApi& driver) {
      check(driver, driver.copy_to_host(to, from, bytes, nullptr), "cuMemcpyDtoHAsync",
            fmt::format("of {} bytes", bytes));
      check(driver, driver.stream_synchronize(nullptr), "cuStreamSynchronize");
    });
  });
}

sagegen_status sagegen_mode_map_load(const char* path, sagegen_mode_map** map) {
  return guarded([&] {
    need(path, "sagegen_mode_map_load", "path");
    need(map, "sagegen_mode_map_load", "map");
    *map = new sagegen_mode_map{attention::ModeMap::read(path)};
  });
}

void sagegen_mode_map_destroy(sagegen_mode_map* map) { delete map; }

sagegen_status sagegen_mode_map_kernel(const sagegen_mode_map* map, const char* layer,
                                       const char** key) {
  return guarded([&] {
    need(map, "sagegen_mode_map_kernel", "map");
    need(layer, "sagegen_mode_map_kernel", "layer");
    need(key, "sagegen_mode_map_kernel", "key");
    *key = map->map.kernel_for(layer).key().c_str();
  });
}

sagegen_status sagegen_attention_create(sagegen_device* device,
                                        const sagegen_attention_options* options,
                                        sagegen_attention** attention) {
  return guarded([&] {
    need(device, "sagegen_attention_create", "device");
    need(options, "sagegen_attention_create", "options");
    need(attention, "sagegen_attention_create", "attention");
    const auto [kernel, note] = asked_for(*options, device->device);
    const ArtifactSource source =
        options->ptx_directory == nullptr ? embedded_ptx() : ptx_at(options->ptx_directory);
    attention::TuningOptions tuning{.choice = options->tuning == nullptr
                                                  ? attention::tuning_choice_of_environment()
                                                  : attention::tuning_choice(options->tuning),
                                    .warn = tell};
    std::unique_ptr<sagegen_attention> plan(
        new sagegen_attention{.plan{device->device, kernel, source, std::move(tuning)},
                              .kernel = kernel.key(),
                              .note = note});
    const std::string& of_loading = plan->plan.usual().note();
    if (!of_loading.empty()) plan->note += (note.empty() ? "" : "\n") + of_loading;
    *attention = plan.release();
  });
}

void sagegen_attention_destroy(sagegen_attention* attention) { delete attention; }

const char* sagegen_attention_kernel(const sagegen_attention* attention) {
  return attention == nullptr ? nullptr : attention->kernel.c_str();
}

const char* sagegen_attention_note(const sagegen_attention* attention) {
  return attention == nullptr ? nullptr : attention->note.c_str();
}

sagegen_status sagegen_attention_workspace_bytes(const sagegen_attention* attention,
                                                 const sagegen_shape* shape, size_t* bytes) {
  return guarded([&] {
    need(attention, "sagegen_attention_workspace_bytes", "attention");
    need(shape, "sagegen_attention_workspace_bytes", "shape");
    need(bytes, "sagegen_attention_workspace_bytes", "bytes");
    const attention::Shape of = shape_of(*shape);
    *bytes = attention->plan.plan_for(of).workspace_bytes(of);
  });
}

sagegen_status sagegen_attention_prepare(sagegen_attention* attention, const sagegen_shape* shapes,
                                         size_t count) {
  return guarded([&] {
    need(attention, "sagegen_attention_prepare", "attention");
    if (count > 0) need(shapes, "sagegen_attention_prepare", "shapes");
    std::vector<attention::Shape> all;
    for (size_t i = 0; i < count; ++i) all.push_back(shape_of(shapes[i]));
    attention->plan.prepare(all);
  });
}

sagegen_status sagegen_attention_kernel_for(const sagegen_attention* attention,
                                            const sagegen_shape* shape, const char** key) {
  return guarded([&] {
    need(attention, "sagegen_attention_kernel_for", "attention");
    need(shape, "sagegen_attention_kernel_for", "shape");
    need(key, "sagegen_attention_kernel_for", "key");
    *key = attention->plan.plan_for(shape_of(*shape)).kernel().key().c_str();
  });
}

sagegen_status sagegen_attention_run(const sagegen_attention* attention, const sagegen_shape* shape,
                                     const sagegen_arguments* arguments, uint64_t workspace,
                                     size_t workspace_bytes, void* stream) {
  return enqueue(&attention::Plan::run, "sagegen_attention_run", attention, shape, arguments,
                 workspace, workspace_bytes, stream);
}

sagegen_status sagegen_attention_quantize(const sagegen_attention* attention,
                                          const sagegen_shape* shape,
                                          const sagegen_arguments* arguments, uint64_t workspace,
                                          size_t workspace_bytes, void* stream) {
  return enqueue(&attention::Plan::quantize, "sagegen_attention_quantize", attention, shape,
                 arguments, workspace, workspace_bytes, stream);
}

sagegen_status sagegen_attention_attend(const sagegen_attention* attention,
                                        const sagegen_shape* shape,
                                        const sagegen_arguments* arguments, uint64_t workspace,
                                        size_t workspace_bytes, void* stream) {
  return enqueue(&attention::Plan::attend, "sagegen_attention_attend", attention, shape, arguments,
                 workspace, workspace_bytes, stream);
}

sagegen_status sagegen_attention_code_sizes(const sagegen_attention* attention,
                                            const sagegen_shape* shape, int32_t lse,
                                            sagegen_code_sizes* sizes) {
  constexpr const char* kCall = "sagegen_attention_code_sizes";
  return guarded([&] {
    need(attention, kCall, "attention");
    need(shape, kCall, "shape");
    need(sizes, kCall, "sizes");
    const attention::CodeSizes of = attention->plan.usual().code_sizes(
        shape_of(*shape), lse != 0 ? attention::Lse::wanted : attention::Lse::unwanted);
    *sizes = {.q_codes = of.q_codes,
              .q_scale = of.q_scale,
              .q_mean = of.q_mean,
              .lse_correction = of.lse_correction,
              .k_codes = of.k_codes,
              .k_scale = of.k_scale,
              .k_mean = of.k_mean,
              .v_codes = of.v_codes,
              .v_scale = of.v_scale,
              .v_mean = of.v_mean,
              .workspace = of.workspace};
  });
}

sagegen_status sagegen_attention_quantize_queries(const sagegen_attention* attention,
                                                  const sagegen_shape* shape,
                                                  const sagegen_arguments* arguments,
                                                  const sagegen_key_value_codes* keys_values,
                                                  const sagegen_query_codes* to, uint64_t workspace,
                                                  size_t workspace_bytes, void* stream) {
  constexpr const char* kCall = "sagegen_attention_quantize_queries";
  return guarded([&] {
    need(attention, kCall, "attention");
    need(shape, kCall, "shape");
    need(arguments, kCall, "arguments");
    need(to, kCall, "to");
    const attention::KeyValueCodes of =
        keys_values == nullptr ? attention::KeyValueCodes{} : codes_of(*keys_values);
    attention->plan.usual().quantize_queries(shape_of(*shape), arguments_of(*arguments), of, codes_of(*to),
                                     workspace, workspace_bytes, static_cast<StreamHandle>(stream));
  });
}

sagegen_status sagegen_attention_quantize_keys_values(const sagegen_attention* attention,
                                                      const sagegen_shape* shape,
                                                      const sagegen_arguments* arguments,
                                                      const sagegen_key_value_codes* to,
                                                      uint64_t workspace, size_t workspace_bytes,
                                                      void* stream) {
  constexpr const char* kCall = "sagegen_attention_quantize_keys_values";
  return guarded([&] {
    need(attention, kCall, "attention");
    need(shape, kCall, "shape");
    need(arguments, kCall, "arguments");
    need(to, kCall, "to");
    attention->plan.usual().quantize_keys_values(shape_of(*shape), arguments_of(*arguments), codes_of(*to),
                                         workspace, workspace_bytes,
                                         static_cast<StreamHandle>(stream));
  });
}

sagegen_status sagegen_attention_attend_codes(
    const sagegen_attention* attention, const sagegen_shape* shape,
    const sagegen_query_codes* queries, const sagegen_key_value_codes* keys_values,
    const sagegen_arguments* arguments, uint64_t workspace, size_t workspace_bytes, void* stream) {
  constexpr const char* kCall = "sagegen_attention_attend_codes";
  return guarded([&] {
    need(attention, kCall, "attention");
    need(shape, kCall, "shape");
    need(queries, kCall, "queries");
    need(keys_values, kCall, "keys_values");
    need(arguments, kCall, "arguments");
    attention->plan.usual().attend_codes(shape_of(*shape), codes_of(*queries), codes_of(*keys_values),
                                 arguments_of(*arguments), workspace, workspace_bytes,
                                 static_cast<StreamHandle>(stream));
  });
}
