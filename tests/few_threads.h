// A process that can make only so many more threads, as below a limit of processes, which does not bind
// root: stacks of new threads are made huge, and the address space has room for that many of them. What
// fails is the system's own pthread_create.
#pragma once

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <stdexcept>

namespace sagegen::test {

// Until it is destroyed, not more than `count` threads exist beside those that there are.
class FewThreads {
 public:
  explicit FewThreads(unsigned count) {
    pthread_attr_init(&attributes_);
    if (pthread_getattr_default_np(&attributes_) != 0 || getrlimit(RLIMIT_AS, &limit_) != 0) {
      throw std::runtime_error("cannot read the limits of this process");
    }
    std::size_t stack = 0;
    pthread_attr_getstacksize(&attributes_, &stack);
    rlimit low = limit_;
    low.rlim_cur = used_bytes() + count * kStack + kStack / 2;
    if (!set_stack(kStack) || setrlimit(RLIMIT_AS, &low) != 0) {
      throw std::runtime_error("cannot limit the address space of this process");
    }
    stack_ = stack;
  }
  ~FewThreads() {
    setrlimit(RLIMIT_AS, &limit_);
    set_stack(stack_);
    pthread_attr_destroy(&attributes_);
  }
  FewThreads(const FewThreads&) = delete;
  FewThreads& operator=(const FewThreads&) = delete;

 private:
  static constexpr std::size_t kStack = std::size_t{512} << 20;  // half of it: arenas of malloc

  bool set_stack(std::size_t bytes) {
    return pthread_attr_setstacksize(&attributes_, bytes) == 0 &&
           pthread_setattr_default_np(&attributes_) == 0;
  }

  // Address space in use (proc(5), statm).
  static std::size_t used_bytes() {
    unsigned long pages = 0;
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    if (file == nullptr || std::fscanf(file, "%lu", &pages) != 1) {
      throw std::runtime_error("cannot read /proc/self/statm");
    }
    std::fclose(file);
    return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  }

  pthread_attr_t attributes_;
  std::size_t stack_ = 0;
  rlimit limit_{};
};

}  // namespace sagegen::test
