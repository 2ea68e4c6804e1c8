#include "runtime/emulator/device/thread_state.h"

#include <deque>

namespace sagegen::emulator {
namespace {

struct Entry {
  std::weak_ptr<const DriverIdentity> driver;
  ThreadState state;
};

}  // namespace

ThreadState& thread_state(const std::shared_ptr<const DriverIdentity>& driver) {
  // The driver API defines a current context per thread, so this state cannot be anywhere else.
  thread_local std::deque<Entry> entries;
  const auto is_this = [&](const Entry& entry) {
    return !entry.driver.owner_before(driver) && !driver.owner_before(entry.driver);
  };
  for (Entry& entry : entries) {
    if (is_this(entry)) return entry.state;
  }
  std::erase_if(entries, [](const Entry& entry) { return entry.driver.expired(); });
  return entries.emplace_back(Entry{.driver = driver, .state = {}}).state;
}

}  // namespace sagegen::emulator
