// Errors of C++ as exceptions of the package sagegen, which defines them in errors.py.
#pragma once

#include <string>
#include <vector>

#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"

namespace sagegen::python {

// What the emulator found while a kernel ran.
class FoundError : public Error {
 public:
  FoundError(const std::string& text, std::vector<runtime::Finding> findings)
      : Error(text), findings_(std::move(findings)) {}
  const char* kind() const noexcept override { return "findings"; }
  const std::vector<runtime::Finding>& findings() const { return findings_; }

 private:
  std::vector<runtime::Finding> findings_;
};

// The module was built without the generator.
class NoGenerator : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "no generator"; }
};

// A RuntimeWarning, from any thread. Where the program makes errors of warnings it is printed: this is called amid work that goes on.
void warn(const std::string& text);

// Run by the module when it is loaded.
void translate_errors();

}  // namespace sagegen::python
