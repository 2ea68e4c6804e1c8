#include "runtime/emulator/exec/access.h"

#include <fmt/format.h>

#include <algorithm>

namespace sagegen::emulator {
namespace {

bool in_window(std::uint64_t address, Address window) { return address - window < kWindowBytes; }

Target outside(const Warp& w, const Op& op, int lane, std::uint32_t bytes, const char* doing,
               const char* space, std::uint64_t address, std::uint64_t start, std::uint64_t end) {
  report(w, op, lane, "out-of-bounds", [&] {
    return fmt::format("{} {} bytes at {} address {:#x}; valid are {:#x} to {:#x} ({} bytes)",
                       doing, bytes, space, address, start, end, end - start);
  });
  return nowhere(w);
}

Target bad_global(const Warp& w, const Op& op, int lane, std::uint64_t address, std::uint32_t bytes,
                  const char* doing) {
  const AddressMap& map = *w.cta->map;
  const Allocation* allocation = map.find(address);
  bool freed = allocation != nullptr && allocation->freed;
  report(w, op, lane, freed ? "use-after-free" : "out-of-bounds", [&] {
    return fmt::format("{} {} bytes at {:#x}; {}", doing, bytes, address,
                       describe_address(map, address));
  });
  return nowhere(w);
}

Target locate_global(const Warp& w, const Op& op, std::uint32_t access, int lane,
                     std::uint64_t address, std::uint32_t bytes, const char* doing) {
  const Allocation*& hit = w.cta->hits[access];
  if (hit == nullptr || address - hit->base >= hit->bytes) {
    const Allocation* found = w.cta->map->find(address);
    if (found == nullptr || found->freed) return bad_global(w, op, lane, address, bytes, doing);
    hit = found;
  }
  std::uint64_t offset = address - hit->base;
  if (bytes > hit->bytes - offset) {
    return bad_global(w, op, lane, address + bytes - 1, bytes, doing);
  }
  return {Space::global, address, hit->data + offset, hit->written + offset};
}

Target locate_shared(const Warp& w, const Op& op, int lane, std::uint64_t offset,
                     std::uint32_t bytes, const char* doing) {
  const Cta& cta = *w.cta;
  if (offset < kSharedStart || offset > cta.shared_end || bytes > cta.shared_end - offset) {
    return outside(w, op, lane, bytes, doing, "shared", offset, kSharedStart, cta.shared_end);
  }
  return {Space::shared, offset, cta.shared + offset, nullptr};
}

Target locate_local(const Warp& w, const Op& op, int lane, std::uint64_t offset,
                    std::uint32_t bytes, const char* doing) {
  std::uint64_t size = w.program->info.local_bytes;
  std::uint64_t at = offset - kLocalStart;
  if (offset < kLocalStart || at > size || bytes > size - at) {
    return outside(w, op, lane, bytes, doing, "local", offset, kLocalStart, kLocalStart + size);
  }
  std::size_t place = static_cast<std::size_t>(lane) * size + at;
  Warp& warp = const_cast<Warp&>(w);
  return {Space::local, offset, warp.local.data() + place,
          warp.local_written.empty() ? nullptr : warp.local_written.data() + place};
}

Target locate_param(const Warp& w, const Op& op, int lane, std::uint64_t offset,
                    std::uint32_t bytes, const char* doing) {
  const auto& params = w.cta->request->params;
  if (offset > params.size() || bytes > params.size() - offset) {
    return outside(w, op, lane, bytes, doing, "param", offset, 0, params.size());
  }
  if (*doing != 'r') {
    report(w, op, lane, "out-of-bounds", [] { return "kernel parameters cannot be written"; });
    return nowhere(w);
  }
  // Never written: see above.
  return {Space::param, offset, const_cast<std::uint8_t*>(params.data()) + offset, nullptr};
}

Target misaligned(const Warp& w, const Op& op, int lane, std::uint64_t address, std::uint32_t bytes,
                  const char* doing) {
  report(w, op, lane, "misaligned", [&] {
    return fmt::format("{} {} bytes at {:#x}, which is no multiple of {}", doing, bytes, address,
                       bytes);
  });
  return nowhere(w);
}

}  // namespace

Target nowhere(const Warp& w) {
  // Zeros, whatever was written there before.
  w.cta->nowhere.fill(0);
  return {Space::nowhere, 0, w.cta->nowhere.data(), nullptr};
}

LaneAddresses lane_addresses(const Warp& w, const Access& access, std::uint16_t base_row) {
  LaneAddresses addresses;
  if (access.wide_base) {
    const std::uint64_t* base = row64(w, base_row);
    for (int i = 0; i < kLanes; ++i) addresses[i] = base[i] + access.offset;
  } else {
    const std::uint32_t* base = row32(w, base_row);
    for (int i = 0; i < kLanes; ++i) {
      addresses[i] =
          static_cast<std::uint32_t>(base[i] + static_cast<std::uint32_t>(access.offset));
    }
  }
  return addresses;
}

Target locate(const Warp& w, const Op& op, std::uint32_t access, int lane, std::uint64_t address,
              std::uint32_t bytes, const char* doing) {
  if ((address & (bytes - 1)) != 0) return misaligned(w, op, lane, address, bytes, doing);
  return locate_bytes(w, op, access, lane, address, bytes, doing);
}

Target locate_bytes(const Warp& w, const Op& op, std::uint32_t access, int lane,
                    std::uint64_t address, std::uint32_t bytes, const char* doing) {
  switch (w.program->accesses[access].space) {
    case Space::shared:
      return locate_shared(w, op, lane, address, bytes, doing);
    case Space::local:
      return locate_local(w, op, lane, address, bytes, doing);
    case Space::param:
      return locate_param(w, op, lane, address, bytes, doing);
    case Space::global:
    case Space::constant:
      return locate_global(w, op, access, lane, address, bytes, doing);
    case Space::generic:
    case Space::nowhere:
      break;
  }
  if (in_window(address, kSharedWindow)) {
    return locate_shared(w, op, lane, address - kSharedWindow, bytes, doing);
  }
  if (in_window(address, kLocalWindow)) {
    return locate_local(w, op, lane, address - kLocalWindow, bytes, doing);
  }
  if (in_window(address, kParamWindow)) {
    return locate_param(w, op, lane, address - kParamWindow, bytes, doing);
  }
  return locate_global(w, op, access, lane, address, bytes, doing);
}

void locate_lanes(const Warp& w, const Op& op, std::uint32_t access, std::uint32_t mask,
                  const LaneAddresses& addresses, std::uint32_t bytes, const char* doing,
                  LanePointers& data) {
  Space space = w.program->accesses[access].space;
  // Optimistic: all lanes inside one range of memory.
  std::uint64_t start = 0, size = 0;
  std::uint8_t* memory = nullptr;
  if (space == Space::shared) {
    start = kSharedStart;
    size = w.cta->shared_end - kSharedStart;
    memory = w.cta->shared + kSharedStart;
  } else if (space == Space::param) {
    size = w.cta->request->params.size();
    memory = const_cast<std::uint8_t*>(w.cta->request->params.data());
    if (*doing != 'r') size = 0;
  } else if (space != Space::local) {
    if (const Allocation* hit = w.cta->hits[access]) {
      start = hit->base;
      size = hit->bytes;
      memory = hit->data;
    }
  }
  if (size >= bytes) {
    std::uint64_t last = size - bytes;
    std::uint32_t bad = 0;
    const auto host = reinterpret_cast<std::uintptr_t>(memory);  // lanes outside may point anywhere
    for (int i = 0; i < kLanes; ++i) {
      std::uint64_t offset = addresses[i] - start;
      bool outside_range = offset > last || (addresses[i] & (bytes - 1)) != 0;
      bad |= static_cast<std::uint32_t>(outside_range) << i;
      data[i] = reinterpret_cast<std::uint8_t*>(host + offset);
    }
    if ((bad & mask) == 0) return;
  }
  for_lanes(mask, [&](int lane) {
    data[lane] = locate(w, op, access, lane, addresses[lane], bytes, doing).data;
  });
}

void locate_targets(const Warp& w, const Op& op, std::uint32_t access, std::uint32_t mask,
                    const LaneAddresses& addresses, std::uint32_t bytes, const char* doing,
                    LaneTargets& targets) {
  for_lanes(mask, [&](int lane) {
    targets[lane] = locate(w, op, access, lane, addresses[lane], bytes, doing);
  });
}

std::uint32_t undefined_addresses(const Warp& w, const Op& op, std::uint16_t base_row,
                                  std::uint32_t mask, const char* role) {
  const std::uint32_t lanes = require_defined(w, op, base_row, mask, role);
  // It stays undefined: where it is used again, it goes nowhere again.
  if (lanes != 0) set_defined_row(w, base_row, 0, lanes);
  return lanes;
}

void send_nowhere(const Warp& w, std::uint32_t lanes, LaneTargets& targets) {
  for_lanes(lanes, [&](int lane) { targets[lane] = nowhere(w); });
}

void count_wavefronts(const Warp& w, const Op& op, std::uint32_t mask,
                      const LaneAddresses& addresses, std::uint32_t bytes) {
  Counts& counts = *w.cta->counts;
  int group = bytes <= 4 ? 32 : static_cast<int>(128 / bytes);
  for (int first = 0; first < kLanes; first += group) {
    std::array<std::array<std::uint64_t, kLanes>, 32> words;  // per bank: distinct words
    std::array<int, 32> distinct = {};
    for (int lane = first; lane < first + group; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      for (std::uint64_t word = addresses[lane] / 4; word * 4 < addresses[lane] + bytes; ++word) {
        auto& seen = words[word % 32];
        int& n = distinct[word % 32];
        if (std::find(seen.begin(), seen.begin() + n, word) == seen.begin() + n) seen[n++] = word;
      }
    }
    int passes = *std::max_element(distinct.begin(), distinct.end());
    counts.wavefronts[op_index(w, op)] += static_cast<std::uint64_t>(passes);
    counts.wavefronts_ideal[op_index(w, op)] += passes > 0 ? 1 : 0;
  }
}

}  // namespace sagegen::emulator
