#include "tools/hardware/replay.h"

#include <fmt/format.h>

#include "sagegen/runtime/error.h"

namespace sagegen::hardware {
namespace {

using runtime::EmulatorProfile;

runtime::Device emulated(EmulatorProfile profile) {
  return runtime::Device(runtime::make_emulator(), static_cast<int>(profile));
}

}  // namespace

std::optional<EmulatorProfile> profile_of(int compute_capability) {
  switch (compute_capability) {
    case 80:
      return EmulatorProfile::sm_80;
    case 86:
      return EmulatorProfile::sm_86;
    case 89:
      return EmulatorProfile::sm_89;
    case 90:
      return EmulatorProfile::sm_90;
    case 120:
      return EmulatorProfile::sm_120;
    default:
      return std::nullopt;
  }
}

const Probe* find_probe(const std::string& name) {
  for (const Probe& probe : all_probes()) {
    if (probe.name == name) {
      return &probe;
    }
  }
  return nullptr;
}

bool runs_on(const Probe& probe, int compute_capability) {
  const bool this_device_only = probe.target.back() == 'a';
  return this_device_only ? probe.compute_capability == compute_capability
                          : probe.compute_capability <= compute_capability;
}

Replay replay(const Recording& recording) {
  const Probe* probe = find_probe(recording.probe);
  if (probe == nullptr) {
    return {.verdict = Verdict::stale,
            .text = fmt::format("no probe is named {}", recording.probe)};
  }
  if (std::string why = why_stale(recording, *probe); !why.empty()) {
    return {.verdict = Verdict::stale, .text = why};
  }
  if (Difference unmet = compare_with_expected(*probe, recording); unmet.words != 0) {
    Replay result{.verdict = Verdict::differs, .difference = std::move(unmet)};
    result.text =
        fmt::format("{} of {} words are not what the operands must give; {}",
                    result.difference.words, result.difference.compared, result.difference.first);
    return result;
  }
  const auto profile = profile_of(recording.compute_capability);
  if (!profile) {
    return {
        .verdict = Verdict::waiting,
        .text = fmt::format("no profile has the arithmetic of compute capability {}.{}",
                            recording.compute_capability / 10, recording.compute_capability % 10)};
  }
  Words results;
  try {
    results = record(emulated(*profile), *probe, recording.seed).results;
  } catch (const Error& e) {
    return {.verdict = Verdict::waiting, .text = e.what()};
  }
  Replay result;
  result.difference = compare(*probe, recording, results);
  const Difference& difference = result.difference;
  if (difference.words != 0) {
    result.verdict = Verdict::differs;
    result.text = fmt::format("{} of {} words differ; {}", difference.words, difference.compared,
                              difference.first);
  } else if (probe->tolerance.kind != Tolerance::Kind::bits) {
    result.text = fmt::format("{} words within the bound, at most {} ulps apart",
                              difference.compared, difference.largest_ulps);
  } else {
    result.text = fmt::format("{} words, bit for bit", difference.compared);
  }
  return result;
}

ReplayCounts replay_all(const std::vector<std::string>& paths,
                        const std::function<void(const Recording&, const Replay&)>& each) {
  ReplayCounts counts;
  for (const std::string& path : paths) {
    const Recording recording = load(path);
    const Replay result = replay(recording);
    switch (result.verdict) {
      case Verdict::agrees:
        ++counts.agree;
        break;
      case Verdict::differs:
        ++counts.differ;
        break;
      case Verdict::waiting:
        ++counts.waiting;
        break;
      case Verdict::stale:
        ++counts.stale;
        break;
    }
    each(recording, result);
  }
  return counts;
}

std::string why_not_modelled(const Probe& probe, EmulatorProfile profile) {
  Probe one_case = probe;
  one_case.cases = 1;
  try {
    record(emulated(profile), one_case, 1);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

}  // namespace sagegen::hardware
