// Work that may crash or hang is done by a child, and a parent that touches no device watches it.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "sagegen/runtime/sweep.h"

namespace sagegen::cli {

// What became of a child before this one: which step it was in, and how it ended.
struct Death {
  std::string step;
  runtime::Trial trial;
};

// In the child: tells the parent which step begins.
class Heart {
 public:
  explicit Heart(int pipe) : pipe_(pipe) {}
  // A step that takes longer than the parent waits is the child's last. Empty: none, and the wait has no end.
  void beat(const std::string& step) const;

 private:
  int pipe_;
};

// The exit status of a child that wants to be replaced by a fresh one, because its device is of no use any more.
[[noreturn]] void end_for_a_fresh_child();

struct Watched {
  bool is_child = false;
  Heart heart{-1};  // of a child
  int children_before = 0;
  std::optional<Death> death;  // what the one before died of, if it was in a step
  int exit_status = 0;         // of the last child, in the parent
};
// Returns in the child, which does the work and ends the process as usual; and in the parent, when a child has ended by
// itself and has said all. SIGTERM, SIGHUP and SIGINT interrupt() the parent and the child, which then ends in good order;
// without its parent a child ends at once. Before any thread and any driver is started. Throws InternalError after so many
// deaths, or three that were in no step, Interrupted where a signal ended the child, and std::system_error.
Watched watch(std::chrono::milliseconds patience, int most_deaths);

}  // namespace sagegen::cli
