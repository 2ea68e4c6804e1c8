// The attention kernel that a few words mean on a device.
#pragma once

#include <string>
#include <string_view>

#include "sagegen/kernel.h"
#include "sagegen/runtime/device.h"

namespace sagegen::attention {

struct KernelChoice {
  Kernel kernel;
  std::string note;  // why a lower target than the device's was taken, and what that costs (best_target_note)
};

// words: an option text, as kernel_of_options() takes it, in which "mode=int8-fp8" may stand for qk and pv (modes() in
// spec.h); or the key of an attention kernel, which is taken as it is. A text that names no number format and no schedule
// gets what suits the device and its driver best; one that does is for the device's own target, whatever its driver, and
// loading says what the driver lacks. Throws SpecError: unknown words, with what was perhaps meant, words that
// contradict each other, FP8 where the device has none; DriverError.
KernelChoice choose_kernel(const runtime::Device& device, std::string_view words);

}  // namespace sagegen::attention
