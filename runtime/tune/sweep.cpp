#include "sagegen/runtime/sweep.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "runtime/tune/durable_file.h"
#include "runtime/tune/text_fields.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

constexpr std::string_view kHead = "sagegen.sweep\t1";
constexpr std::array<std::string_view, 6> kOutcomes{"passed", "pruned",  "refused",
                                                    "wrong",  "faulted", "hung"};
constexpr int kLives = 3;

// Every line ends with the sum of what is before it.
std::string sealed(const std::string& line) {
  return fmt::format("{}\t{}\n", line, sum_text(line));
}
std::optional<std::string_view> unsealed(std::string_view line) {
  const std::size_t at = line.rfind('\t');
  if (at == std::string_view::npos || line.substr(at + 1) != sum_text(line.substr(0, at)))
    return std::nullopt;
  return line.substr(0, at);
}

// Not the subject alone: numbers of candidates have to mean the same, too.
std::string head_line(const std::string& subject, const std::vector<std::string>& schedules,
                      std::size_t usual) {
  std::string all;
  for (const std::string& schedule : schedules) all += schedule + "\n";
  return fmt::format("{}\t{}\t{}\t{}", kHead, escaped(subject), schedules[usual], sum_text(all));
}

}  // namespace

std::string_view to_string(Outcome outcome) { return kOutcomes[static_cast<std::size_t>(outcome)]; }

class Sweep::Log : public DurableLog {
 public:
  using DurableLog::DurableLog;
};

Sweep::Sweep(const std::filesystem::path& journal, const std::string& subject,
             std::vector<std::string> schedules, std::size_t usual, const RaceOptions& options)
    : journal_(journal),
      schedules_(std::move(schedules)),
      usual_(usual),
      options_(options),
      trials_(schedules_.size()),
      begun_(schedules_.size()) {
  if (usual_ >= schedules_.size()) {
    throw ArgumentError(fmt::format("a sweep over {} schedules has no default of number {}",
                                    schedules_.size(), usual_));
  }
  log_ = std::make_unique<Log>(journal_);
  const std::optional<std::string> text = read_if_there(journal_);
  const std::size_t whole = text ? replay(*text, subject) : 0;
  if (text && whole != text->size()) log_->cut(whole);
  if (whole == 0) log_->append(sealed(head_line(subject, schedules_, usual_)));
  for (std::size_t candidate = 0; candidate < schedules_.size(); ++candidate) {
    if (trials_[candidate] || begun_[candidate] < kLives) continue;
    checked(candidate, {Outcome::faulted, "the process ended three times while it was checked"});
  }
}

Sweep::~Sweep() = default;

std::size_t Sweep::replay(const std::string& text, const std::string& subject) {
  std::string_view left = text;
  bool first = true;
  while (!left.empty()) {
    const std::size_t end = left.find('\n');
    const std::optional<std::string_view> line =
        end == std::string_view::npos ? std::nullopt : unsealed(left.substr(0, end));
    if (first) {
      if (!line && !text.starts_with(kHead) && !kHead.starts_with(text)) {
        throw ArtifactError(fmt::format("{}: this is no journal of a sweep", journal_.string()));
      }
      if (line && *line != head_line(subject, schedules_, usual_)) {
        std::string_view there = *line;
        take_to(there, '\t');
        take_to(there, '\t');
        throw ArgumentError(
            fmt::format("{} is the journal of another sweep, of {}; this one is of {}: name "
                        "another journal, or remove this one",
                        journal_.string(), take_to(there, '\t'), escaped(subject)));
      }
    }
    if (!line) break;
    if (!first) apply(*line);
    first = false;
    left.remove_prefix(end + 1);
  }
  return text.size() - left.size();
}

std::size_t Sweep::candidate_of(std::string_view schedule) const {
  const auto found = std::ranges::find(schedules_, schedule);
  if (found == schedules_.end()) {
    throw ArtifactError(
        fmt::format("{}: no candidate is named {}", journal_.string(), escaped(schedule)));
  }
  return static_cast<std::size_t>(found - schedules_.begin());
}

// A line that is whole, of this journal or about to become one.
void Sweep::apply(std::string_view line) {
  const std::string_view all = line;
  const std::string_view kind = take_to(line, '\t');
  if (kind == "rest") {
    std::ranges::fill(begun_, 0);
    return;
  }
  const std::size_t candidate = candidate_of(take_to(line, '\t'));
  if (kind == "begin") {
    ++begun_[candidate];
    return;
  }
  if (kind == "trial") {
    const auto outcome = std::ranges::find(kOutcomes, take_to(line, '\t'));
    const std::optional<std::string> reason = unescaped(line);
    if (outcome != kOutcomes.end() && reason) {
      begun_[candidate] = 0;
      trials_[candidate] = {static_cast<Outcome>(outcome - kOutcomes.begin()), *reason};
      const auto racing = std::ranges::find(racing_, candidate);
      if (race_ && racing != racing_.end())
        race_->remove(static_cast<std::size_t>(racing - racing_.begin()));
      // With the last check, before any line of the race: who runs follows from the order of lines.
      start_race();
      return;
    }
  }
  if (kind == "sample") {
    const std::optional<double> time = number_of(line);
    if (time && race_ && race_->next() && racing_[*race_->next()] == candidate)
      return race_->record(*time);
  }
  throw ArtifactError(fmt::format("{}: a line does not follow from those before it: {}",
                                  journal_.string(), escaped(all)));
}

void Sweep::write(const std::string& line) {
  log_->append(sealed(line));
  apply(line);
}

void Sweep::start_race() {
  if (race_ || checks_left() > 0) return;
  if (!trials_[usual_] || trials_[usual_]->outcome != Outcome::passed) return;
  std::size_t usual = 0;
  for (std::size_t candidate = 0; candidate < schedules_.size(); ++candidate) {
    if (trials_[candidate]->outcome != Outcome::passed) continue;
    if (candidate == usual_) usual = racing_.size();
    racing_.push_back(candidate);
  }
  race_.emplace(racing_.size(), usual, options_);
}

std::size_t Sweep::checks_left() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(trials_, [](const auto& trial) { return !trial.has_value(); }));
}

std::optional<SweepStep> Sweep::next() const {
  // The default first: what fails it is about the problem or the device.
  if (!trials_[usual_]) return SweepStep{SweepStep::Kind::check, usual_};
  if (trials_[usual_]->outcome != Outcome::passed) return std::nullopt;
  for (std::size_t candidate = 0; candidate < trials_.size(); ++candidate) {
    if (!trials_[candidate]) return SweepStep{SweepStep::Kind::check, candidate};
  }
  const std::optional<std::size_t> racing = race_ ? race_->next() : std::nullopt;
  if (!racing) return std::nullopt;
  return SweepStep{SweepStep::Kind::sample, racing_[*racing]};
}

void Sweep::begin(std::size_t candidate) { write(fmt::format("begin\t{}", schedules_[candidate])); }

void Sweep::checked(std::size_t candidate, const Trial& trial) {
  write(fmt::format("trial\t{}\t{}\t{}", schedules_[candidate], to_string(trial.outcome),
                    escaped(trial.reason)));
}

void Sweep::sampled(double time) {
  const std::optional<SweepStep> step = next();
  if (!step || step->kind != SweepStep::Kind::sample)
    throw ArgumentError("the sweep waits for no sample now");
  write(fmt::format("sample\t{}\t{}", schedules_[step->candidate], number_text(time)));
}

void Sweep::rest() { write("rest"); }

}  // namespace sagegen::runtime
