// A recording: what one probe gave on one device. The file is a line of JSON that a person can read
// with `head -1`, a newline, and the results, compressed with zlib: words in the order
// [case][word][thread], of which all lowest bytes come first, then all second bytes, and so on.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "sagegen/runtime/device.h"
#include "tools/hardware/probe.h"

namespace sagegen::hardware {

inline constexpr int kSchemaVersion = 3;

struct Recording {
  std::string probe;
  int generator = kGeneratorVersion;
  std::uint64_t seed = 0;
  int cases = 0;
  std::uint32_t ptx_crc = 0;  // of the PTX text
  std::uint32_t operands_crc = 0;
  std::string device;  // as the driver names it
  int compute_capability = 0;
  int driver_version = 0;  // 13000 for CUDA 13.0
  std::string driver;      // its release: "580.159.04"; empty if unknown
  std::string api;         // "cuda" or "emulator"
  std::string date;        // of the recording, UTC: "2026-01-31"
  Words results;
};

// The file is not a recording, is damaged, or was made by another version; what() says which and
// where.
class RecordingError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The contents of a file. parse_recording takes any bytes; `origin` names them in errors.
std::string format_recording(const Recording& recording);
Recording parse_recording(std::string_view bytes, const std::string& origin);

// Writes to a temporary file and renames it: an interrupted run leaves no half recording.
void save(const Recording& recording, const std::string& path);
Recording load(const std::string& path);

// Whether the recording belongs to the probe as it is now, and why not otherwise: another generator
// version, PTX or operands. Empty if it does.
std::string why_stale(const Recording& recording, const Probe& probe);

// The release of the kernel module in the text of /proc/driver/nvidia/version; empty if there is
// none.
std::string driver_release_in(const std::string& text);
// Of the driver that is at work; empty for the emulator.
std::string driver_release(const runtime::Device& device);

// Runs the probe on a device. Throws DriverError, also if the device or the emulator refuses the
// PTX.
Recording record(const runtime::Device& device, const Probe& probe, std::uint64_t seed);

// What differs between a recording and other results of the same probe.
struct Difference {
  int words = 0;  // beyond the tolerance
  int compared = 0;
  int largest_ulps = 0;  // for probes with an ulp tolerance, over all words
  std::string first;     // the first difference: case, word, lane, operands, both results
};
Difference compare(const Probe& probe, const Recording& recording, const Words& other);

// The difference to what the operands must give; nothing is compared if the probe does not know
// that.
Difference compare_with_expected(const Probe& probe, const Recording& recording);

}  // namespace sagegen::hardware
