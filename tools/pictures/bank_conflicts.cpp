#include "tools/pictures/bank_conflicts.h"

#include <algorithm>
#include <map>
#include <set>

namespace sagegen::pictures {

std::array<int, kBankGroups> bank_groups(std::span<const int> addresses) {
  std::array<int, kBankGroups> groups{};
  for (const int address : std::set<int>(addresses.begin(), addresses.end()))
    ++groups[static_cast<std::size_t>(address / kChunkBytes % kBankGroups)];
  return groups;
}

Conflicts conflicts_of(const Access& access) {
  Conflicts result;
  for (const Request& request : access.requests) {
    ++result.requests;
    for (int phase = 0; phase < kPhases; ++phase) {
      const auto groups = bank_groups(
          std::span(request).subspan(static_cast<std::size_t>(phase * kPhaseLanes), kPhaseLanes));
      const int wavefronts = *std::max_element(groups.begin(), groups.end());
      ++result.phases;
      result.wavefronts += wavefronts;
      result.worst = std::max(result.worst, wavefronts);
    }
  }
  return result;
}

Access in_order(const Tile& tile, const Access& access) {
  std::map<int, int> plain;  // place: the one that it would have
  for (std::size_t chunk = 0; chunk < tile.places.size(); ++chunk)
    plain[tile.places[chunk]] = static_cast<int>(chunk) * kChunkBytes;
  Access result = access;
  for (Request& request : result.requests) {
    for (int& address : request) address = plain.at(address);
  }
  return result;
}

}  // namespace sagegen::pictures
