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
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/artifacts/embedded.h"
#include "runtime/capi/structs.h"
#include "runtime/driver/in_context.h"
#include "runtime/driver/ptx_version.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/code_cache.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/sagegen.h"
#include "templates/attention/plan.h"
#include "templates/attention/plan_choice.h"
#include "templates/attention/plan_mode_map.h"
#include "templates/attention/plan_tuned.h"
#include "templates/merge_partials/plan.h"
#include "templates/shared/plan_kv_cache.h"

using namespace sagegen;
using namespace sagegen::runtime;
using capi::need;
using capi::read;

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

struct sagegen_merge {
  merge_partials::Plan plan;
};

struct sagegen_kv_cache {
  KvCache cache;
};

namespace {

// What sagegen.h says of itself is what was built.
#define SAGEGEN_TEXT(number) #number
#define SAGEGEN_DOTTED(major, minor, patch) SAGEGEN_TEXT(major) "." SAGEGEN_TEXT(minor) "." SAGEGEN_TEXT(patch)
static_assert(std::string_view(SAGEGEN_VERSION) ==
                  SAGEGEN_DOTTED(SAGEGEN_VERSION_MAJOR, SAGEGEN_VERSION_MINOR, SAGEGEN_VERSION_PATCH),
              "SAGEGEN_VERSION_* of sagegen.h are not the version of the project in CMakeLists.txt");

// Two texts in turn: the one before may be an argument of the call that is under way.
struct LastError {
  std::string texts[2];
  int current = 0;
};
LastError& last_error() {
  thread_local LastError error;
  return error;
}

void forget_error() {
  LastError& error = last_error();
  error.current = 1 - error.current;
  error.texts[error.current].clear();
}

sagegen_status fail(sagegen_status status, const char* text) noexcept {
  try {
    LastError& error = last_error();
    error.texts[error.current] = text;
  } catch (...) {  // no memory for the text: the status has to do
  }
  return status;
}

// Runs `work` and maps what it throws.
template <typename Work>
sagegen_status guarded(Work work) noexcept {
  try {
    forget_error();
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
  return {cuda, ordinal, code_cache_of_environment(tell)};
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

ArtifactSource source_of(const char* ptx_directory) {
  return ptx_directory == nullptr ? embedded_ptx() : ptx_at(ptx_directory);
}

// ---- attention ----------------------------------------------------------------------------------

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

// ---- KV caches ------------------------------------------------------------------------------------

std::string_view text_of(const char* text) { return text == nullptr ? "" : text; }

KvPool pool_of(const sagegen_kv_pool& pool) {
  return {.data = pool.data,
          .pages = pool.pages,
          .strides = {
              .page = pool.stride_page, .head = pool.stride_head, .block = pool.stride_block}};
}

kv_append::Arguments arguments_of(const sagegen_kv_append_arguments& given) {
  return {.k = view_of(given.k),
          .v = view_of(given.v),
          .slots = given.slots,
          .pages = {.sequences = given.sequences,
                    .append_indptr = given.append_indptr,
                    .page_indptr = given.page_indptr,
                    .page_indices = given.page_indices,
                    .last_page_len = given.last_page_len,
                    .page_entries = given.page_entries},
          .rope = {.positions = given.positions,
                   .cos = given.cos,
                   .sin = given.sin,
                   .stride = given.rope_stride,
                   .table_rows = given.table_rows,
                   .rotary = given.rotary},
          .k_mean = given.k_mean,
          .exact = {.data = given.exact_pool.data,
                    .blocks = given.exact_pool.pages,
                    .strides = {.page = given.exact_pool.stride_page,
                                .head = given.exact_pool.stride_head},
                    .slots = given.exact_slots}};
}

decode::Shape shape_of(const sagegen_kv_decode_arguments& arguments) {
  return {.batch = arguments.batch,
          .q_len = arguments.q_len,
          .max_pages = arguments.max_pages,
          .splits = arguments.splits};
}

using Enqueue = void (attention::Plan::*)(const attention::Shape&, const attention::Arguments&,
                                          DevicePtr, std::size_t, StreamHandle) const;

sagegen_status enqueue(Enqueue part, const char* call, const sagegen_attention* attention,
                       const sagegen_shape* shape, const sagegen_arguments* arguments,
                       std::uint64_t workspace, std::size_t workspace_bytes, void* stream) {
  return guarded([&] {
    need(attention, call, "attention");
    const attention::Shape of = shape_of(read(shape, call, "shape"));
    (attention->plan.plan_for(of).*part)(of, arguments_of(read(arguments, call, "arguments")), workspace, workspace_bytes,
                            static_cast<StreamHandle>(stream));
  });
}

}  // namespace

const char* sagegen_version(void) { return SAGEGEN_VERSION; }

int32_t sagegen_abi_version(void) { return SAGEGEN_ABI_VERSION; }

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

const char* sagegen_last_error(void) { 
  const LastError& error = last_error();
  return error.texts[error.current].c_str();
}

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
    constexpr const char* kCall = "sagegen_attention_create";
    need(device, kCall, "device");
    need(attention, kCall, "attention");
    const sagegen_attention_options given = read(options, kCall, "options");
    const auto [kernel, note] =
        attention::choose_kernel(device->device, given.kernel == nullptr ? "" : given.kernel);
    const ArtifactSource source = source_of(given.ptx_directory);
    attention::TuningOptions tuning{.choice = given.tuning == nullptr
                                                  ? attention::tuning_choice_of_environment()
                                                  : attention::tuning_choice(given.tuning),
                                    .warn = tell,
                                    .plan = {.max_workspace_bytes = given.max_workspace_bytes}};
    if (given.invariance != nullptr)
      tuning.plan.invariance = attention::parse_invariance(given.invariance);
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
    constexpr const char* kCall = "sagegen_attention_workspace_bytes";
    need(attention, kCall, "attention");
    need(bytes, kCall, "bytes");
    const attention::Shape of = shape_of(read(shape, kCall, "shape"));
    *bytes = attention->plan.plan_for(of).workspace_bytes(of);
  });
}

sagegen_status sagegen_attention_prepare(sagegen_attention* attention, const sagegen_shape* shapes,
                                         size_t count) {
  return guarded([&] {
    constexpr const char* kCall = "sagegen_attention_prepare";
    need(attention, kCall, "attention");
    std::vector<attention::Shape> all;
    for (const sagegen_shape& shape : capi::read_array(shapes, count, kCall, "shapes"))
      all.push_back(shape_of(shape));
    attention->plan.prepare(all);
  });
}

sagegen_status sagegen_attention_kernel_for(const sagegen_attention* attention,
                                            const sagegen_shape* shape, const char** key) {
  return guarded([&] {
    constexpr const char* kCall = "sagegen_attention_kernel_for";
    need(attention, kCall, "attention");
    need(key, kCall, "key");
    const attention::Shape of = shape_of(read(shape, kCall, "shape"));
    *key = attention->plan.plan_for(of).kernel().key().c_str();
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

sagegen_status sagegen_merge_create(sagegen_device* device, const sagegen_merge_options* options,
                                    sagegen_merge** merge) {
  return guarded([&] {
    constexpr const char* kCall = "sagegen_merge_create";
    need(device, kCall, "device");
    need(merge, kCall, "merge");
    const sagegen_merge_options given = read(options, kCall, "options");
    const sagegen::Kernel kernel =
        kernel_of_options(merge_partials::family(), given.kernel == nullptr ? "" : given.kernel,
                          best_target(device->device));
    *merge = new sagegen_merge{
        merge_partials::Plan(device->device, kernel, source_of(given.ptx_directory))};
  });
}

void sagegen_merge_destroy(sagegen_merge* merge) { delete merge; }

sagegen_status sagegen_merge_run(const sagegen_merge* merge,
                                 const sagegen_merge_arguments* arguments, void* stream) {
  return guarded([&] {
    constexpr const char* kCall = "sagegen_merge_run";
    need(merge, kCall, "merge");
    const sagegen_merge_arguments given = read(arguments, kCall, "arguments");
    merge->plan.run({.parts = given.parts,
                     .batch = given.batch,
                     .heads = given.heads,
                     .q_len = given.q_len,
                     .channels = given.channels},
                    {.parts = view_of(given.part),
                     .part_stride = given.part_stride,
                     .part_lse = given.part_lse,
                     .part_lse_stride = given.part_lse_stride,
                     .o = view_of(given.o),
                     .lse = given.lse,
                     .go_on = given.go_on != 0},
                    static_cast<StreamHandle>(stream));
  });
}

sagegen_status sagegen_kv_cache_create(sagegen_device* device,
                                       const sagegen_kv_cache_options* options,
                                       sagegen_kv_cache** cache) {
  return guarded([&] {
    constexpr const char* kCall = "sagegen_kv_cache_create";
    need(device, kCall, "device");
    need(cache, kCall, "cache");
    const sagegen_kv_cache_options given = read(options, kCall, "options");
    need(given.layers, kCall, "options.layers");
    const KvCacheOptions of_cache = kv_cache_options_of(text_of(given.options));
    *cache = new sagegen_kv_cache{
        KvCache(device->device, of_cache,
                kv_layers(given.layers, kv_format_of(text_of(given.format))),
                source_of(given.ptx_directory))};
  });
}

void sagegen_kv_cache_destroy(sagegen_kv_cache* cache) { delete cache; }

int32_t sagegen_kv_cache_layers(const sagegen_kv_cache* cache) {
  return cache == nullptr ? 0 : cache->cache.layers();
}

const char* sagegen_kv_cache_note(const sagegen_kv_cache* cache) {
  return cache == nullptr ? nullptr : cache->cache.note().c_str();
}

sagegen_status sagegen_kv_cache_layer(const sagegen_kv_cache* cache, int32_t layer,
                                      sagegen_kv_layer* result) {
  constexpr const char* kCall = "sagegen_kv_cache_layer";
  return guarded([&] {
    need(cache, kCall, "cache");
    need(result, kCall, "result");
    const KvFormat& format = cache->cache.format(layer);
    const KvStrides strides = cache->cache.strides(layer);
    sagegen_kv_layer ours = {.struct_size = sizeof ours,
                                   .head_dim = format.head_dim,
                                   .k_bits = format.k_bits,
                                   .v_bits = format.v_bits,
                                   .page_tokens = format.page_tokens,
                                   .page_bytes = strides.page,
                                   .stride_head = strides.head,
                                   .stride_block = strides.block,
                                   .smooths_k = cache->cache.smooths(layer),
                                   .exact_blocks = 0,
                                   .exact_block_bytes = 0};
    if (cache->cache.has_exact(layer)) {
      ours.exact_blocks = cache->cache.options().exact_tokens().blocks();
      ours.exact_block_bytes = cache->cache.exact_pool_bytes(layer, 1);
    }
    capi::write(result, ours, kCall);
  });
}

sagegen_status sagegen_kv_cache_append(const sagegen_kv_cache* cache, int32_t layer,
                                       const sagegen_kv_append_arguments* arguments,
                                       void* stream) {
  constexpr const char* kCall = "sagegen_kv_cache_append";
  return guarded([&] {
    need(cache, kCall, "cache");
    const sagegen_kv_append_arguments given = read(arguments, kCall, "arguments");
    cache->cache.append(layer, pool_of(given.pool), given.tokens, arguments_of(given),
                        static_cast<StreamHandle>(stream));
  });
}

int64_t sagegen_kv_cache_exact_place(const sagegen_kv_cache* cache, int64_t token, int64_t length) {
  if (cache == nullptr || !cache->cache.options().exact() || token < 0 || token >= length) return -1;
  return cache->cache.options().exact_tokens().place(token, length);
}

sagegen_status sagegen_kv_cache_workspace_bytes(const sagegen_kv_cache* cache, int32_t layer,
                                                const sagegen_kv_decode_arguments* arguments,
                                                size_t* bytes) {
  constexpr const char* kCall = "sagegen_kv_cache_workspace_bytes";
  return guarded([&] {
    need(cache, kCall, "cache");
    need(bytes, kCall, "bytes");
    *bytes = cache->cache.workspace_bytes(layer, shape_of(read(arguments, kCall, "arguments")));
  });
}

sagegen_status sagegen_kv_cache_decode(const sagegen_kv_cache* cache, int32_t layer,
                                       const sagegen_kv_decode_arguments* arguments,
                                       uint64_t workspace, size_t workspace_bytes, void* stream) {
  constexpr const char* kCall = "sagegen_kv_cache_decode";
  return guarded([&] {
    need(cache, kCall, "cache");
    const sagegen_kv_decode_arguments given = read(arguments, kCall, "arguments");
    // As a float it would be 0, which is the default.
    if (given.softmax_scale != 0 && static_cast<float>(given.softmax_scale) == 0) {
      throw ArgumentError(fmt::format(
          "{}: softmax_scale is {}, which is 0 as a float; leave it 0 for 1 / sqrt(head_dim)",
          kCall, given.softmax_scale));
    }
    cache->cache.decode(layer, pool_of(given.pool), shape_of(given),
                        {.q = view_of(given.q),
                         .page_table = given.page_table,
                         .lengths = given.lengths,
                         .q_lens = given.q_lens,
                         .exact = {.pool = given.exact_pool.data,
                                   .strides = {.page = given.exact_pool.stride_page,
                                               .head = given.exact_pool.stride_head},
                                   .pool_blocks = given.exact_pool.pages,
                                   .table = given.exact_table},
                         .o = view_of(given.o),
                         .lse = given.lse,
                         .softmax_scale = static_cast<float>(given.softmax_scale)},
                        workspace, workspace_bytes, static_cast<StreamHandle>(stream));
  });
}

sagegen_status sagegen_kv_cache_gather(const sagegen_kv_cache* cache, int32_t layer,
                                       const sagegen_kv_gather_arguments* arguments,
                                       void* stream) {
  constexpr const char* kCall = "sagegen_kv_cache_gather";
  return guarded([&] {
    need(cache, kCall, "cache");
    const sagegen_kv_gather_arguments given = read(arguments, kCall, "arguments");
    cache->cache.gather(layer, pool_of(given.pool),
                        {.batch = given.batch,
                         .rows = given.rows,
                         .longest = given.longest,
                         .max_pages = given.max_pages},
                        {.page_table = given.page_table,
                         .indptr = given.indptr,
                         .lengths = given.lengths,
                         .k = view_of(given.k),
                         .v = view_of(given.v),
                         .k_mean = given.k_mean},
                        static_cast<StreamHandle>(stream));
  });
}

sagegen_status sagegen_kv_cache_copy_pages(const sagegen_kv_cache* cache, int32_t layer,
                                           const sagegen_kv_copy_arguments* arguments,
                                           void* stream) {
  constexpr const char* kCall = "sagegen_kv_cache_copy_pages";
  return guarded([&] {
    need(cache, kCall, "cache");
    const sagegen_kv_copy_arguments given = read(arguments, kCall, "arguments");
    if (given.count > 0) {
      need(given.from, kCall, "arguments.from");
      need(given.to, kCall, "arguments.to");
    }
    cache->cache.copy_pages(layer, pool_of(given.pool), {given.from, given.count},
                            {given.to, given.count}, static_cast<StreamHandle>(stream));
  });
}

sagegen_status sagegen_attention_code_sizes(const sagegen_attention* attention,
                                            const sagegen_shape* shape, int32_t lse,
                                            sagegen_code_sizes* sizes) {
  constexpr const char* kCall = "sagegen_attention_code_sizes";
  return guarded([&] {
    need(attention, kCall, "attention");
    need(sizes, kCall, "sizes");
    const attention::CodeSizes of = attention->plan.usual().code_sizes(
        shape_of(read(shape, kCall, "shape")), lse != 0 ? attention::Lse::wanted : attention::Lse::unwanted);
    const sagegen_code_sizes ours = {.struct_size = sizeof ours,
                                     .q_codes = of.q_codes,
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
    capi::write(sizes, ours, kCall);
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
    const attention::KeyValueCodes of = keys_values == nullptr
                                            ? attention::KeyValueCodes{}
                                            : codes_of(read(keys_values, kCall, "keys_values"));
    attention->plan.usual().quantize_queries(shape_of(read(shape, kCall, "shape")),
                                     arguments_of(read(arguments, kCall, "arguments")), of,
                                     codes_of(read(to, kCall, "to")), workspace, workspace_bytes, static_cast<StreamHandle>(stream));
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
    attention->plan.usual().quantize_keys_values(shape_of(read(shape, kCall, "shape")),
                                         arguments_of(read(arguments, kCall, "arguments")),
                                         codes_of(read(to, kCall, "to")),
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
    attention->plan.usual().attend_codes(shape_of(read(shape, kCall, "shape")),
                                 codes_of(read(queries, kCall, "queries")),
                                 codes_of(read(keys_values, kCall, "keys_values")),
                                 arguments_of(read(arguments, kCall, "arguments")), workspace, workspace_bytes,
                                 static_cast<StreamHandle>(stream));
  });
}
