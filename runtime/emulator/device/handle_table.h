// Driver handles for shared objects. A handle is a number that is never used again, so a stale or forged
// one is recognized instead of being followed.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>

namespace sagegen::emulator {

template <typename Handle, typename Object>
class HandleTable {
 public:
  Handle add(std::shared_ptr<Object> object) {
    next_ += kStep;
    objects_.emplace(next_, std::move(object));
    return reinterpret_cast<Handle>(next_);
  }
  // Null if the handle is unknown or removed.
  std::shared_ptr<Object> find(Handle handle) const {
    const auto found = objects_.find(reinterpret_cast<std::uintptr_t>(handle));
    return found == objects_.end() ? nullptr : found->second;
  }
  // False if the handle is unknown or removed before.
  bool remove(Handle handle) {
    return objects_.erase(reinterpret_cast<std::uintptr_t>(handle)) == 1;
  }
  template <typename Predicate>
  void remove_if(Predicate predicate) {
    std::erase_if(objects_, [&](const auto& entry) { return predicate(*entry.second); });
  }

 private:
  static constexpr std::uintptr_t kStep = 16;  // looks like an aligned pointer in a debugger
  std::uintptr_t next_ = 0x1000;
  std::unordered_map<std::uintptr_t, std::shared_ptr<Object>> objects_;
};

}  // namespace sagegen::emulator
