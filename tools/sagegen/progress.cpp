#include "tools/sagegen/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace sagegen::cli {
namespace {

constexpr const char* kEraseLine = "\r\x1b[K";

ProgressSink sink_of(const Output& output) {
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string_view(term) == "dumb";
  if (::isatty(STDERR_FILENO) == 1 && !dumb) {
    return {.terminal = true, .write = [](const std::string& text) {
              std::fwrite(text.data(), 1, text.size(), stderr);
              std::fflush(stderr);
            }};
  }
  return {.patience = std::chrono::seconds(2),
          .interval = std::chrono::seconds(5),
          .write = [&output](const std::string& line) { output.progress(line); }};
}

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<long long>(std::ceil(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string progress_line(const std::string& what, double done, double seconds) {
  if (!(done > 0 && done <= 1))
    return fmt::format("{}: {} so far", what, duration_text(std::floor(seconds)));
  return fmt::format("{}: {:.0f} %, about {} left", what, 100 * done,
                     duration_text(seconds / done * (1 - done)));
}

Progress::Progress(const Output& output, std::string what)
    : Progress(sink_of(output), std::move(what)) {}

Progress::Progress(ProgressSink sink, std::string what)
    : what_(std::move(what)), sink_(std::move(sink)) {
  try {
    writer_ = std::thread([this] { write_until_ended(); });
  } catch (const std::system_error&) {  // no thread to be had: silence is no failure
  }
}

Progress::~Progress() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ends_.notify_one();
  if (writer_.joinable()) writer_.join();
}

std::function<void(double)> Progress::stage(double first, double last) {
  return [this, first, last](double done) { report(first + (last - first) * done); };
}

void Progress::write_until_ended() {
  bool said = false;
  std::unique_lock lock(mutex_);
  auto next = begin_ + sink_.patience;
  while (!ends_.wait_until(lock, next, [this] { return ended_; })) {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    const std::string line = progress_line(what_, done_.load(std::memory_order_relaxed), seconds);
    sink_.write(sink_.terminal ? kEraseLine + line : line);
    said = true;
    next += sink_.interval;
  }
  if (said && sink_.terminal) sink_.write(kEraseLine);
}

}  // namespace sagegen::cli
