#include "runtime/python/src/kernels.h"

#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <utility>
#include <vector>

#include "runtime/artifacts/embedded.h"
#include "runtime/python/src/errors.h"
#include "templates/attention/spec.h"
#ifdef SAGEGEN_HAS_GENERATOR
#include "sagegen/emit.h"
#endif

namespace nb = nanobind;

namespace sagegen::python {
namespace {

constexpr const char* kHowToGenerate =
    "this build of sagegen has no generator, which needs LLVM; build one that has "
    "(`pip install . --config-settings=cmake.define.SAGEGEN_GENERATOR=ON` in the sources), or write the PTX with "
    "`sagegen bundle --plan KEY --target TARGET --usual --out FILE` and give ptx=\"FILE\"";

#ifdef SAGEGEN_HAS_GENERATOR
constexpr bool kHasGenerator = true;
std::string version_of_llvm() { return llvm_version(); }
Artifact generate(const Kernel& kernel, bool line_info) {
  return emit(kernel, {.line_info = line_info ? LineInfo::on : LineInfo::off});
}
std::vector<std::pair<std::string, std::string>> stages(const Kernel& kernel) {
  std::vector<std::pair<std::string, std::string>> texts;
  for (const Stage& stage : trace(kernel)) texts.emplace_back(stage.title, stage.text);
  return texts;
}
#else
constexpr bool kHasGenerator = false;
std::string version_of_llvm() { return {}; }
Artifact generate(const Kernel& kernel, bool) {
  throw NoGenerator(fmt::format("{} is not made: {}", kernel.key(), kHowToGenerate));
}
std::vector<std::pair<std::string, std::string>> stages(const Kernel& kernel) {
  throw NoGenerator(fmt::format("{} is not traced: {}", kernel.key(), kHowToGenerate));
}
#endif

std::vector<std::string> embedded_keys() {
  std::vector<std::string> keys;
  for (const std::string_view name : runtime::embedded_bundle().names()) keys.emplace_back(name);
  return keys;
}

Kernel kernel_of_text(const std::string& text, const std::string& target,
                      const std::string& family) {
  return kernel_of_options(builtin_families().of_title(family), text, parse_target(target));
}

std::vector<std::string> target_names() {
  std::vector<std::string> names;
  for (const TargetInfo& info : supported_targets()) names.push_back(info.name);
  return names;
}

// The words "qk=s8 pv=e4m3" of each mode; a product of the io dtype is "io".
std::vector<std::pair<std::string, std::pair<std::string, std::string>>> mode_words() {
  std::vector<std::pair<std::string, std::pair<std::string, std::string>>> words;
  const auto word = [](const std::optional<DType>& type) {
    return type ? std::string(to_string(*type)) : "io";
  };
  for (const attention::Mode& mode : attention::modes())
    words.push_back({std::string(mode.name), {word(mode.qk), word(mode.pv)}});
  return words;
}

std::vector<std::string> fields_of(const std::string& family) {
  std::vector<std::string> names;
  for (const Field& field : builtin_families().of_title(family).what)
    names.emplace_back(field.name);
  return names;
}

bool has_ptx(const Kernel& kernel, const std::string& ptx) {
  if (!kernel.violations().empty()) return false;
  try {
    source_of(ptx)(kernel);
    return true;
  } catch (const SpecError&) {
    return false;
  }
}

std::vector<std::pair<std::string, std::vector<std::string>>> description(const Kernel& kernel) {
  std::vector<std::pair<std::string, std::vector<std::string>>> sections;
  for (const Section& section : kernel.describe())
    sections.emplace_back(section.title, section.lines);
  return sections;
}

nb::dict resources_of(const Kernel& kernel) {
  const Resources need = kernel.resources();
  nb::dict fields;
  fields["threads"] = need.threads;
  fields["dynamic_smem"] = need.dynamic_smem;
  fields["param_bytes"] = kernel.params().bytes();
  fields["ptx_version"] = kernel.ptx_version();
  return fields;
}

}  // namespace

runtime::ArtifactSource source_of(const std::string& ptx) {
  std::vector<runtime::ArtifactSource> sources;
  if (!ptx.empty()) sources.push_back(runtime::ptx_at(ptx));
  sources.push_back(runtime::embedded_ptx());
#ifdef SAGEGEN_HAS_GENERATOR
  sources.emplace_back([](const Kernel& kernel) { return emit(kernel); });
#else
  sources.emplace_back([](const Kernel& kernel) -> Artifact {
    throw SpecError(fmt::format("{} is not generated: {}", kernel.key(), kHowToGenerate));
  });
#endif
  return runtime::chain(std::move(sources));
}

void bind_kernels(nb::module_& module) {
  nb::class_<Kernel>(module, "KernelSpec",
                     "What a kernel computes, how and where: a value without code.")
      .def_prop_ro("key", &Kernel::key)
      .def_prop_ro("what", &Kernel::what)
      .def_prop_ro("how", &Kernel::how)
      .def_prop_ro("target", [](const Kernel& kernel) { return to_string(kernel.target()); })
      .def_prop_ro("family",
                   [](const Kernel& kernel) { return std::string(kernel.family().title); })
      .def_prop_ro("options", [](const Kernel& kernel) { return options_of(kernel); })
      .def_prop_ro("violations", &Kernel::violations)
      .def_prop_ro("resources", &resources_of, nb::sig("def resources(self) -> dict[str, int]"))
      .def_prop_ro("inputs", &Kernel::inputs)
      .def_prop_ro("description", &description)
      .def("validate", &Kernel::validate)
      .def("schedules", &Kernel::schedules)
      .def("with_schedule", &Kernel::with_schedule, nb::arg("how"))
      .def(
          "__eq__", [](const Kernel& a, const Kernel& b) { return a == b; }, nb::arg("other"),
          nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const Kernel& kernel) { return nb::hash(nb::str(kernel.key().c_str())); })
      .def("__repr__",
           [](const Kernel& kernel) { return fmt::format("<KernelSpec {}>", kernel.key()); });

  module.def(
      "parse_key", [](const std::string& key) { return parse_key(key); }, nb::arg("key"));
  module.def("kernel_of_options", &kernel_of_text, nb::arg("text"), nb::arg("target"),
             nb::arg("family") = "attention");
  module.def("embedded_keys", &embedded_keys);
  module.def("targets", &target_names);
  module.def("modes", &mode_words);
  module.def("fields", &fields_of, nb::arg("family") = "attention");
  module.def("head_dims", [] { return head_dims().allowed; });
  module.def("has_ptx", &has_ptx, nb::arg("kernel"), nb::arg("ptx") = "",
             nb::call_guard<nb::gil_scoped_release>());
  // (entry point, PTX)
  module.def(
      "find_ptx",
      [](const Kernel& kernel, const std::string& ptx) {
        kernel.validate();
        const runtime::ArtifactSource::Shared artifact = source_of(ptx)(kernel);
        return std::pair(artifact->entry, artifact->code);
      },
      nb::arg("kernel"), nb::arg("ptx") = "", nb::call_guard<nb::gil_scoped_release>());
  module.def(
      "emit",
      [](const Kernel& kernel, bool line_info) {
        const Artifact artifact = generate(kernel, line_info);
        return std::pair(artifact.entry, artifact.code);
      },
      nb::arg("kernel"), nb::arg("line_info") = false, nb::call_guard<nb::gil_scoped_release>());
  module.def("trace", &stages, nb::arg("kernel"), nb::call_guard<nb::gil_scoped_release>());
  module.attr("has_generator") = kHasGenerator;
  module.attr("llvm_version") = version_of_llvm();
}

}  // namespace sagegen::python
