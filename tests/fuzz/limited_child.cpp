#include "tests/fuzz/limited_child.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>
#include <stdexcept>

namespace sagegen::fuzz {
namespace {

#if defined(__has_feature)  // of clang
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SAGEGEN_TEST_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SAGEGEN_TEST_SANITIZED)
constexpr bool kSanitized = true;  // shadow memory takes address space, and checks take time
#else
constexpr bool kSanitized = false;
#endif

enum Exit { kAccepted = 0, kRefused = 10, kOutOfMemory = 11, kException = 12 };

std::size_t address_space_in_use() {
  std::ifstream file("/proc/self/statm");
  std::size_t pages = 0;
  file >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

void limit(int resource, rlim_t soft, rlim_t hard) {
  const rlimit value{.rlim_cur = soft, .rlim_max = hard};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &value) != 0) _exit(kException);
}

void say(int pipe, const std::string& message) {
  std::size_t at = 0;
  while (at < message.size()) {
    const ssize_t written = write(pipe, message.data() + at, message.size() - at);
    if (written <= 0) return;
    at += static_cast<std::size_t>(written);
  }
}

[[noreturn]] void child(const ChildLimits& limits, const std::function<std::string()>& work,
                        int pipe) {
  const auto seconds = static_cast<rlim_t>(limits.cpu_seconds) * (kSanitized ? 10 : 1);
  limit(RLIMIT_CORE, 0, 0);
  limit(RLIMIT_CPU, seconds, seconds + 5);
  if (!kSanitized) {
    const rlim_t bytes = address_space_in_use() + limits.memory_bytes;
    limit(RLIMIT_AS, bytes, bytes);
  }
  // Catch2's handlers would report a test of the parent.
  for (const int number : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGBUS, SIGTERM})
    signal(number, SIG_DFL);
  int code = kAccepted;
  try {
    const std::string refusal = work();
    if (!refusal.empty()) {
      code = kRefused;
      say(pipe, refusal);
    }
  } catch (const std::bad_alloc&) {
    code = kOutOfMemory;
  } catch (const std::exception& error) {
    code = kException;
    say(pipe, error.what());
  }
  _exit(code);  // without the parent's destructors and buffers
}

}  // namespace

ChildOutcome run_limited(const ChildLimits& limits, const std::function<std::string()>& work) {
  int ends[2];
  std::fflush(nullptr);
  if (pipe(ends) != 0) throw std::runtime_error(std::string("pipe: ") + std::strerror(errno));
  const pid_t id = fork();
  if (id < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
  if (id == 0) {
    close(ends[0]);
    child(limits, work, ends[1]);
  }
  close(ends[1]);
  ChildOutcome outcome;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;) {
    outcome.message.append(buffer, static_cast<std::size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  rusage usage{};
  if (wait4(id, &status, 0, &usage) != id)
    throw std::runtime_error("the child cannot be waited for");
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  outcome.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  outcome.peak_bytes = static_cast<std::size_t>(usage.ru_maxrss) * 1024;
  using End = ChildOutcome::End;
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    outcome.end = number == SIGXCPU || number == SIGKILL ? End::cpu_limit : End::crashed;
    outcome.message = strsignal(number);
  } else {
    const int code = WEXITSTATUS(status);
    outcome.end = code == kAccepted      ? End::accepted
                  : code == kRefused     ? End::refused
                  : code == kOutOfMemory ? End::out_of_memory
                  : code == kException   ? End::exception
                                         : End::crashed;  // a sanitizer's exit
  }
  return outcome;
}

std::string to_string(ChildOutcome::End end, const ChildLimits& limits) {
  switch (end) {
    case ChildOutcome::End::accepted:
      return "accepted";
    case ChildOutcome::End::refused:
      return "refused";
    case ChildOutcome::End::out_of_memory:
      return fmt::format("the limit of memory, {} MB", limits.memory_bytes >> 20);
    case ChildOutcome::End::exception:
      return "an exception that is no refusal";
    case ChildOutcome::End::cpu_limit:
      return fmt::format("the limit of CPU time, {} s", limits.cpu_seconds);
    case ChildOutcome::End::crashed:
      return "a crash";
  }
  return {};
}

}  // namespace sagegen::fuzz
