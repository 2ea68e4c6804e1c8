// Which of several candidates is the fastest, from samples with noise: it says whom to time next, and takes the
// samples. It knows neither kernels nor clocks, so that the same race runs on a GPU, on counts of an emulator and on
// planted costs in a test; and since whom to time follows from the samples alone, a race that was cut off goes on where
// it was when they are recorded again.
//
// Rounds interleave the candidates, in another order each time, so that a clock that drifts is unfair to nobody, and
// what is compared are ratios to the default's sample of the same round. Of a candidate counts the median over its rounds:
// a mean follows outliers, and a minimum the luckiest moment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace sagegen::runtime {

struct RaceOptions {
  int first_rounds = 4;   // of all candidates; those beyond `drop` leave after the third
  int middle_rounds = 4;  // more of those that are within `middle_drop`
  int final_rounds = 16;  // more of the finalists
  double drop = 1.25;     // times the best
  double middle_drop = 1.08;
  int finalists = 4;  // of the best, at most
  // Those within it are equal, and the first of them in the list wins: the same every time.
  double tie = 0.005;
  // By which the winner has to beat the default; else the default stays.
  double margin = 0.02;
  // Of winner and default, until it is clear whether the margin is reached.
  int most_duel_rounds = 48;
};

class Race {
 public:
  // Candidates are numbered, in the order in which equal ones are preferred; `usual` is the default, which stays to the
  // end. Throws ArgumentError if there is no such candidate.
  Race(std::size_t candidates, std::size_t usual, const RaceOptions& options = {});

  // Whom to time now; none: the race is over.
  std::optional<std::size_t> next() const;
  // A sample of next(), in any unit of time. Throws ArgumentError of another candidate's, or one that is not positive
  // and finite.
  void record(double sample);
  // The candidate is out: it failed while it was timed. Without a default nothing can be compared: the race ends,
  // and winner() is the default.
  void remove(std::size_t candidate);

  struct Standing {
    std::size_t candidate = 0;
    std::size_t samples = 0;
    double ratio = 0;  // of its time to the default's; 0: no sample
    double time = 0;   // median of its samples
    bool removed = false;
  };
  std::vector<Standing> standings() const;  // the fastest first, removed ones last
  std::size_t winner() const;               // of a race that is over; until then the best guess
  std::size_t samples() const { return recorded_; }
  // How many more samples there will be, if all goes as now.
  std::size_t samples_left() const;

 private:
  struct Sample {
    int round;
    double value;
  };
  struct Runner {
    std::vector<Sample> samples;
    bool removed = false;
  };
  enum class Stage { first, middle, finals, duel, over };

  // To the default's, by rounds from this one on.
  std::vector<double> ratios(std::size_t candidate, int from = 0) const;
  double ratio(std::size_t candidate) const;
  double best_ratio() const;
  void begin_round();
  void end_round();
  void begin_stage(Stage stage);
  void keep_within(double factor);
  void keep_finalists();
  void settle();
  bool duel_is_clear() const;
  int rounds_of(Stage stage) const;

  RaceOptions options_;
  std::size_t usual_;
  std::vector<Runner> runners_;
  std::vector<std::size_t> field_;  // who runs in this stage, the default among them
  std::vector<std::size_t> order_;  // of this round
  std::size_t position_ = 0;        // in it
  Stage stage_ = Stage::first;
  int round_ = 0;  // of the race
  int rounds_in_stage_ = 0;
  int duel_begin_ = 0;  // its first round: those before chose the winner, and flatter it
  std::size_t recorded_ = 0;
  std::size_t winner_;
};

}  // namespace sagegen::runtime
