#include "sagegen/runtime/graph.h"

#include "runtime/driver/in_context.h"

namespace sagegen::runtime {
namespace {

GraphExecutableHandle capture(DriverApi& api, const Stream& stream,
                              const std::function<void(StreamHandle)>& enqueue) {
  check(api, api.stream_begin_capture(stream.handle()), "cuStreamBeginCapture");
  GraphHandle graph = nullptr;
  try {
    enqueue(stream.handle());
  } catch (...) {
    api.stream_end_capture(stream.handle(), &graph);
    if (graph != nullptr) api.graph_destroy(graph);
    throw;
  }
  check(api, api.stream_end_capture(stream.handle(), &graph), "cuStreamEndCapture");
  GraphExecutableHandle executable = nullptr;
  const Result made = api.graph_instantiate(&executable, graph);
  api.graph_destroy(graph);
  check(api, made, "cuGraphInstantiateWithFlags");
  return executable;
}

}  // namespace

Graph::Graph(const Device& device, const std::function<void(StreamHandle)>& enqueue)
    : device_(device) {
  const Stream stream(device_);
  in_context(
      device_, [&](DriverApi& api) { executable_ = capture(api, stream, enqueue); },
      [&](DriverApi& api) { api.graph_executable_destroy(executable_); });
}

Graph::~Graph() {
  release_in_context(device_, [&](DriverApi& api) { api.graph_executable_destroy(executable_); });
}

void Graph::launch(StreamHandle stream) const {
  in_context(device_, [&](DriverApi& api) {
    check(api, api.graph_launch(executable_, stream), "cuGraphLaunch");
  });
}

}  // namespace sagegen::runtime
