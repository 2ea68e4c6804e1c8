#include "tools/reference/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace sagegen::reference {

void parallel_for(std::int64_t count, int threads, const std::function<void(std::int64_t)>& work) {
  const std::int64_t machine = std::max(1u, std::thread::hardware_concurrency());
  const std::int64_t workers = std::min<std::int64_t>(threads > 0 ? threads : machine, count);
  std::atomic<std::int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto loop = [&] {
    try {
      for (std::int64_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> pool;
    try {
      for (std::int64_t i = 1; i < workers; ++i) pool.emplace_back(loop);
    } catch (const std::system_error&) {  // a limit of processes: fewer threads do it all
    } catch (const std::bad_alloc&) {     // no memory for one more thread: likewise
    }
    loop();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace sagegen::reference
