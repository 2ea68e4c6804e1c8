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
    : capacity_(capacity_bytes), map_(std::make_shared<AddressMap>()) {}

Address DeviceMemory::allocate(std::size_t bytes) {
  std::lock_guard lock(mutex_);
  if (bytes == 0 || bytes > capacity_ - used_) return 0;
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

  auto map = std::make_shared<AddressMap>(*map_);
  map->allocations_.push_back(std::move(allocation));  // addresses only grow: still sorted
  map_ = std::move(map);
  Address base = next_;
  next_ = round_up(next_ + bytes + kRedZone, kAlignment);
  used_ += bytes;
  return base;
}

bool DeviceMemory::release(Address base) {
  std::lock_guard lock(mutex_);
  auto map = std::make_shared<AddressMap>(*map_);
  auto& list = map->allocations_;
  auto it = std::find_if(list.begin(), list.end(),
                         [&](const auto& a) { return a->base == base && !a->freed; });
  if (it == list.end()) return false;
  auto tombstone = std::make_shared<Allocation>();
  tombstone->base = (*it)->base;
  tombstone->bytes = (*it)->bytes;
  tombstone->freed = true;
  used_ -= (*it)->bytes;
  *it = std::move(tombstone);
  std::size_t freed =
      std::count_if(list.begin(), list.end(), [](const auto& a) { return a->freed; });
  if (freed > kQuarantine) {
    list.erase(std::find_if(list.begin(), list.end(), [](const auto& a) { return a->freed; }));
  }
  map_ = std::move(map);
  return true;
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
  return map_;
}

std::shared_ptr<const AddressMap> DeviceMemory::snapshot() const {
  std::lock_guard lock(mutex_);
  return map_;
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
