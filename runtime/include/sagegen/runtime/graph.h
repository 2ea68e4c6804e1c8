// A graph of what a plan enqueues, made once and replayed: addresses and other arguments stay, memory is what it is at each
// replay. So kernels that read lengths on the device (varlen) take other ones.
//
//   const Graph graph(device, [&](StreamHandle capturing) { plan.run(shape, arguments, workspace, bytes, capturing); });
//   graph.launch(stream.handle());
#pragma once

#include <functional>

#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

class Graph {
 public:
  // Captures what `enqueue` puts into the stream that it is given, and nothing runs. Throws DriverError, of a driver older
  // than CUDA 11.4, too; and what `enqueue` throws.
  Graph(const Device& device, const std::function<void(StreamHandle)>& enqueue);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Enqueues all of it. Kernels and memory that it names have to be there: the plan, tensors and workspace outlive it.
  // Throws DriverError.
  void launch(StreamHandle stream) const;

 private:
  Device device_;
  GraphExecutableHandle executable_ = nullptr;
};

}  // namespace sagegen::runtime
