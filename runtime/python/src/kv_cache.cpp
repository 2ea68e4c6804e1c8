#include "sagegen/kv_cache.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/python/src/device.h"
#include "runtime/python/src/kernels.h"
#include "runtime/python/src/launch.h"

namespace nb = nanobind;

namespace sagegen::python {
namespace {

using Address = std::uint64_t;
// (address, pages, bytes from a page to the next)
using Pool = std::tuple<Address, std::int64_t, std::int64_t>;

class KvCacheOfDevice {
 public:
  KvCacheOfDevice(std::shared_ptr<OpenDevice> device, const std::string& layers,
                  const std::string& format, const std::string& options, const std::string& ptx)
      : device_(std::move(device)),
        cache_(device_->device(), kv_cache_options_of(options),
               kv_layers(layers, kv_format_of(format)), source_of(ptx)) {}

  int layers() const { return cache_.layers(); }
  std::string format(int layer) const { return to_string(cache_.format(layer)); }
  std::int64_t page_bytes(int layer) const { return cache_.page_bytes(layer); }
  bool smooths(int layer) const { return cache_.smooths(layer); }
  std::int64_t exact_blocks(int layer) const {
    return cache_.has_exact(layer) ? cache_.options().exact_tokens().blocks() : 0;
  }
  std::int64_t exact_block_bytes(int layer) const {
    return cache_.has_exact(layer) ? cache_.exact_pool_bytes(layer, 1) : 0;
  }
  std::int64_t exact_place(std::int64_t token, std::int64_t length) const {
    return cache_.options().exact_tokens().place(token, length);
  }
  std::vector<std::string> kernel_names() const { return cache_.kernel_names(); }
  std::string note() const { return cache_.note(); }

  void append(int layer, const Pool& pool, const Pool& exact, std::int64_t tokens,
              kv_append::Arguments arguments, Address stream) const {
    if (cache_.has_exact(layer)) {
      const KvPool blocks = exact_place_of(layer, exact);
      arguments.exact.data = blocks.data;
      arguments.exact.blocks = blocks.pages;
      arguments.exact.strides = blocks.strides;
    }
    device_->run(
        [&] { cache_.append(layer, place_of(layer, pool), tokens, arguments, handle_of(stream)); });
  }
  std::size_t workspace_bytes(int layer, const decode::Shape& shape) const {
    return cache_.workspace_bytes(layer, shape);
  }
  void gather(int layer, const Pool& pool, const kv_gather::Shape& shape,
              const kv_gather::Arguments& arguments, Address stream) const {
    device_->run(
        [&] { cache_.gather(layer, place_of(layer, pool), shape, arguments, handle_of(stream)); });
  }
  void decode(int layer, const Pool& pool, const Pool& exact, const decode::Shape& shape,
              decode::Arguments arguments, Address workspace, std::size_t workspace_bytes,
              Address stream) const {
    if (cache_.has_exact(layer)) {
      const KvPool blocks = exact_place_of(layer, exact);
      arguments.exact.pool = blocks.data;
      arguments.exact.pool_blocks = blocks.pages;
      arguments.exact.strides = blocks.strides;
    }
    device_->run([&] {
      cache_.decode(layer, place_of(layer, pool), shape, arguments, workspace, workspace_bytes,
                    handle_of(stream));
    });
  }
  void copy_pages(int layer, const Pool& pool, const std::vector<std::int64_t>& from,
                  const std::vector<std::int64_t>& to, Address stream) const {
    device_->run(
        [&] { cache_.copy_pages(layer, place_of(layer, pool), from, to, handle_of(stream)); });
  }

 private:
  static runtime::StreamHandle handle_of(Address stream) {
    return reinterpret_cast<runtime::StreamHandle>(static_cast<std::uintptr_t>(stream));
  }
  KvPool place_of(int layer, const Pool& pool) const {
    const auto& [data, pages, stride] = pool;
    KvStrides strides = cache_.strides(layer);
    strides.page = stride;
    return {.data = data, .pages = pages, .strides = strides};
  }
  KvPool exact_place_of(int layer, const Pool& pool) const {
    const auto& [data, pages, stride] = pool;
    KvStrides strides = kv_strides(cache_.exact_format(layer), cache_.options().kv_heads);
    strides.page = stride;
    return {.data = data, .pages = pages, .strides = strides};
  }

  std::shared_ptr<OpenDevice> device_;
  KvCache cache_;
};

// (address, elements from a batch, head and token to the next)
using View = std::tuple<Address, std::int64_t, std::int64_t, std::int64_t>;
runtime::TensorView view_of(const View& view) {
  const auto& [data, batch, head, token] = view;
  return {.data = data, .stride_batch = batch, .stride_head = head, .stride_token = token};
}

}  // namespace

void bind_kv_cache(nb::module_& module) {
  using Cache = KvCacheOfDevice;
  nb::class_<Cache>(module, "KvCache", "The kernels of a model's KV cache, loaded on one device.")
      .def(nb::new_([](std::shared_ptr<OpenDevice> device, const std::string& layers,
                       const std::string& format, const std::string& options,
                       const std::string& ptx) {
             const nb::gil_scoped_release release;
             return std::make_shared<Cache>(std::move(device), layers, format, options, ptx);
           }),
           nb::arg("device"), nb::arg("layers"), nb::arg("format"), nb::arg("options"),
           nb::arg("ptx") = "")
      .def_prop_ro("layers", &Cache::layers)
      .def_prop_ro("kernel_names", &Cache::kernel_names)
      .def_prop_ro("note", &Cache::note)
      .def("format", &Cache::format, nb::arg("layer"))
      .def("page_bytes", &Cache::page_bytes, nb::arg("layer"))
      .def("smooths", &Cache::smooths, nb::arg("layer"))
      .def("exact_blocks", &Cache::exact_blocks, nb::arg("layer"))
      .def("exact_block_bytes", &Cache::exact_block_bytes, nb::arg("layer"))
      .def("exact_place", &Cache::exact_place, nb::arg("token"), nb::arg("length"))
      .def(
          "append",
          [](const Cache& cache, int layer, const Pool& pool, std::int64_t tokens, const View& k,
             const View& v, Address slots, const std::array<Address, 4>& tables,
             std::int64_t sequences, std::int64_t page_entries, const std::array<Address, 3>& rope,
             std::int64_t table_rows, std::int64_t rope_stride, std::int64_t rotary, Address k_mean,
             const Pool& exact, Address exact_slots, Address stream) {
            cache.append(layer, pool, exact, tokens,
                         {.k = view_of(k),
                          .v = view_of(v),
                          .slots = slots,
                          .pages = {.sequences = sequences,
                                    .append_indptr = tables[0],
                                    .page_indptr = tables[1],
                                    .page_indices = tables[2],
                                    .last_page_len = tables[3],
                                    .page_entries = page_entries},
                          .rope = {.positions = rope[0],
                                   .cos = rope[1],
                                   .sin = rope[2],
                                   .stride = rope_stride,
                                   .table_rows = table_rows,
                                   .rotary = rotary},
                          .k_mean = k_mean,
                          .exact = {.slots = exact_slots}},
                         stream);
          },
          nb::arg("layer"), nb::arg("pool"), nb::kw_only(), nb::arg("tokens"), nb::arg("k"),
          nb::arg("v"), nb::arg("slots"), nb::arg("tables"), nb::arg("sequences"),
          nb::arg("page_entries"), nb::arg("rope"), nb::arg("table_rows"), nb::arg("rope_stride"),
          nb::arg("rotary"), nb::arg("k_mean"), nb::arg("exact"), nb::arg("exact_slots"),
          nb::arg("stream"))
      .def(
          "workspace_bytes",
          [](const Cache& cache, int layer, std::int64_t batch, std::int64_t q_len,
             std::int64_t max_pages, std::int64_t splits) {
            return cache.workspace_bytes(
                layer, {.batch = batch, .q_len = q_len, .max_pages = max_pages, .splits = splits});
          },
          nb::arg("layer"), nb::kw_only(), nb::arg("batch"), nb::arg("q_len"), nb::arg("max_pages"),
          nb::arg("splits"))
      .def(
          "decode",
          [](const Cache& cache, int layer, const Pool& pool, std::int64_t batch,
             std::int64_t q_len, std::int64_t max_pages, std::int64_t splits, const View& q,
             Address page_table, Address lengths, Address q_lens, const Pool& exact,
             Address exact_table, const View& o, Address lse, double scale, Address workspace,
             std::size_t workspace_bytes, Address stream) {
            cache.decode(layer, pool, exact,
                         {.batch = batch, .q_len = q_len, .max_pages = max_pages, .splits = splits},
                         {.q = view_of(q),
                          .page_table = page_table,
                          .lengths = lengths,
                          .q_lens = q_lens,
                          .exact = {.table = exact_table},
                          .o = view_of(o),
                          .lse = lse,
                          .softmax_scale = static_cast<float>(scale)},
                         workspace, workspace_bytes, stream);
          },
          nb::arg("layer"), nb::arg("pool"), nb::kw_only(), nb::arg("batch"), nb::arg("q_len"),
          nb::arg("max_pages"), nb::arg("splits"), nb::arg("q"), nb::arg("page_table"),
          nb::arg("lengths"), nb::arg("q_lens"), nb::arg("exact"), nb::arg("exact_table"),
          nb::arg("o"), nb::arg("lse"), nb::arg("scale"), nb::arg("workspace"),
          nb::arg("workspace_bytes"), nb::arg("stream"))
      .def(
          "gather",
          [](const Cache& cache, int layer, const Pool& pool, std::int64_t batch, std::int64_t rows,
             std::int64_t longest, std::int64_t max_pages, Address page_table, Address indptr,
             Address lengths, const View& k, const View& v, Address k_mean, Address stream) {
            cache.gather(layer, pool,
                         {.batch = batch, .rows = rows, .longest = longest, .max_pages = max_pages},
                         {.page_table = page_table,
                          .indptr = indptr,
                          .lengths = lengths,
                          .k = view_of(k),
                          .v = view_of(v),
                          .k_mean = k_mean},
                         stream);
          },
          nb::arg("layer"), nb::arg("pool"), nb::kw_only(), nb::arg("batch"), nb::arg("rows"),
          nb::arg("longest"), nb::arg("max_pages"), nb::arg("page_table"), nb::arg("indptr"),
          nb::arg("lengths"), nb::arg("k"), nb::arg("v"), nb::arg("k_mean"), nb::arg("stream"))
      .def("copy_pages", &Cache::copy_pages, nb::arg("layer"), nb::arg("pool"), nb::kw_only(),
           nb::arg("source"), nb::arg("to"), nb::arg("stream"));
}

}  // namespace sagegen::python
