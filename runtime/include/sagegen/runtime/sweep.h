// A sweep over the schedules of one kernel for one problem: each is checked once, then those that passed race. It says
// what to do next and takes what came of it; who compiles, runs and times is the caller's affair.
//
// Every result is a line of a journal that is on the disk before the next step begins. What to do follows from the
// journal alone, so that a sweep that was stopped, killed or cut off by a power failure goes on where it was and
// repeats nothing.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sagegen/runtime/race.h"

namespace sagegen::runtime {

// What became of a candidate before it was timed, or while it was.
enum class Outcome {
  passed,   // its result is right
  pruned,   // not run: what it needs, spills or is predicted to take rules it out
  refused,  // the generator or the driver does not compile it
  wrong,    // its result is not that of the reference
  faulted,  // it ended with an error of the device, or ended the process
  hung,     // it did not end
};
std::string_view to_string(Outcome outcome);

struct Trial {
  Outcome outcome = Outcome::passed;
  std::string reason;  // empty if it passed
};

struct SweepStep {
  enum class Kind { check, sample };
  Kind kind = Kind::check;
  std::size_t candidate = 0;
};

class Sweep {
 public:
  // Goes on with the journal, if there is one. subject: all that the results depend on, device and problem, as one
  // text. schedules: words that name the candidates, in the order in which equal ones are preferred; `usual` is the
  // default. Throws CacheError, also while another process has the journal, ArgumentError of a journal of another subject, and ArtifactError of one that is none;
  // what was cut off at its end is dropped.
  Sweep(const std::filesystem::path& journal, const std::string& subject,
        std::vector<std::string> schedules, std::size_t usual, const RaceOptions& options = {});
  ~Sweep();

  // None: the sweep is over.
  std::optional<SweepStep> next() const;
  // Before a check that may take the process or the machine with it. One that had begun and never ended in three lives
  // of the process is told as faulted.
  void begin(std::size_t candidate);
  // Of a check; or of a candidate that failed while it was timed, which takes it out of the race.
  void checked(std::size_t candidate, const Trial& trial);
  void sampled(double time);  // of next()
  // The process ends on purpose: what had begun is no failure.
  void rest();

  const std::filesystem::path& journal() const { return journal_; }
  const std::vector<std::string>& schedules() const { return schedules_; }
  std::size_t usual() const { return usual_; }
  const std::optional<Trial>& trial(std::size_t candidate) const { return trials_[candidate]; }
  std::size_t checks_left() const;
  // Candidates by their number in the race.
  const std::vector<std::size_t>& racing() const { return racing_; }
  const Race* race() const { return race_ ? &*race_ : nullptr; }  // null until all are checked

 private:
  std::size_t replay(const std::string& text, const std::string& subject);  // bytes of whole lines
  void apply(std::string_view line);
  void write(const std::string& line);
  void start_race();
  std::size_t candidate_of(std::string_view schedule) const;

  std::filesystem::path journal_;
  std::vector<std::string> schedules_;
  std::size_t usual_;
  RaceOptions options_;
  std::vector<std::optional<Trial>> trials_;
  std::vector<int> begun_;  // how often a check began that has no end
  std::vector<std::size_t> racing_;
  std::optional<Race> race_;
  class Log;
  std::unique_ptr<Log> log_;
};

}  // namespace sagegen::runtime
