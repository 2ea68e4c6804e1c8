#include "tools/sagegen/tune_worker.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include <fmt/format.h>

#include "tools/sagegen/app.h"

namespace sagegen::cli {
namespace {

constexpr int kFresh = 75;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// The parent leaves SIGINT to the child, which stops in good order.
class IgnoreInterrupts {
 public:
  IgnoreInterrupts() {
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGINT, &ignore, &before_);
  }
  ~IgnoreInterrupts() { restore(); }
  void restore() const { sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ = {};
};

struct Ending {
  std::string step;  // that it was in
  bool hung = false;
  int status = 0;  // of waitpid
};

// Steps come as lines.
Ending follow(int pipe, pid_t child, std::chrono::milliseconds patience) {
  Ending ending;
  std::string text;
  for (;;) {
    pollfd watched{.fd = pipe, .events = POLLIN, .revents = 0};
    const int wait = ending.step.empty() ? -1 : static_cast<int>(patience.count());
    const int ready = poll(&watched, 1, wait);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) {
      ending.hung = true;
      kill(child, SIGKILL);
      break;
    }
    char block[512];
    const ssize_t got = read(pipe, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;  // it has ended
    text.append(block, static_cast<std::size_t>(got));
    const std::size_t end = text.rfind('\n');
    if (end == std::string::npos) continue;
    const std::size_t begin = end == 0 ? std::string::npos : text.rfind('\n', end - 1);
    ending.step = text.substr(begin == std::string::npos ? 0 : begin + 1,
                              end - (begin == std::string::npos ? 0 : begin + 1));
    text.erase(0, end + 1);
  }
  while (waitpid(child, &ending.status, 0) < 0 && errno == EINTR) {
  }
  return ending;
}

Death death_of(const Ending& ending, std::chrono::milliseconds patience) {
  using runtime::Outcome;
  if (ending.hung) {
    return {ending.step,
            {Outcome::hung, fmt::format("no end in {} s; the process was killed",
                                        static_cast<double>(patience.count()) / 1000)}};
  }
  const int signal = WTERMSIG(ending.status);
  return {ending.step,
          {Outcome::faulted,
           fmt::format("the process ended by signal {} ({})", signal, strsignal(signal))}};
}

}  // namespace

void Heart::beat(const std::string& step) const {
  const std::string line = step + "\n";
  // Without a parent nobody is interested.
  (void)!write(pipe_, line.data(), line.size());
}

void end_for_a_fresh_child() {
  std::fflush(nullptr);
  _exit(kFresh);
}

Watched watch(std::chrono::milliseconds patience, int most_deaths) {
  Watched watched;
  const IgnoreInterrupts ignore;
  constexpr int kMostBlameless = 3;
  int deaths = 0, blameless = 0;
  for (;; ++watched.children_before) {
    int ends[2];
    if (pipe(ends) != 0) fail("pipe");
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
      ignore.restore();
      signal(SIGPIPE, SIG_IGN);
      close(ends[0]);
      watched.is_child = true;
      watched.heart = Heart(ends[1]);
      return watched;
    }
    close(ends[1]);
    const Ending ending = follow(ends[0], child, patience);
    close(ends[0]);
    watched.death.reset();
    if (!ending.hung && WIFEXITED(ending.status)) {
      watched.exit_status = WEXITSTATUS(ending.status);
      if (watched.exit_status != kFresh) return watched;
      continue;
    }
    // The user's second Ctrl-C, or somebody's kill, is no fault of a candidate.
    const bool asked =
        !ending.hung && (WTERMSIG(ending.status) == SIGINT || WTERMSIG(ending.status) == SIGTERM);
    blameless += ending.step.empty() ? 1 : 0;
    if (asked || ++deaths > most_deaths || blameless >= kMostBlameless) {
      watched.exit_status = static_cast<int>(asked ? Exit::check_failed : Exit::internal);
      if (!asked) {
        std::fputs(fmt::format("sagegen: {}\n", death_of(ending, patience).trial.reason).c_str(),
                   stderr);
      }
      return watched;
    }
    if (!ending.step.empty()) watched.death = death_of(ending, patience);
  }
}

}  // namespace sagegen::cli
