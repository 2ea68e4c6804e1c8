// The kernels that are loaded in this process, so that plans share them.
#pragma once

#include <memory>

#include "sagegen/artifact.h"
#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

// The artifact loaded on the device: as it is already, or now. It is unloaded with its last user. Safe from
// several threads: two that want the same kernel wait for one load, others do not. Throws SpecError,
// DriverError.
std::shared_ptr<const Kernel> shared_kernel(const Device& device,
                                            const std::shared_ptr<const Artifact>& artifact,
                                            std::size_t param_bytes);

}  // namespace sagegen::runtime
