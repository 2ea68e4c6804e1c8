#include "tools/sagegen/tune_worker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tools/sagegen/app.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/interrupt.h"

namespace sagegen::cli {
namespace {

constexpr int kFresh = 75, kOrphaned = 76;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

volatile std::sig_atomic_t child_to_tell = 0;

// By SIGTERM, whatever it was: Ctrl-C sends SIGINT to both processes, and a second one ends the child.
void tell_child(int number) {
  interrupt(number);
  if (child_to_tell > 0) kill(static_cast<pid_t>(child_to_tell), SIGTERM);
}

// What is ignored, as with nohup, stays so. Returns what was before.
struct sigaction handle(int number, void (*handler)(int)) {
  struct sigaction action = {}, before = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(number, &action, &before);
  if (before.sa_handler == SIG_IGN) sigaction(number, &before, nullptr);
  return before;
}

// The parent hands on what ends processes, and waits for the child's end.
class HandOnSignals {
 public:
  HandOnSignals() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) before_[i] = handle(kSignals[i], tell_child);
  }
  ~HandOnSignals() { restore(); }
  void restore() {
    if (!std::exchange(active_, false)) return;
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  }

 private:
  static constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, kSignals.size()> before_ = {};
  bool active_ = true;
};

void become_child(HandOnSignals& signals, pid_t parent) {
  child_to_tell = 0;
  signals.restore();
  for (const int number : {SIGTERM, SIGHUP}) handle(number, interrupt);  // SIGINT: InterruptScope
  end_by_exit_code();
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kOrphaned);  // it ended before that was asked for
}

struct Ending {
  std::string step;  // that it was in
  bool hung = false;
  int status = 0;  // of waitpid
};

// Steps come as lines.
Ending follow(int pipe, pid_t child, std::chrono::milliseconds patience) {
  Ending ending;
  std::string text;
  // In short waits: while both processes are stopped, no time passes here.
  constexpr std::chrono::milliseconds kWait(200);
  std::chrono::milliseconds waited(0);
  for (;;) {
    pollfd watched{.fd = pipe, .events = POLLIN, .revents = 0};
    const auto wait = std::min(kWait, patience - waited);
    const int ready = poll(&watched, 1, ending.step.empty() ? -1 : static_cast<int>(wait.count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0 && (waited += wait) < patience) continue;
    if (ready == 0) {
      ending.hung = true;
      kill(child, SIGKILL);
      break;
    }
    char block[512];
    const ssize_t got = read(pipe, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;  // it has ended
    waited = std::chrono::milliseconds(0);
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
  HandOnSignals signals;
  const pid_t parent = getpid();
  constexpr int kMostBlameless = 3;
  int deaths = 0, blameless = 0;
  for (;; ++watched.children_before) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) fail("pipe");
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
      become_child(signals, parent);
      close(ends[0]);
      watched.is_child = true;
      watched.heart = Heart(ends[1]);
      return watched;
    }
    child_to_tell = child;
    if (was_interrupted()) kill(child, SIGTERM);  // since it was made; before, it knows
    close(ends[1]);
    const Ending ending = follow(ends[0], child, patience);
    child_to_tell = 0;
    close(ends[0]);
    watched.death.reset();
    if (!ending.hung && WIFEXITED(ending.status)) {
      watched.exit_status = WEXITSTATUS(ending.status);
      if (watched.exit_status == static_cast<int>(Exit::interrupted)) interrupt(SIGINT);
      if (watched.exit_status != kFresh) return watched;
      if (was_interrupted()) throw Interrupted("the same command goes on from here");
      continue;
    }
    const std::string reason = death_of(ending, patience).trial.reason;
    // The user's second Ctrl-C, or somebody's kill, is no fault of a candidate.
    const int number = ending.hung ? SIGKILL : WTERMSIG(ending.status);
    if (number == SIGINT || number == SIGTERM || was_interrupted()) {
      interrupt(number);
      throw Interrupted(fmt::format("{}; the same command goes on from here", reason));
    }
    blameless += ending.step.empty() ? 1 : 0;
    if (++deaths > most_deaths || blameless >= kMostBlameless) {
      throw InternalError(
          fmt::format("{}, and so did {} before it; no other is started", reason, deaths - 1));
    }
    if (!ending.step.empty()) watched.death = death_of(ending, patience);
  }
}

}  // namespace sagegen::cli
