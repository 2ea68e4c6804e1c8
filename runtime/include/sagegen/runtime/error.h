// Errors of the runtime, by who has to act.
#pragma once

#include <string>

#include "sagegen/error.h"

namespace sagegen::runtime {

// A driver call failed. The text names the call, the CUresult by name, and the JIT log if there is
// one.
class DriverError : public Error {
 public:
  DriverError(int result, std::string call, const std::string& text)
      : Error(text), result_(result), call_(std::move(call)) {}
  const char* kind() const noexcept override { return "driver error"; }
  int result() const noexcept { return result_; }
  const std::string& call() const noexcept { return call_; }

 private:
  int result_;
  std::string call_;
};

// The caller passed arguments that a launch cannot take: shapes, strides, alignment, overlap, a
// scale.
class ArgumentError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "argument error"; }
};

// PTX that is stored somewhere and cannot be read: a file that the system refuses, or damaged contents. The
// text names the place.
class ArtifactError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "artifact error"; }
};

}  // namespace sagegen::runtime
