#include "tools/sagegen/interrupt.h"

namespace sagegen::cli {
namespace {

std::atomic<bool> interrupted = false;
std::atomic<int> first_signal = 0;
bool by_exit_code = false;
// So that a signal handler may set them.
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

}  // namespace

std::shared_ptr<const std::atomic<bool>> interrupt_flag() {
  return {&interrupted, [](const std::atomic<bool>*) {}};
}

void interrupt(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal, std::memory_order_relaxed);
  interrupted.store(true, std::memory_order_relaxed);
}

void end_by_exit_code() { by_exit_code = true; }

int signal_to_end_by() { return by_exit_code ? 0 : first_signal.load(std::memory_order_relaxed); }

bool was_interrupted() { return interrupted.load(std::memory_order_relaxed); }

InterruptScope::InterruptScope() {
  struct sigaction once = {};
  once.sa_handler = interrupt;
  once.sa_flags = SA_RESETHAND;
  sigaction(SIGINT, &once, &before_);
  if (before_.sa_handler == SIG_IGN) sigaction(SIGINT, &before_, nullptr);  // as with nohup
}

InterruptScope::~InterruptScope() { sigaction(SIGINT, &before_, nullptr); }

}  // namespace sagegen::cli
