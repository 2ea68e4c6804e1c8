// CUresult values that the emulated driver returns beyond those that sagegen tells apart, and all names.
#pragma once

#include <string>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::emulator {

inline constexpr runtime::Result kInvalidHandle{400};
inline constexpr runtime::Result kIllegalState{401};
inline constexpr runtime::Result kCaptureUnsupported{900};
inline constexpr runtime::Result kContextIsDestroyed{709};
inline constexpr runtime::Result kUnknownError{999};

// "CUDA_ERROR_ILLEGAL_ADDRESS"; "unknown result 1234" for a number that the driver API does not have.
std::string result_name(runtime::Result result);

}  // namespace sagegen::emulator
