// How long what is enqueued takes on a device, as it would be deployed.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

// eager: launches as they are enqueued. graph: captured once and replayed, so that what launches cost the host does not
// count.
enum class Deployment { eager, graph };
std::string_view to_string(Deployment deployment);

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  // "ns"; "instructions" in the emulator, whose count is the same every time and no time of any GPU.
  virtual std::string_view unit() const = 0;
  // Whether equal work always gives equal numbers, so that one is enough.
  virtual bool is_exact() const = 0;
  // Of all that `enqueue` puts on the stream it is given; it allocates and synchronizes nothing. Throws DriverError.
  virtual double time(const std::function<void(StreamHandle)>& enqueue) = 0;
};

// A GPU's caches are overwritten before each of some runs, and the median counts. Throws DriverError; ArgumentError for a
// deployment that says nothing of the device: graphs of the emulator.
std::unique_ptr<Stopwatch> make_stopwatch(const Device& device, Deployment deployment);

}  // namespace sagegen::runtime
