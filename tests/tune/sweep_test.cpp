#include "sagegen/runtime/sweep.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include <catch2/catch.hpp>

#include "sagegen/runtime/error.h"
#include "tests/tune/planted.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen;
using runtime::Outcome, runtime::Sweep, runtime::SweepStep;
using tests::PlantedClock, tests::TemporaryFolder;

namespace {

const std::vector<std::string> kSchedules{"a", "b", "c", "d"};

std::string text_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

PlantedClock usual_clock() {
  const std::vector<double> costs{100, 90, 95, 80};
  return PlantedClock(costs, 1);
}

// Candidates whose letter is in the text fail their check.
struct Worker {
  PlantedClock clock = usual_clock();
  std::string failing = "d";
  std::map<std::string, int> checks;
  int samples = 0;

  // Ends early after so many steps.
  void work(Sweep& sweep, int steps = 1 << 20) {
    for (; steps > 0; --steps) {
      const std::optional<SweepStep> step = sweep.next();
      if (!step) return;
      const std::string& name = sweep.schedules()[step->candidate];
      if (step->kind == SweepStep::Kind::check) {
        sweep.begin(step->candidate);
        ++checks[name];
        if (failing.find(name) != std::string::npos) {
          sweep.checked(step->candidate, {Outcome::wrong, "row 3\tis off\nby 7"});
        } else {
          sweep.checked(step->candidate, {});
        }
      } else {
        ++samples;
        sweep.sampled(clock.time(step->candidate));
      }
    }
  }
};

}  // namespace

TEST_CASE("A sweep checks each candidate once, the default first, and races those that pass",
          "[sweep]") {
  const TemporaryFolder folder;
  Sweep sweep(folder.path() / "journal", "device and problem", kSchedules, 2);
  CHECK(sweep.next()->candidate == 2);
  CHECK(sweep.race() == nullptr);
  Worker worker;
  worker.work(sweep);
  CHECK(worker.checks == std::map<std::string, int>{{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}});
  CHECK(sweep.trial(3)->outcome == Outcome::wrong);
  CHECK(sweep.trial(3)->reason == "row 3\tis off\nby 7");
  REQUIRE(sweep.race() != nullptr);
  CHECK(sweep.race()->winner() == 1);  // b; d would be faster, and is wrong
}

TEST_CASE("A sweep that is stopped at any step goes on where it was", "[sweep]") {
  Worker whole;
  const TemporaryFolder folder;
  const std::filesystem::path journal = folder.path() / "journal";
  {
    Sweep sweep(journal, "subject", kSchedules, 0);
    whole.work(sweep);
  }
  const std::string all = text_of(journal);
  Worker in_parts;
  std::filesystem::remove(journal);
  for (int part = 0;; ++part) {
    Sweep sweep(journal, "subject", kSchedules, 0);
    if (!sweep.next()) break;
    in_parts.work(sweep, 1 + part % 3);
  }
  CHECK(in_parts.checks == whole.checks);
  CHECK(in_parts.samples == whole.samples);
  CHECK(text_of(journal) == all);
}

TEST_CASE("A journal that is cut anywhere loses its last line alone", "[sweep]") {
  const TemporaryFolder folder;
  const std::filesystem::path journal = folder.path() / "journal";
  {
    Sweep sweep(journal, "subject", kSchedules, 0);
    Worker().work(sweep, 12);
  }
  const std::string all = text_of(journal);
  for (std::size_t cut = 0; cut < all.size(); ++cut) {
    write(journal, all.substr(0, cut));
    { const Sweep sweep(journal, "subject", kSchedules, 0); }
    const std::string left = text_of(journal);
    const std::size_t first_line = all.find('\n') + 1;
    const std::size_t whole = cut == 0 ? 0 : all.rfind('\n', cut - 1) + 1;
    if (whole < first_line) {
      CHECK(left == all.substr(0, first_line));
    } else {
      CHECK(left.substr(0, whole) == all.substr(0, whole));
    }
  }
}

TEST_CASE(
    "A check that ends the process three times is told as faulted, one that was stopped is not",
    "[sweep]") {
  const TemporaryFolder folder;
  const std::filesystem::path journal = folder.path() / "journal";
  for (int life = 0; life < 2; ++life) {
    Sweep sweep(journal, "subject", kSchedules, 0);
    if (life == 0) {
      sweep.begin(0);
      sweep.checked(0, {});
    }
    CHECK(sweep.next()->candidate == 1);
    sweep.begin(1);
    sweep.rest();
  }
  for (int life = 0; life < 3; ++life) {
    Sweep sweep(journal, "subject", kSchedules, 0);
    CHECK(sweep.next()->candidate == 1);
    sweep.begin(1);
  }
  const Sweep sweep(journal, "subject", kSchedules, 0);
  REQUIRE(sweep.trial(1));
  CHECK(sweep.trial(1)->outcome == Outcome::faulted);
  CHECK(sweep.next()->candidate == 2);
}

TEST_CASE(
    "A candidate that fails while it is timed leaves the race, also when the journal is read again",
    "[sweep]") {
  const TemporaryFolder folder;
  const std::filesystem::path journal = folder.path() / "journal";
  Worker worker;
  {
    Sweep sweep(journal, "subject", kSchedules, 0);
    worker.work(sweep, 6);
    sweep.checked(1, {Outcome::hung, "no answer in 10 s"});
  }
  Sweep sweep(journal, "subject", kSchedules, 0);
  worker.work(sweep);
  CHECK(sweep.trial(1)->outcome == Outcome::hung);
  CHECK(sweep.race()->winner() == 2);  // c
}

TEST_CASE("A candidate that fails at any moment of the race is read again as it was", "[sweep]") {
  for (int before = 4; before < 30; ++before) {
    INFO("after " << before << " steps");
    const TemporaryFolder folder;
    const std::filesystem::path journal = folder.path() / "journal";
    Worker worker;
    worker.failing = "";
    std::size_t samples = 0;
    std::optional<SweepStep> next;
    {
      Sweep sweep(journal, "subject", kSchedules, 0);
      worker.work(sweep, before);
      if (!sweep.next() || sweep.next()->candidate == 0) continue;
      sweep.checked(sweep.next()->candidate, {Outcome::faulted, "gone"});
      worker.work(sweep, 5);
      samples = sweep.race()->samples();
      next = sweep.next();
    }
    for (int life = 0; life < 2; ++life) {
      const Sweep sweep(journal, "subject", kSchedules, 0);
      CHECK(sweep.race()->samples() == samples);
      CHECK(sweep.next().has_value() == next.has_value());
      if (next && sweep.next()) CHECK(sweep.next()->candidate == next->candidate);
    }
  }
}

TEST_CASE("Without a default that passes there is no race", "[sweep]") {
  const TemporaryFolder folder;
  Sweep sweep(folder.path() / "journal", "subject", kSchedules, 0);
  Worker worker;
  worker.failing = "a";
  worker.work(sweep);
  CHECK(!sweep.next());
  CHECK(sweep.race() == nullptr);
  CHECK(worker.checks.size() == 1);
}

TEST_CASE("Two sweeps do not share a journal at a time", "[sweep]") {
  const TemporaryFolder folder;
  const std::filesystem::path journal = folder.path() / "journal";
  {
    Sweep sweep(journal, "subject", kSchedules, 0);
    CHECK_THROWS_WITH(Sweep(journal, "subject", kSchedules, 0),
                      Catch::Contains("another process writes it now"));
    Worker().work(sweep);
  }
  CHECK(!Sweep(journal, "subject", kSchedules, 0).next());
}

TEST_CASE("A journal of something else is refused and left alone", "[sweep]") {
  const TemporaryFolder folder;
  const std::filesystem::path journal = folder.path() / "journal";
  {
    Sweep sweep(journal, "subject", kSchedules, 0);
    Worker().work(sweep, 3);
  }
  const std::string before = text_of(journal);
  CHECK_THROWS_WITH(Sweep(journal, "another", kSchedules, 0),
                    Catch::Contains("another sweep, of subject"));
  CHECK_THROWS_AS(Sweep(journal, "subject", kSchedules, 1), runtime::ArgumentError);
  CHECK_THROWS_AS(Sweep(journal, "subject", {"a", "b"}, 0), runtime::ArgumentError);
  CHECK(text_of(journal) == before);
  write(journal, "a letter\n");
  CHECK_THROWS_AS(Sweep(journal, "subject", kSchedules, 0), runtime::ArtifactError);
  CHECK(text_of(journal) == "a letter\n");
}

TEST_CASE("A sweep that is killed at any moment repeats no step that it acknowledged", "[sweep]") {
  const TemporaryFolder folder;
  const std::filesystem::path journal = folder.path() / "journal";
  std::mt19937_64 random(5);
  int lives = 0;
  std::size_t acknowledged = 0;
  for (bool over = false; !over; ++lives) {
    int pipe_ends[2], allowed[2];
    REQUIRE(pipe(pipe_ends) == 0);
    REQUIRE(pipe(allowed) == 0);
    const pid_t child = fork();
    if (child == 0) {
      close(pipe_ends[0]);
      close(allowed[1]);
      Sweep sweep(journal, "subject", kSchedules, 0);
      // The same clock in every life would be another one: costs without noise are the same everywhere.
      const double costs[] = {100, 90, 95, 80};
      char one = 0;
      while (const auto step = sweep.next()) {
        if (read(allowed[0], &one, 1) != 1) _exit(3);
        if (step->kind == SweepStep::Kind::check)
          sweep.checked(step->candidate, {});
        else
          sweep.sampled(costs[step->candidate]);
        if (write(pipe_ends[1], "x", 1) != 1) _exit(3);
      }
      _exit(0);
    }
    close(pipe_ends[1]);
    close(allowed[0]);
    // It is killed after some steps, in the middle of the next or behind it: no more are allowed, however busy the machine is.
    const std::size_t steps = random() % 4;
    REQUIRE(write(allowed[1], "....", steps + 1) == static_cast<ssize_t>(steps + 1));
    char byte = 0;
    std::size_t done = 0;
    while (done < steps && read(pipe_ends[0], &byte, 1) == 1) ++done;
    usleep(static_cast<useconds_t>(random() % 300));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    while (read(pipe_ends[0], &byte, 1) == 1) ++done;
    close(pipe_ends[0]);
    close(allowed[1]);
    acknowledged += done;
    const Sweep sweep(journal, "subject", kSchedules, 0);
    const std::size_t checked = kSchedules.size() - sweep.checks_left();
    const std::size_t in_journal = checked + (sweep.race() ? sweep.race()->samples() : 0);
    REQUIRE(in_journal >= acknowledged);
    REQUIRE(in_journal <= acknowledged + static_cast<std::size_t>(lives) + 1);
    over = !sweep.next();
    REQUIRE(lives < 1000);
  }
  const Sweep sweep(journal, "subject", kSchedules, 0);
  CHECK(sweep.race()->winner() == 3);
  CHECK(lives > 10);
}
