#include "tools/sagegen/progress.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace sagegen::cli {
namespace {

constexpr const char* kEraseLine = "\r\x1b[K";

std::atomic<bool> silent = false;

std::string duration(double seconds) {
  const auto whole = static_cast<long long>(seconds + 0.5);
  if (whole < 100) return fmt::format("{} s", whole);
  if (whole < 100 * 60) return fmt::format("{} min", (whole + 30) / 60);
  return fmt::format("{} h", (whole + 1800) / 3600);
}

}  // namespace

std::string progress_line(const std::string& what, std::uint64_t done, std::uint64_t total,
                          double seconds) {
  if (total == 0) return fmt::format("{}: {}", what, duration(seconds));
  std::string line = fmt::format("{}: {} of {}", what, done, total);
  if (done == 0 || done > total) return line;  // nothing to extrapolate from
  const double left = seconds * static_cast<double>(total - done) / static_cast<double>(done);
  return line + fmt::format(", {} left", duration(left));
}

void silence_progress() { silent = true; }
bool is_silent() { return silent; }

ProgressSink progress_on_stderr() {
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string_view(term) == "dumb";
  ProgressSink sink;
  sink.terminal = ::isatty(STDERR_FILENO) == 1 && !dumb;
  if (!sink.terminal) {
    sink.patience = std::chrono::seconds(2);
    sink.interval = std::chrono::seconds(10);
  }
  sink.write = [](const std::string& text) {
    if (is_silent()) return;
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  };
  return sink;
}

Progress::Progress(std::string what, std::uint64_t total, ProgressSink sink)
    : Progress(
          std::move(what),
          [this, total] {
            return Steps{done_.load(std::memory_order_relaxed), total};
          },
          std::move(sink)) {}

Progress::Progress(std::string what, std::function<Steps()> steps, ProgressSink sink)
    : what_(std::move(what)), steps_(std::move(steps)), sink_(std::move(sink)) {
  try {
    reporter_ = std::thread([this] { report_until_ended(); });
  } catch (const std::system_error&) {  // no thread: the work goes on in silence
  }
}

Progress::~Progress() {
  if (!reporter_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  reporter_.join();
}

void Progress::report_until_ended() {
  bool said = false;
  std::unique_lock lock(mutex_);
  auto next = begin_ + sink_.patience;
  while (!changed_.wait_until(lock, next, [this] { return ended_; })) {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    try {
      const Steps steps = steps_();
      const std::string line = progress_line(what_, steps.done, steps.total, seconds);
      sink_.write(sink_.terminal ? kEraseLine + line : line + "\n");
      said = true;
    } catch (const std::bad_alloc&) {  // no memory for a line: the work may still get on
    }
    next += sink_.interval;
  }
  if (said && sink_.terminal) sink_.write(kEraseLine);
}

}  // namespace sagegen::cli
