// Errors of the command line itself; the others come from the libraries (sagegen/error.h).
#pragma once

#include "sagegen/error.h"

namespace sagegen::cli {

// Options that contradict each other or the data.
class UsageError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "usage error"; }
};

// A file that cannot be read, understood or written. The text begins with its path.
class FileError : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "file error"; }
};

// A signal ended the work before there was a result.
class Interrupted : public Error {
 public:
  using Error::Error;
  const char* kind() const noexcept override { return "interrupted"; }
};

}  // namespace sagegen::cli
