// A sign of life during long work, on stderr: how far it is, and how long it will still take. Nothing is said
// about work that ends soon.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "tools/sagegen/output.h"

namespace sagegen::cli {

// "3 s", "2 min 5 s", "1 h 4 min".
std::string duration_text(double seconds);

// "emitting: 25 %, about 3 s left"; "emitting: 3 s so far" if nothing is known to be `done` (0 to 1).
std::string progress_line(const std::string& what, double done, double seconds);

// Where lines go, and how often.
struct ProgressSink {
  // One line is rewritten in place and taken away in the end. Otherwise each is a line of its own.
  bool terminal = false;
  std::chrono::milliseconds patience{1000};  // before the first line
  std::chrono::milliseconds interval{250};
  std::function<void(const std::string&)> write;
};

// Lives as long as the work, which `what` names in a few words. A thread of its own writes the lines, so that
// any thread may report, and work that cannot say how far it is is told of, too. Where no thread can be
// made, nothing is said.
class Progress {
 public:
  // On stderr as it is: a terminal, or a file where few lines are better. `output` outlives this.
  Progress(const Output& output, std::string what);
  Progress(ProgressSink sink, std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // How much of the work is done, from 0 to 1.
  void report(double done) { done_.store(done, std::memory_order_relaxed); }
  // The same for a part of the work that goes from `first` to `last` of the whole. Outlives nothing: it refers
  // to this object.
  std::function<void(double done)> stage(double first, double last);

 private:
  void write_until_ended();

  const std::string what_;
  const ProgressSink sink_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::atomic<double> done_{0};
  std::mutex mutex_;
  std::condition_variable ends_;
  bool ended_ = false;  // guarded by mutex_
  std::thread writer_;
};

// Of work that never reports.
using Heartbeat = Progress;

}  // namespace sagegen::cli
