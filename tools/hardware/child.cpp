#include "tools/hardware/child.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <thread>

namespace sagegen::hardware {

ChildEnd run_in_child(const std::function<int()>& work, const std::atomic<std::size_t>& step,
                      std::chrono::milliseconds patience) {
  using Clock = std::chrono::steady_clock;
  std::fflush(nullptr);  // or both processes write what is buffered
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) {
    throw std::system_error(errno, std::generic_category(), "cannot start a process");
  }
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int code = getppid() == parent ? work() : 1;
    std::fflush(nullptr);
    _exit(code);
  }
  std::size_t seen = step;
  auto since = Clock::now();
  bool too_slow = false;
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child && WIFEXITED(status)) {
      return {ChildEnd::How::exited, WEXITSTATUS(status)};
    }
    if (ended == child) {
      return {too_slow ? ChildEnd::How::too_slow : ChildEnd::How::signalled, WTERMSIG(status)};
    }
    if (ended < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "lost a child process");
    }
    if (step != seen) {
      seen = step;
      since = Clock::now();
    } else if (Clock::now() - since > patience) {
      too_slow = true;
      kill(child, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace sagegen::hardware
