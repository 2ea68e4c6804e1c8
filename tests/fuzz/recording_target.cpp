// The reader of hardware recordings on any bytes: a recording that survives being written and read,
// or RecordingError.
#include <cstdlib>
#include <string_view>

#include "tools/hardware/recording.h"

using namespace sagegen::hardware;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Recording recording =
        parse_recording({reinterpret_cast<const char*>(data), size}, "input");
    const Recording again = parse_recording(format_recording(recording), "written");
    if (again.results != recording.results || again.seed != recording.seed ||
        again.cases != recording.cases) {
      std::abort();
    }
  } catch (const RecordingError&) {
  }
  return 0;
}
