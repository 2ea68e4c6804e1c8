// Findings, and the checks of masks and operands that many handlers share.

#include <fmt/format.h>

#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {

bool first_report(const Warp& w, const Op& op, const char* check) {
  FindingLog& log = *w.cta->log;
  const int line = op_info(w, op).line;
  for (runtime::Finding& known : log.findings) {
    if (known.ptx_line != line || known.check != check) continue;
    ++known.count;
    return false;
  }
  log.full = log.findings.size() == FindingLog::kMost;
  if (log.full) throw Stop{};
  return true;
}

void keep_report(const Warp& w, const Op& op, int lane, const char* check, std::string message) {
  const Program& program = *w.program;
  std::uint32_t index = op_index(w, op);
  runtime::Finding finding;
  finding.kernel = program.info.name;
  finding.check = check;
  finding.message = fmt::format("{}: {}", program.text[index], message);
  finding.ptx_line = program.ops[index].line;
  finding.source = program.source_of(index);
  for (int i = 0; i < 3; ++i) finding.cta[i] = w.cta->id[i];
  finding.warp = w.index;
  finding.lane = lane;
  w.cta->log->findings.push_back(std::move(finding));
}

void fail(const Warp& w, const Op& op, int lane, const char* check, std::string message) {
  if (first_report(w, op, check)) keep_report(w, op, lane, check, std::move(message));
  throw Stop{};
}

std::string hex_mask(std::uint32_t mask) { return fmt::format("{:#010x}", mask); }

std::uint32_t require_defined(const Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask,
                              const char* role) {
  std::uint32_t undefined = mask & ~defined_row(w, row);
  if (undefined == 0) return 0;
  int lane = first_lane(undefined);
  report(w, op, lane, "uninitialized", [&] {
    return fmt::format(
        "the {} was never written, or was computed from uninitialized data, in lanes {}; "
        "lane {} holds {:#x}",
        role, hex_mask(undefined), lane, row32(w, row)[lane]);
  });
  w.defined[row] |= undefined;
  return undefined;
}

}  // namespace sagegen::emulator
