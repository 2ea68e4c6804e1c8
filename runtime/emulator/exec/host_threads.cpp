#include "runtime/emulator/exec/host_threads.h"

#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace sagegen::emulator {

void run_on_threads(std::uint32_t threads, const std::function<void()>& work) {
  std::mutex mutex;
  std::exception_ptr broken;  // out of memory, most likely
  const auto guarded = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard lock(mutex);
      broken = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;  // joined at the end of the block, whatever happens
    try {
      for (std::uint32_t i = 1; i < threads; ++i) others.emplace_back(guarded);
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
    guarded();
  }
  if (broken) std::rethrow_exception(broken);
}

}  // namespace sagegen::emulator
