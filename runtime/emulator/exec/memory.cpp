#include "runtime/emulator/exec/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sagegen::emulator {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kQuarantine = 4096;  // freed allocations that reports can still name

constexpr std::size_t kHuge = std::size_t{16} << 20;

// Zeros; pages that nobody touches are never backed by memory.
std::shared_ptr<std::uint8_t> zeroed(std::size_t bytes) {
  auto* p = static_cast<std::uint8_t*>(std::calloc(bytes, 1));
  if (p == nullptr) throw std::bad_alloc();
  return {p, [](std::uint8_t* q) { std::free(q); }};
}

std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }

// The ranges of addresses that living memories have.
class Ranges {
 public:
  Address take() {
    const std::lock_guard lock(mutex_);
    std::size_t free = 0;
    while (free < taken_.size() && taken_[free]) ++free;
    if (free == taken_.size()) taken_.push_back(false);
    taken_[free] = true;
    return kGlobalBase + free * kRangeBytes;
  }
  void give_back(Address range) {
    const std::lock_guard lock(mutex_);
    taken_[(range - kGlobalBase) / kRangeBytes] = false;
  }

 private:
  std::mutex mutex_;
  std::vector<bool> taken_;
};
Ranges& ranges() {
  static Ranges* all = new Ranges;  // never destroyed: memories of static objects come later
  return *all;
}

bool starts_after(Address address, const std::shared_ptr<const Allocation>& a) {
  return address < a->base;
}

}  // namespace

const Allocation* AddressMap::find(Address address) const {
  auto after = std::upper_bound(allocations_.begin(), allocations_.end(), address, starts_after);
  if (after == allocations_.begin()) return nullptr;
  const Allocation* candidate = std::prev(after)->get();
  return address < candidate->end() ? candidate : nullptr;
}

const Allocation* AddressMap::nearest(Address address) const {
  auto after = std::upper_bound(allocations_.begin(), allocations_.end(), address, starts_after);
  const Allocation* below = after == allocations_.begin() ? nullptr : std::prev(after)->get();
  const Allocation* above = after == allocations_.end() ? nullptr : after->get();
  if (below == nullptr || above == nullptr) return below != nullptr ? below : above;
  return address - below->end() <= above->base - address ? below : above;
}

DeviceMemory::DeviceMemory(std::size_t capacity_bytes)
    : capacity_(capacity_bytes),
      ranges_{ranges().take()},
      next_(ranges_.back()),
      map_(std::make_shared<AddressMap>()) {}

DeviceMemory::~DeviceMemory() {
  for (const Address range : ranges_) ranges().give_back(range);
}

AddressMap& DeviceMemory::own_map() {
  if (snapshots_) {
    map_ = std::make_shared<AddressMap>(*map_);
    moved_ += map_->allocations_.size();
    snapshots_ = false;
  }
  return *map_;
}

Address DeviceMemory::allocate(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes == 0 || bytes > capacity_ - used_ || bytes > kRangeBytes - kRedZone) return 0;
  if (next_ - ranges_.back() > kRangeBytes - kRedZone - bytes) {
    ranges_.push_back(ranges().take());
    next_ = ranges_.back();
  }
  // One block holds data and shadow, so that both live and die together.
  std::size_t shadow_offset = round_up(bytes, kAlignment);
  std::shared_ptr<std::uint8_t> block = zeroed(shadow_offset + bytes);
  auto allocation = std::make_shared<Allocation>();
  allocation->base = next_;
  allocation->bytes = bytes;
  allocation->data = block.get();
  allocation->written = block.get() + shadow_offset;
  allocation->storage = block;
  // Poison: a pattern that is a NaN in every float format and an implausible integer.
  if (bytes < kHuge) std::memset(allocation->data, 0xff, bytes);

  auto& list = own_map().allocations_;
  // Nearly always at the end: addresses grow inside a range.
  const auto after = std::upper_bound(list.begin(), list.end(), next_, starts_after);
  moved_ += static_cast<std::size_t>(list.end() - after);
  list.insert(after, std::move(allocation));
  Address base = next_;
  next_ = round_up(next_ + bytes + kRedZone, kAlignment);
  used_ += bytes;
  return base;
}

bool DeviceMemory::release(Address base) {
  std::lock_guard lock(mutex_);
  const Allocation* allocation = map_->find(base);
  if (allocation == nullptr || allocation->base != base || allocation->freed) return false;
  AddressMap& map = own_map();
  auto it = std::prev(
      std::upper_bound(map.allocations_.begin(), map.allocations_.end(), base, starts_after));
  auto tombstone = std::make_shared<Allocation>();
  tombstone->base = (*it)->base;
  tombstone->bytes = (*it)->bytes;
  tombstone->freed = true;
  used_ -= (*it)->bytes;
  *it = std::move(tombstone);
  if (++freed_ > 2 * kQuarantine) forget_oldest(map);
  return true;
}

// Many at once, so that a release costs next to nothing on average.
void DeviceMemory::forget_oldest(AddressMap& map) {
  auto& list = map.allocations_;
  moved_ += list.size();
  std::erase_if(list, [&](const auto& a) {
    if (!a->freed || freed_ <= kQuarantine) return false;
    --freed_;
    return true;
  });
}

std::string DeviceMemory::locate(Address address, std::size_t bytes,
                                 const Allocation** found) const {
  const Allocation* allocation = map_->find(address);
  if (allocation == nullptr || allocation->freed) return describe_address(*map_, address);
  if (bytes > allocation->end() - address) {
    return fmt::format("{} bytes at {:#x} end {} bytes past the {} bytes allocated at {:#x}", bytes,
                       address, bytes - (allocation->end() - address), allocation->bytes,
                       allocation->base);
  }
  *found = allocation;
  return {};
}

std::string DeviceMemory::write(Address to, const void* from, std::size_t bytes) {
  if (bytes == 0) return {};
  std::lock_guard lock(mutex_);
  const Allocation* allocation = nullptr;
  std::string why = locate(to, bytes, &allocation);
  if (!why.empty()) return why;
  std::memcpy(allocation->data + (to - allocation->base), from, bytes);
  std::memset(allocation->written + (to - allocation->base), 1, bytes);
  return {};
}

std::string DeviceMemory::read(void* to, Address from, std::size_t bytes) const {
  if (bytes == 0) return {};
  std::lock_guard lock(mutex_);
  const Allocation* allocation = nullptr;
  std::string why = locate(from, bytes, &allocation);
  if (!why.empty()) return why;
  std::memcpy(to, allocation->data + (from - allocation->base), bytes);
  return {};
}

std::string DeviceMemory::fill(Address to, std::uint8_t value, std::size_t bytes) {
  if (bytes == 0) return {};
  std::lock_guard lock(mutex_);
  const Allocation* allocation = nullptr;
  std::string why = locate(to, bytes, &allocation);
  if (!why.empty()) return why;
  std::memset(allocation->data + (to - allocation->base), value, bytes);
  std::memset(allocation->written + (to - allocation->base), 1, bytes);
  return {};
}

std::string DeviceMemory::copy(Address to, Address from, std::size_t bytes) {
  if (bytes == 0) return {};
  std::lock_guard lock(mutex_);
  const Allocation *target = nullptr, *source = nullptr;
  for (const auto& [address, found] : {std::pair{to, &target}, std::pair{from, &source}}) {
    std::string why = locate(address, bytes, found);
    if (!why.empty()) return why;
  }
  if (to < from + bytes && from < to + bytes)
    return fmt::format("{} bytes at {:#x} and at {:#x} overlap", bytes, from, to);
  const std::size_t there = to - target->base, here = from - source->base;
  std::memcpy(target->data + there, source->data + here, bytes);
  if (source->assumed_defined)
    std::memset(target->written + there, 1, bytes);
  else
    std::memcpy(target->written + there, source->written + here, bytes);
  return {};
}

DeviceMemory::Undefined DeviceMemory::undefined(Address from, std::size_t bytes) const {
  std::lock_guard lock(mutex_);
  const Allocation* allocation = map_->find(from);
  if (allocation == nullptr || allocation->freed || allocation->assumed_defined) return {};
  const std::uint8_t* begin = allocation->written + (from - allocation->base);
  const std::uint8_t* first = std::find(begin, begin + bytes, std::uint8_t{0});
  return {static_cast<std::size_t>(std::count(first, begin + bytes, std::uint8_t{0})),
          from + static_cast<Address>(first - begin)};
}

void DeviceMemory::assume_defined() {
  std::lock_guard lock(mutex_);
  for (const auto& allocation : map_->allocations_) {
    allocation->assumed_defined = !allocation->freed;
  }
}

std::shared_ptr<const AddressMap> DeviceMemory::snapshot_with_shadows() {
  std::lock_guard lock(mutex_);
  for (const auto& allocation : map_->allocations_) {
    if (!allocation->assumed_defined) continue;
    std::memset(allocation->written, 1, allocation->bytes);
    allocation->assumed_defined = false;
  }
  snapshots_ = true;
  return map_;
}

std::shared_ptr<const AddressMap> DeviceMemory::snapshot() const {
  std::lock_guard lock(mutex_);
  snapshots_ = true;
  return map_;
}

std::uint64_t DeviceMemory::entries_moved() const {
  std::lock_guard lock(mutex_);
  return moved_;
}

std::size_t DeviceMemory::used_bytes() const {
  std::lock_guard lock(mutex_);
  return used_;
}

std::string describe_address(const AddressMap& map, Address address) {
  const Allocation* inside = map.find(address);
  if (inside != nullptr) {
    return fmt::format("{:#x} is byte {} of the {} bytes {} at {:#x}", address,
                       address - inside->base, inside->bytes,
                       inside->freed ? "that were allocated and freed" : "allocated", inside->base);
  }
  const Allocation* near = map.nearest(address);
  if (near == nullptr) return fmt::format("{:#x} is not allocated; nothing is", address);
  const char* state = near->freed ? "that were allocated and freed" : "allocated";
  if (address < near->base) {
    return fmt::format("{:#x} is {} bytes before the {} bytes {} at {:#x}", address,
                       near->base - address, near->bytes, state, near->base);
  }
  return fmt::format("{:#x} is {} bytes past the end of the {} bytes {} at {:#x}", address,
                     address - near->end(), near->bytes, state, near->base);
}

}  // namespace sagegen::emulator
