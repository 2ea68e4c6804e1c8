// Any entry point of any PTX.
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <fmt/format.h>

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/python/src/device.h"
#include "runtime/python/src/launch.h"
#include "sagegen/runtime/error.h"
#include "sagegen/runtime/ptx_entry.h"

namespace nb = nanobind;

namespace sagegen::python {
namespace {

using Size = std::array<unsigned, 3>;
runtime::Dim3 dim3_of(const Size& size) { return {.x = size[0], .y = size[1], .z = size[2]}; }

class Function {
 public:
  Function(std::shared_ptr<OpenDevice> device, const std::string& ptx, const std::string& entry,
           const Size& block, int dynamic_smem)
      : device_(std::move(device)),
        kernel_(device_->device(), ptx, entry,
                {.block = dim3_of(block), .dynamic_smem = dynamic_smem}) {}

  const std::string& name() const { return kernel_.name(); }

  // (name, type, whether it is an array, bytes) of each parameter.
  std::vector<std::tuple<std::string, std::string, bool, std::size_t>> parameters() const {
    std::vector<std::tuple<std::string, std::string, bool, std::size_t>> list;
    for (const runtime::PtxParameter& parameter : kernel_.parameters())
      list.emplace_back(parameter.name, parameter.type, parameter.is_array, parameter.bytes);
    return list;
  }

  // The bytes of each parameter, in their order.
  void launch(const Size& grid, const std::vector<nb::bytes>& arguments) const {
    const auto parameters = kernel_.parameters();
    std::vector<std::string> copies;  // which stay where they are: the arguments belong to Python
    copies.reserve(arguments.size());
    std::vector<void*> pointers;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      copies.emplace_back(arguments[i].c_str(), arguments[i].size());
      pointers.push_back(copies.back().data());
      if (i >= parameters.size() || parameters[i].bytes == copies.back().size()) continue;
      throw runtime::ArgumentError(fmt::format("{}: parameter {} takes {} bytes, and is given {}",
                                               name(), parameters[i].name, parameters[i].bytes,
                                               copies.back().size()));
    }
    device_->run([&] {
      kernel_.launch_pointers({.grid = dim3_of(grid)}, nullptr, pointers);
      device_->device().synchronize();
    });
  }

 private:
  std::shared_ptr<OpenDevice> device_;
  runtime::Kernel kernel_;
};

std::vector<std::string> entries_of(const std::string& ptx) {
  std::vector<std::string> names;
  for (const runtime::PtxEntry& entry : runtime::ptx_entries(ptx)) names.push_back(entry.name);
  return names;
}

}  // namespace

void bind_function(nb::module_& module) {
  nb::class_<Function>(module, "Function", "An entry point, loaded on a device.")
      .def(nb::init<std::shared_ptr<OpenDevice>, const std::string&, const std::string&,
                    const Size&, int>(),
           nb::arg("device"), nb::arg("ptx"), nb::arg("entry"), nb::arg("block"),
           nb::arg("dynamic_smem"))
      .def_prop_ro("name", &Function::name)
      .def_prop_ro("parameters", &Function::parameters)
      .def("launch", &Function::launch, nb::arg("grid"), nb::arg("arguments"));
  module.def("ptx_entries", &entries_of, nb::arg("ptx"));
  module.def(
      "ptx_target", [](const std::string& ptx) { return runtime::ptx_target(ptx); },
      nb::arg("ptx"));
}

}  // namespace sagegen::python
