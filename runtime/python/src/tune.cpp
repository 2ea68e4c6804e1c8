// The tuner as Python has it.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "runtime/python/src/device.h"
#include "runtime/python/src/kernels.h"
#include "runtime/python/src/launch.h"
#include "sagegen/runtime/error.h"
#include "templates/attention/plan_tuner.h"

namespace nb = nanobind;

namespace sagegen::python {
namespace {

struct Tuned {
  attention::Tuner::Result result;
  std::string unit, shape_class;
};

runtime::Deployment deployment_of(const std::string& word) {
  for (const auto each : {runtime::Deployment::eager, runtime::Deployment::graph}) {
    if (to_string(each) == word) return each;
  }
  throw runtime::ArgumentError("deployment \"" + word + "\" is refused: it is eager or graph");
}

Tuned tune(const OpenDevice& device, const Kernel& kernel, const attention::Shape& shape,
           const std::string& ptx, const std::string& deployment, const std::string& database) {
  attention::TunerOptions options;
  options.database = database;
  options.deployment = deployment_of(deployment);
  options.stop = [&] { return device.is_interrupted(); };
  Tuned tuned;
  device.run([&] {
    attention::Tuner tuner(device.device(), kernel, shape, source_of(ptx), options);
    tuned.result = tuner.tune();
    tuned.unit = tuner.stopwatch().unit();
    tuned.shape_class = to_string(attention::shape_class(shape));
    // Of candidates that are out, which the result names.
    if (device.emulator() != nullptr) device.emulator()->clear_findings();
  });
  return tuned;
}

}  // namespace

void bind_tune(nb::module_& module) {
  nb::class_<Tuned>(module, "Tuned")
      .def_prop_ro("schedule", [](const Tuned& tuned) { return tuned.result.schedule; })
      .def_prop_ro("complete", [](const Tuned& tuned) { return tuned.result.complete; })
      .def_prop_ro("time", [](const Tuned& tuned) { return tuned.result.time; })
      .def_prop_ro("default_time", [](const Tuned& tuned) { return tuned.result.usual_time; })
      .def_prop_ro("stored", [](const Tuned& tuned) { return tuned.result.stored.string(); })
      .def_ro("unit", &Tuned::unit)
      .def_ro("shape_class", &Tuned::shape_class)
      // (schedule, (what became of it, why))
      .def_prop_ro("failures", [](const Tuned& tuned) {
        std::vector<std::pair<std::string, std::pair<std::string, std::string>>> failures;
        for (const auto& failure : tuned.result.failures)
          failures.push_back(
              {failure.schedule,
               {std::string(to_string(failure.trial.outcome)), failure.trial.reason}});
        return failures;
      });
  module.def(
      "tune",
      [](const OpenDevice& device, const Kernel& kernel, std::int64_t batch, std::int64_t q_heads,
         std::int64_t kv_heads, std::int64_t q_len, std::int64_t kv_len, const std::string& ptx,
         const std::string& deployment, const std::string& database) {
        return tune(device, kernel,
                    {.batch = batch,
                     .q_heads = q_heads,
                     .kv_heads = kv_heads,
                     .q_len = q_len,
                     .kv_len = kv_len},
                    ptx, deployment, database);
      },
      nb::arg("device"), nb::arg("kernel"), nb::arg("batch"), nb::arg("q_heads"),
      nb::arg("kv_heads"), nb::arg("q_len"), nb::arg("kv_len"), nb::arg("ptx"),
      nb::arg("deployment"), nb::arg("database"));
}

}  // namespace sagegen::python
