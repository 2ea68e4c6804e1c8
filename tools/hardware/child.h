// Work on a device in a process of its own: a kernel that faults leaves its process without a
// usable device, and one that hangs never lets it go.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <functional>
#include <new>
#include <system_error>

namespace sagegen::hardware {

// A value that children share with the parent that made it.
template <typename T>
class Shared {
 public:
  Shared()
      : memory_(
            mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) {
      throw std::system_error(errno, std::generic_category(), "no memory to share");
    }
    value_ = new (memory_) T;
  }
  ~Shared() { munmap(memory_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }

 private:
  void* memory_;
  T* value_;
};

struct ChildEnd {
  enum class How {
    exited,     // code: what `work` returned
    signalled,  // code: the signal
    too_slow,   // ended by the parent
  } how = How::exited;
  int code = 0;
};

// Runs `work`, which must not throw, in a child, and waits for its end. The child is ended if
// `step`, which it shares, stays as it is for longer than `patience`, and if the parent dies.
ChildEnd run_in_child(const std::function<int()>& work, const std::atomic<std::size_t>& step,
                      std::chrono::milliseconds patience);

}  // namespace sagegen::hardware
