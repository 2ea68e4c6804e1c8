// Ctrl-C ends an emulated launch with a finding that says where it was, instead of ending the tool. When all has been said,
// the tool ends by the signal all the same: a script or loop around it ends only if it sees that.
#pragma once

#include <atomic>
#include <csignal>
#include <memory>

namespace sagegen::cli {

// For EmulatorOptions::interrupt: set by the first SIGINT while an InterruptScope lives.
std::shared_ptr<const std::atomic<bool>> interrupt_flag();

// Sets it, as that signal does; for handlers, of others too. Of several signals the first one counts.
void interrupt(int signal);

// Whether it was set.
bool was_interrupted();

// Of a child: its exit code says that it was interrupted, and its parent ends by the signal.
void end_by_exit_code();
// The signal that this process has to end by when all has been said; 0: none.
int signal_to_end_by();

// A second SIGINT does what it did before: usually it ends the process.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  struct sigaction before_ = {};
};

}  // namespace sagegen::cli
