#include "tools/pictures/measure/launches.h"

#include <memory>

#include "sagegen/runtime/emulator.h"

namespace sagegen::pictures {

runtime::Device device_for(Target target) {
  const std::shared_ptr<runtime::EmulatorDriver> driver = runtime::make_emulator();
  for (int ordinal = 0;; ++ordinal) {  // the last one loads all PTX
    runtime::Device device(driver, ordinal);
    if (device.compute_capability() >= target.sm) return device;
  }
}

void launch(const runtime::Device& device, const Probe& probe, const ParamPack& params) {
  const dsl::Emitted& kernel = probe.kernel;
  const runtime::Kernel loaded(device, kernel.ptx, kernel.entry, kernel.threads,
                               kernel.shared_bytes, kernel.param_bytes);
  const runtime::Stream stream(device);
  loaded.launch_block({.x = 1}, params.data(), params.bytes(), stream.handle());
  stream.synchronize();
}

}  // namespace sagegen::pictures
