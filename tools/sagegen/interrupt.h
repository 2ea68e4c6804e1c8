// Ctrl-C ends an emulated launch with a finding that says where it was, instead of ending the tool.
#pragma once

#include <atomic>
#include <csignal>
#include <memory>

namespace sagegen::cli {

// For EmulatorOptions::interrupt: set by the first SIGINT while an InterruptScope lives.
std::shared_ptr<const std::atomic<bool>> interrupt_flag();

// Sets it, as that signal does; for handlers of others.
void interrupt();

// Whether it was set.
bool was_interrupted();

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
