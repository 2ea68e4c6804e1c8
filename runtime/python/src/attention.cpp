#include "sagegen/attention.h"

#include <fmt/format.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/python/src/device.h"
#include "runtime/python/src/errors.h"
#include "runtime/python/src/kernels.h"
#include "runtime/python/src/launch.h"
#include "sagegen/runtime/tuning.h"
#include "templates/attention/plan_tuned.h"

namespace nb = nanobind;

namespace sagegen::python {
namespace {

using attention::Shape;

// (address, stride of batches, heads, tokens), in elements.
using View = std::tuple<std::uint64_t, std::int64_t, std::int64_t, std::int64_t>;
using ModArgument = std::tuple<std::string, std::int64_t, double>;

runtime::TensorView view_of(const View& view) {
  const auto& [data, batch, head, token] = view;
  return {.data = data, .stride_batch = batch, .stride_head = head, .stride_token = token};
}

runtime::StreamHandle handle_of(std::uint64_t stream) {
  return reinterpret_cast<runtime::StreamHandle>(static_cast<std::uintptr_t>(stream));
}

// In the emulator no tuned schedule counts: its results are the same wherever they are computed.
attention::TuningOptions options_of_device(const OpenDevice& device) {
  attention::TuningOptions options;
  options.choice = device.emulator() == nullptr
                       ? attention::tuning_choice_of_environment()
                       : attention::TuningChoice{.mode = attention::TuningMode::off};
  options.warn = warn;
  return options;
}

class AttentionPlan {
 public:
  AttentionPlan(std::shared_ptr<OpenDevice> device, const Kernel& kernel, const std::string& ptx)
      : device_(std::move(device)),
        plan_(device_->device(), kernel, source_of(ptx), options_of_device(*device_)) {}

  // Of the GPU's cache of tuned schedules what the shape asks for; nothing the second time.
  void prepare(const Shape& shape) {
    const nb::gil_scoped_release release;
    plan_.prepare(std::span(&shape, 1));
  }
  std::size_t workspace_bytes(const Shape& shape, bool lse) const {
    return plan_.plan_for(shape).workspace_bytes(
        shape, lse ? attention::Lse::wanted : attention::Lse::unwanted);
  }
  void run(const Shape& shape, const View& q, const View& k, const View& v, const View& o,
           std::uint64_t lse, double scale, bool bottom_right, const std::vector<ModArgument>& mods,
           std::uint64_t cu_seqlens_q, std::uint64_t cu_seqlens_kv, std::uint64_t workspace,
           std::size_t workspace_bytes, std::uint64_t stream) const {
    attention::Arguments arguments{.q = view_of(q),
                                   .k = view_of(k),
                                   .v = view_of(v),
                                   .o = view_of(o),
                                   .lse = lse,
                                   .softmax_scale = static_cast<float>(scale),
                                   .causal = bottom_right ? attention::CausalAlignment::bottom_right
                                                          : attention::CausalAlignment::top_left};
    arguments.cu_seqlens_q = cu_seqlens_q;
    arguments.cu_seqlens_kv = cu_seqlens_kv;
    for (const auto& [name, integer, number] : mods)
      attention::set_mod_argument(arguments.mods, name, integer, number);
    device_->run([&] {
      plan_.plan_for(shape).run(shape, arguments, workspace, workspace_bytes, handle_of(stream));
    });
  }
  std::string key() const { return plan_.usual().kernel().key(); }
  std::vector<std::string> kernel_names() const { return plan_.usual().kernel_names(); }
  std::string note() const { return plan_.usual().note(); }

 private:
  std::shared_ptr<OpenDevice> device_;
  attention::TunedPlan plan_;
};

std::shared_ptr<AttentionPlan> load(std::shared_ptr<OpenDevice> device, const Kernel& kernel,
                                    const std::string& ptx) {
  const nb::gil_scoped_release release;
  kernel.validate();
  return std::make_shared<AttentionPlan>(std::move(device), kernel, ptx);
}

Shape shape_of(std::int64_t batch, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t q_len,
               std::int64_t kv_len, std::int64_t total_q, std::int64_t total_kv) {
  return {.batch = batch,
          .q_heads = q_heads,
          .kv_heads = kv_heads,
          .q_len = q_len,
          .kv_len = kv_len,
          .total_q = total_q,
          .total_kv = total_kv};
}

}  // namespace

void bind_attention(nb::module_& module) {
  nb::class_<Shape>(module, "Shape")
      .def(nb::new_(&shape_of), nb::kw_only(), nb::arg("batch"), nb::arg("q_heads"),
           nb::arg("kv_heads"), nb::arg("q_len"), nb::arg("kv_len"), nb::arg("total_q") = 0,
           nb::arg("total_kv") = 0);
  nb::class_<AttentionPlan>(module, "AttentionPlan",
                            "Kernels of one attention, loaded on one device.")
      .def(nb::new_(&load), nb::arg("device"), nb::arg("kernel"), nb::arg("ptx") = "")
      .def("prepare", &AttentionPlan::prepare, nb::arg("shape"))
      .def("workspace_bytes", &AttentionPlan::workspace_bytes, nb::arg("shape"), nb::arg("lse"))
      .def("run", &AttentionPlan::run, nb::arg("shape"), nb::kw_only(), nb::arg("q"), nb::arg("k"),
           nb::arg("v"), nb::arg("o"), nb::arg("lse"), nb::arg("scale"), nb::arg("bottom_right"),
           nb::arg("mods"), nb::arg("cu_seqlens_q"), nb::arg("cu_seqlens_kv"), nb::arg("workspace"),
           nb::arg("workspace_bytes"), nb::arg("stream"))
      .def_prop_ro("key", &AttentionPlan::key)
      .def_prop_ro("kernel_names", &AttentionPlan::kernel_names)
      .def_prop_ro("note", &AttentionPlan::note);
}

}  // namespace sagegen::python
