#include "runtime/emulator/device/launch_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace sagegen::emulator {

using runtime::Dim3;
using runtime::Finding;
using runtime::Result;

namespace {

std::string spelled(const Dim3& d) { return fmt::format("({}, {}, {})", d.x, d.y, d.z); }

std::uint64_t volume(const Dim3& d) {
  // Cannot overflow: the extents were checked against the limits before.
  return std::uint64_t{d.x} * d.y * d.z;
}

bool within(const Dim3& d, unsigned x, unsigned y, unsigned z) {
  return d.x >= 1 && d.y >= 1 && d.z >= 1 && d.x <= x && d.y <= y && d.z <= z;
}

}  // namespace

int registers_per_thread(const ProgramInfo& program) {
  return std::min(program.registers, kMaxRegistersPerThread);
}

int max_threads(const ProgramInfo& program) {
  if (program.max_threads > 0) return std::min(program.max_threads, kMaxThreadsPerBlock);
  return kMaxThreadsPerBlock;
}

int default_dynamic_shared(const ProgramInfo& program) {
  return std::max(0, kDefaultSharedPerBlock - static_cast<int>(program.static_shared_bytes));
}

std::string why_not_dynamic_shared(const ProgramInfo& program, const DeviceDescription& device,
                                   int bytes) {
  if (bytes < 0) return fmt::format("{} bytes of dynamic shared memory", bytes);
  const auto limit = static_cast<std::size_t>(device.shared_per_block_optin);
  if (static_cast<std::size_t>(bytes) + program.static_shared_bytes <= limit) return {};
  return fmt::format(
      "{} needs {} static and {} dynamic bytes of shared memory per block; {} has {}", program.name,
      program.static_shared_bytes, bytes, device.name, limit);
}

Refusal why_not_launchable(const ProgramInfo& program, const LaunchShape& shape) {
  if (!within(shape.grid, kMaxGridX, kMaxGridYZ, kMaxGridYZ)) {
    return {Result::invalid_value,
            fmt::format("grid {}: each extent must be between 1 and ({}, {}, {})",
                        spelled(shape.grid), kMaxGridX, kMaxGridYZ, kMaxGridYZ)};
  }
  if (!within(shape.block, kMaxThreadsPerBlock, kMaxThreadsPerBlock, kMaxBlockZ) ||
      volume(shape.block) > kMaxThreadsPerBlock) {
    return {Result::invalid_value,
            fmt::format("block {}: each extent must be between 1 and ({}, {}, {}), all together at "
                        "most {} threads",
                        spelled(shape.block), kMaxThreadsPerBlock, kMaxThreadsPerBlock, kMaxBlockZ,
                        kMaxThreadsPerBlock)};
  }
  const auto threads = static_cast<int>(volume(shape.block));
  if (program.max_threads > 0 && threads > program.max_threads) {
    return {Result::invalid_value,
            fmt::format("{} threads per block; {} was compiled for at most {}", threads,
                        program.name, program.max_threads)};
  }
  if (program.exact_threads && threads != program.max_threads) {
    return {Result::invalid_value,
            fmt::format("{} threads per block; {} was compiled for {}, no more and no fewer",
                        threads, program.name, program.max_threads)};
  }
  if (shape.dynamic_shared > static_cast<unsigned>(shape.max_dynamic_shared)) {
    return {Result::invalid_value,
            fmt::format("{} bytes of dynamic shared memory; {} is allowed {} (raise it with "
                        "max_dynamic_shared_size_bytes)",
                        shape.dynamic_shared, program.name, shape.max_dynamic_shared)};
  }
  return {};
}

bool pack_parameters(const ProgramInfo& program, void** arguments, std::vector<std::uint8_t>& out) {
  out.assign(program.param_bytes, 0);
  if (program.params.empty()) return true;
  if (arguments == nullptr) return false;
  for (std::size_t i = 0; i < program.params.size(); ++i) {
    if (arguments[i] == nullptr) return false;
    std::memcpy(out.data() + program.params[i].offset, arguments[i], program.params[i].bytes);
  }
  return true;
}

Result result_of(const std::vector<Finding>& findings) {
  const std::string& check = findings.front().check;
  const bool address = check == "out-of-bounds" || check == "use-after-free";
  return address ? Result::illegal_address : Result::launch_failed;
}

std::string describe(const std::vector<Finding>& findings, bool truncated) {
  std::string out;
  for (const Finding& finding : findings) {
    if (!out.empty()) out += '\n';
    out += finding.kernel;
    if (finding.ptx_line > 0) out += fmt::format(", PTX line {}", finding.ptx_line);
    if (!finding.source.empty()) out += fmt::format(" ({})", finding.source);
    out += fmt::format(": {}: {} [block ({}, {}, {})", finding.check, finding.message,
                       finding.cta[0], finding.cta[1], finding.cta[2]);
    if (finding.warp >= 0) out += fmt::format(", warp {}", finding.warp);
    if (finding.lane >= 0) out += fmt::format(", lane {}", finding.lane);
    out += "]";
    if (finding.count > 1) out += fmt::format(" ({} times)", finding.count);
  }
  if (truncated) out += "\nand more";
  return out;
}

}  // namespace sagegen::emulator
