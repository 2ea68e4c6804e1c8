// Holds the emulator to a recording: runs the same probe on the profile of the recorded device and
// compares.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sagegen/runtime/emulator.h"
#include "tools/hardware/recording.h"

namespace sagegen::hardware {

enum class Verdict {
  agrees,
  differs,
  waiting,  // the emulator does not model this instruction, or no profile is of this device
  stale,    // the recording belongs to an older probe: record again
};

struct Replay {
  Verdict verdict = Verdict::agrees;
  std::string text{};  // a sentence with the figures
  Difference difference{};
};

// The profile whose arithmetic is that of a compute capability (89 for 8.9), if there is one.
std::optional<runtime::EmulatorProfile> profile_of(int compute_capability);

const Probe* find_probe(const std::string& name);

Replay replay(const Recording& recording);

struct ReplayCounts {
  int agree = 0, differ = 0, waiting = 0, stale = 0;

  // There are recordings, none differs, and none has to be made again.
  bool good() const { return agree + waiting > 0 && differ == 0 && stale == 0; }
};
// Replays the recordings in these files and tells `each` of every result. Throws RecordingError.
ReplayCounts replay_all(const std::vector<std::string>& paths,
                        const std::function<void(const Recording&, const Replay&)>& each);

// Whether a profile of the emulator executes a probe at all; otherwise its reason.
std::string why_not_modelled(const Probe& probe, runtime::EmulatorProfile profile);

// Whether a device of a compute capability can run the probe's PTX.
bool runs_on(const Probe& probe, int compute_capability);

}  // namespace sagegen::hardware
