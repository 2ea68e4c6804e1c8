// The extension module sagegen._core: the public C++ interface as Python sees it, and no more. What people call is
// written in Python, on top.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "runtime/python/src/device.h"
#include "runtime/python/src/errors.h"
#include "runtime/python/src/kernels.h"
#include "runtime/python/src/launch.h"
#include "runtime/python/src/tensor.h"
#include "sagegen/runtime/driver_api.h"

namespace nb = nanobind;

NB_MODULE(_core, module) {
  using namespace sagegen::python;
  module.doc() = "What the package sagegen is written on; it may change with every release.";
  module.attr("version") = SAGEGEN_VERSION;
  // Frameworks keep what they were given, operators among it, until the process ends; that is no leak of ours.
  nb::set_leak_warnings(false);
  translate_errors();
  bind_tensor(module);
  bind_device(module);
  bind_kernels(module);
  bind_attention(module);
  bind_function(module);
  bind_kv_cache(module);
  bind_tune(module);
  // (number of GPUs, CUDA version of the driver as it counts, why there is none)
  module.def(
      "cuda_state",
      [] {
        std::string why;
        int devices = 0, version = 0;
        if (const auto cuda = sagegen::runtime::load_cuda(&why)) {
          using sagegen::runtime::Result;
          if (cuda->device_count(&devices) != Result::success)
            why = "libcuda is there, and counts no devices";
          if (cuda->driver_version(&version) != Result::success)
            why = "libcuda is there, and says no version";
        }
        return nb::make_tuple(devices, version, why);
      },
      nb::sig("def cuda_state() -> tuple[int, int, str]"));
}
