// A sign of life during long work: how far it is, and when it will end. Nothing is said about work that
// ends soon.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace sagegen::cli {

// "emitting: 12 of 98, 3 s left", or without a total "running: 12 s". `seconds` have passed since the start.
std::string progress_line(const std::string& what, std::uint64_t done, std::uint64_t total,
                          double seconds);

// From now on nothing is said of work, here and by Output::progress(): --quiet.
void silence_progress();
bool is_silent();

// Where lines go, and how often.
struct ProgressSink {
  // One line is rewritten in place and taken away in the end. Otherwise each is a line of its own.
  bool terminal = false;
  std::chrono::milliseconds patience{1000};  // before the first line
  std::chrono::milliseconds interval{250};
  std::function<void(const std::string&)> write;
};

// stderr, as it is: a terminal, or a file where few lines are better.
ProgressSink progress_on_stderr();

// How many steps the work has, 0 if nobody knows, and how many are done.
struct Steps {
  std::uint64_t done = 0, total = 0;
};

// Lives as long as the work. A thread of its own writes the lines, so advance() may be called by many
// threads, and work that cannot count its steps is told of, too. Where no thread can be made, nothing is
// said.
class Progress {
 public:
  // `what` names the work in a few words; `total` counts its steps, 0 if nobody knows them.
  Progress(std::string what, std::uint64_t total, ProgressSink sink = progress_on_stderr());
  // For work that counts its steps itself; `steps` is called from another thread.
  Progress(std::string what, std::function<Steps()> steps,
           ProgressSink sink = progress_on_stderr());
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(std::uint64_t steps = 1) { done_.fetch_add(steps, std::memory_order_relaxed); }

 private:
  void report_until_ended();

  const std::string what_;
  const std::function<Steps()> steps_;
  const ProgressSink sink_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::atomic<std::uint64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;  // guarded by mutex_
  std::thread reporter_;
};

}  // namespace sagegen::cli
