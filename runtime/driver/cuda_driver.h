// The real driver, from a named library. load_cuda() is this with the names that libcuda has; tests use
// stand-ins.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::runtime {

// library: as for dlopen. Returns null and sets *why (which may be null) if the library is missing,
// lacks a function, cannot be initialized or has no device. Never throws.
std::shared_ptr<DriverApi> load_cuda_library(const char* library, std::string* why) noexcept;

// The first of these that can be used. *why speaks of the first one that exists.
std::shared_ptr<DriverApi> load_cuda_library(std::span<const char* const> libraries,
                                             std::string* why) noexcept;

}  // namespace sagegen::runtime
