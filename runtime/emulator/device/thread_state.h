// What a driver keeps per host thread: the current context and the detail of the last failed call.
#pragma once

#include <memory>
#include <string>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::emulator {

struct ThreadState {
  runtime::ContextHandle context = nullptr;
  std::string detail;
};

// Identifies one driver object. Its address is not enough: a later driver may get the same one.
struct DriverIdentity {};

// The calling thread's state for this driver. Dropped some time after the driver is gone.
ThreadState& thread_state(const std::shared_ptr<const DriverIdentity>& driver);

}  // namespace sagegen::emulator
