#include "tools/sagegen/interrupt.h"

namespace sagegen::cli {
namespace {

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);  // so that a signal handler may set it

void set_interrupted(int) { interrupted.store(true, std::memory_order_relaxed); }

}  // namespace

std::shared_ptr<const std::atomic<bool>> interrupt_flag() {
  return {&interrupted, [](const std::atomic<bool>*) {}};
}

void interrupt() { set_interrupted(0); }

bool was_interrupted() { return interrupted.load(std::memory_order_relaxed); }

InterruptScope::InterruptScope() {
  struct sigaction once = {};
  once.sa_handler = set_interrupted;
  once.sa_flags = SA_RESETHAND;
  sigaction(SIGINT, &once, &before_);
  if (before_.sa_handler == SIG_IGN) sigaction(SIGINT, &before_, nullptr);  // as with nohup
}

InterruptScope::~InterruptScope() { sigaction(SIGINT, &before_, nullptr); }

}  // namespace sagegen::cli
