#include "runtime/python/src/errors.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "sagegen/runtime/tuning.h"

namespace nb = nanobind;

namespace sagegen::python {
namespace {

nb::object error_class(const char* name) {
  return nb::module_::import_("sagegen.errors").attr(name);
}

void raise(const nb::object& error) { PyErr_SetObject(error.type().ptr(), error.ptr()); }

void raise(const char* name, const char* text) { raise(error_class(name)(text)); }

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const FoundError& error) {
    raise(error_class("FindingsError")(error.what(), nb::cast(error.findings())));
  } catch (const NoGenerator& error) {
    raise("GeneratorMissing", error.what());
  } catch (const runtime::ArgumentError& error) {
    raise("ArgumentError", error.what());
  } catch (const runtime::DriverError& error) {
    const bool memory = error.result() == static_cast<int>(runtime::Result::out_of_memory);
    raise(error_class(memory ? "OutOfMemory" : "DriverError")(error.what(), error.result(),
                                                              error.call()));
  } catch (const runtime::ArtifactError& error) {
    raise("ArtifactError", error.what());
  } catch (const runtime::CacheError& error) {
    raise("CacheError", error.what());
  } catch (const SpecError& error) {
    raise("SpecError", error.what());
  } catch (const CodegenError& error) {
    raise("CodegenError", error.what());
  } catch (const InternalError& error) {
    raise("InternalError", error.what());
  } catch (const Error& error) {
    raise("Error", error.what());
  }
}

}  // namespace

void warn(const std::string& text) {
  const nb::gil_scoped_acquire acquire;
  if (PyErr_WarnEx(PyExc_RuntimeWarning, text.c_str(), 1) != 0) PyErr_WriteUnraisable(nullptr);
}

void translate_errors() { nb::register_exception_translator(translate); }

}  // namespace sagegen::python
