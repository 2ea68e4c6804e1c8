// The emulated device's global memory: allocations at 64-bit emulated addresses, never host pointers.
//
// Memories that live at the same time have addresses of their own, so that a pointer of one device is a
// wild one on the other, as on a machine with several GPUs. A memory hands out no address twice, so a use
// after free is always told from a wild access, and allocations are surrounded by red zones. Every byte has a shadow that says whether it was ever
// written. Host calls (allocate, release, copies) may come from many threads; launches work on a
// snapshot of the address map, so a concurrent allocation or release never moves memory under them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace sagegen::emulator {

using Address = std::uint64_t;

// The generic address space. Shared and local addresses in their own spaces are offsets from the
// window; offset 0 of either is never valid, so null pointers fault. Global and constant addresses are
// equal to their generic ones.
inline constexpr Address kGlobalBase = 0x0000'7000'0000'0000;
inline constexpr Address kSharedWindow = 0x0000'0100'0000'0000;
inline constexpr Address kLocalWindow = 0x0000'0200'0000'0000;
inline constexpr Address kParamWindow = 0x0000'0300'0000'0000;
inline constexpr Address kWindowBytes = 0x0000'0000'0100'0000;  // of each window
inline constexpr Address kSharedStart =
    1024;  // first shared offset; the driver owns what lies below
inline constexpr Address kLocalStart = 256;
inline constexpr std::size_t kRedZone = std::size_t{1}
                                        << 20;  // between allocations; costs no memory
// Addresses are given to memories in ranges of this size, from kGlobalBase on.
inline constexpr Address kRangeBytes = Address{1} << 36;

struct Allocation {
  Address base = 0;
  std::size_t bytes = 0;
  std::uint8_t* data = nullptr;          // `bytes` long
  std::uint8_t* written = nullptr;       // shadow: 1 per byte that holds defined data
  bool freed = false;                    // data and written are null
  mutable bool assumed_defined = false;  // the shadow is to be set before anybody looks at it
  std::shared_ptr<void> storage;         // owns data and written

  Address end() const { return base + bytes; }
};

// The allocations at one moment, sorted by address. Freed ones stay for a while, to name them in reports.
class AddressMap {
 public:
  // The allocation that contains the address, live or freed; null in red zones and elsewhere.
  const Allocation* find(Address address) const;
  // The allocation closest to an address that find() does not know, for reports; may be null.
  const Allocation* nearest(Address address) const;
  const std::vector<std::shared_ptr<const Allocation>>& allocations() const { return allocations_; }

 private:
  friend class DeviceMemory;
  std::vector<std::shared_ptr<const Allocation>> allocations_;
};

class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t capacity_bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // A new allocation, undefined, aligned to 256 bytes. 0 if bytes is 0 or the capacity is exhausted.
  // It holds poison; zeros if it is huge, so that untouched pages cost nothing.
  Address allocate(std::size_t bytes);
  // False if the address is not the base of a live allocation.
  bool release(Address base);

  // Host access. An empty string, or a sentence that says why the range is not inside one live
  // allocation. write() and fill() make the bytes defined; what copy() copies is as defined as it was, and its ranges
  // do not overlap.
  std::string write(Address to, const void* from, std::size_t bytes);
  std::string read(void* to, Address from, std::size_t bytes) const;
  std::string fill(Address to, std::uint8_t value, std::size_t bytes);
  std::string copy(Address to, Address from, std::size_t bytes);
  // How many bytes of the range, which lies inside one live allocation, hold no defined data, and where
  // the first of them is.
  struct Undefined {
    std::size_t bytes = 0;
    Address first = 0;
  };
  Undefined undefined(Address from, std::size_t bytes) const;

  // Declares all live memory defined: what a launch without checks leaves behind.
  void assume_defined();

  // The shadows of the second are up to date.
  std::shared_ptr<const AddressMap> snapshot() const;
  std::shared_ptr<const AddressMap> snapshot_with_shadows();
  std::size_t capacity_bytes() const { return capacity_; }
  std::size_t used_bytes() const;
  // Work beyond the calls' own: entries of the address map that were copied, since somebody holds a
  // snapshot of it, or that were moved.
  std::uint64_t entries_moved() const;

 private:
  // The map, to be changed: a copy of it if there may be snapshots.
  AddressMap& own_map();
  void forget_oldest(AddressMap& map);
  std::string locate(Address address, std::size_t bytes, const Allocation** found) const;

  std::size_t capacity_;
  mutable std::mutex mutex_;
  std::size_t used_ = 0;
  std::vector<Address> ranges_;     // of kRangeBytes; the last one is in use
  Address next_ = 0;                // in it
  std::size_t freed_ = 0;           // entries of the map that are
  std::uint64_t moved_ = 0;         // see entries_moved()
  mutable bool snapshots_ = false;  // of map_ as it is
  std::shared_ptr<AddressMap> map_;
};

// "0x700000000010, 16 bytes past the end of the 256 bytes allocated at 0x700000000000", and the like.
std::string describe_address(const AddressMap& map, Address address);

}  // namespace sagegen::emulator
