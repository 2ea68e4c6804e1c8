// Errors of the generator, by who has to act. The runtime adds its own in runtime/error.h.
// Every message says what was asked, which rule refused it, and what to change.
#pragma once

#include <stdexcept>
#include <string>

namespace sagegen {

// Base of everything sagegen throws on purpose. kind() is the word that tools print before the text.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  virtual const char* kind() const noexcept { return "error"; }
};

// The caller asked for something that no kernel can be: an unknown target, an impossible tile, bad text.
class SpecError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "spec error"; }
};

// A valid request that this generator cannot turn into PTX, with the reason.
class CodegenError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "codegen error"; }
};

// A bug in sagegen itself. The text names the file and line that noticed it.
class InternalError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "internal error"; }
};

}  // namespace sagegen
