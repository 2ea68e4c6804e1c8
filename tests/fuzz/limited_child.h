// Runs a piece of work in a child process with limits of time and memory, so that a test can tell a hang, a
// full stack and an emptied machine from a refusal.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace sagegen::fuzz {

struct ChildLimits {
  int cpu_seconds = 20;  // many times what the work needs
  std::size_t memory_bytes = std::size_t{1}
                             << 30;  // beyond what the parent has; not under sanitizers
};

struct ChildOutcome {
  enum class End {
    accepted,
    refused,        // the work returned a message
    out_of_memory,  // std::bad_alloc left the work: the limit of memory, or a size that nobody checked
    exception,      // another exception left the work
    cpu_limit,
    crashed,  // a signal: SIGSEGV is the stack's end more often than not
  };
  End end = End::crashed;
  std::string message;  // of the refusal, the exception or the signal
  double cpu_seconds = 0;
  std::size_t peak_bytes = 0;  // resident, the parent's share included
};

// `work` returns the message of a refusal, or an empty string. Throws std::runtime_error if there can be no
// child.
ChildOutcome run_limited(const ChildLimits& limits, const std::function<std::string()>& work);

// "the limit of CPU time, 20 s"
std::string to_string(ChildOutcome::End end, const ChildLimits& limits);

}  // namespace sagegen::fuzz
