// How every RAII object calls the driver: with its device's context current, and the caller's
// restored.
#pragma once

#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

// Runs work(DriverApi&); throws what it throws, or DriverError if the context cannot be switched.
template <typename Work>
void in_context(const Device& device, Work work) {
  Device::Scope scope(device);
  work(device.api());
  scope.restore();
}

// The same for work that takes something: undo(DriverApi&) gives it back, while the device's context is
// current, if the caller's cannot be restored.
template <typename Work, typename Undo>
void in_context(const Device& device, Work work, Undo undo) {
  Device::Scope scope(device);
  work(device.api());
  try {
    scope.restore();
  } catch (...) {
    undo(device.api());
    throw;
  }
}

// Device memory of at least one byte, to be freed by the caller. Throws DriverError.
DevicePtr allocate_memory(const Device& device, std::size_t bytes);

// The same for destructors, where nobody can act on an error. If the context cannot be switched,
// the driver is most likely shutting down and has freed everything already.
template <typename Release>
void release_in_context(const Device& device, Release release) noexcept {
  try {
    Device::Scope scope(device);
    release(device.api());
  } catch (...) {  // also where memory ends while the sentence of an error is made
  }
}

}  // namespace sagegen::runtime
