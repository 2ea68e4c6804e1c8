// The simulated sub-core on loops whose time is known.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/assembly/machine_code.h"
#include "tools/model/prediction.h"
#include "tools/model/simulation.h"

namespace sagegen::model {
namespace {

using namespace sagegen::test;

constexpr int kAdd = 0x021, kLop3 = 0x012, kMufu = 0x108, kMinMax = 0x009;

const Gpu& a100() { return *find_gpu("A100"); }
const Gpu& rtx4090() { return *find_gpu("RTX4090"); }

std::vector<Step> loop_of(const std::vector<Instruction>& instructions) {
  std::vector<Step> steps;
  for (const Instruction& instruction : instructions) steps.push_back({instruction, false});
  return steps;
}

std::vector<Step> repeated(int count, const Instruction& instruction) {
  return loop_of(std::vector<Instruction>(static_cast<std::size_t>(count), instruction));
}

// Without chance, and without a jump at the end, whose cost is not what a test is about.
constexpr Assumptions certain() {
  Assumptions assumptions;
  assumptions.latency_jitter = 0;
  assumptions.barrier_jitter = 0;
  return assumptions;
}

double cycles_of(const std::vector<Step>& path, int warps, const Gpu& gpu = rtx4090(),
                 int warps_per_block = 1, const Assumptions& assumptions = certain()) {
  return simulate(path, gpu, warps, warps_per_block, assumptions).cycles;
}

void check_near(double value, double expected) { CHECK(value == Approx(expected).epsilon(0.01)); }

TEST_CASE("independent mma take what the tensor core takes") {
  // 4096 multiplications at 1024 per SM and cycle, of which a sub-core has a fourth; half that of f32 sums.
  check_near(cycles_of(repeated(100, imma_s8()), 2), 100 * 16);
  check_near(cycles_of(repeated(100, qmma_f32()), 2), 100 * 32);
  check_near(cycles_of(repeated(100, imma_s4()), 1), 100 * 16);
  check_near(cycles_of(repeated(100, hmma_f32()), 2), 100 * 32);
  check_near(cycles_of(repeated(100, hmma_f32()), 2, a100()), 100 * 8);
}

TEST_CASE("one mma waits in front of the tensor core, the next one holds its warp") {
  // The third mma issues when the first one is done; then the additions, beside the tensor core.
  std::vector<Instruction> path(3, imma_s8());
  path.insert(path.end(), 40, plain(kAdd));
  CHECK(cycles_of(loop_of(path), 1) == Approx(16 + 1 + 40).epsilon(0.03));
  Assumptions none = certain();
  none.waiting_mma = 0;
  CHECK(cycles_of(loop_of(path), 1, rtx4090(), 1, none) == Approx(2 * 16 + 1 + 40).epsilon(0.03));
}

TEST_CASE("a chain takes its stalls, which other warps fill") {
  const std::vector<Step> chain = repeated(100, plain(kAdd, {.stall = 4}));
  check_near(cycles_of(chain, 1), 400);
  check_near(cycles_of(chain, 2), 200);
  check_near(cycles_of(chain, 4), 100);
  check_near(cycles_of(chain, 8), 100);
  check_near(cycles_of(repeated(100, plain(operation::kNop, {.stall = 0})), 1), 100);
}

TEST_CASE("a wait for a scoreboard takes the latency") {
  // MUFU, and at once an addition that needs its result: again and again, 18 cycles and the stall after it.
  const std::vector<Step> path = loop_of({plain(kMufu, {.stall = 1, .write_scoreboard = 0}),
                                          plain(kAdd, {.stall = 4, .wait_mask = 1})});
  check_near(cycles_of(path, 1), 18 + 4);
  Assumptions slower = certain();
  slower.mufu_latency = 50;
  check_near(cycles_of(path, 1, rtx4090(), 1, slower), 50 + 4);
  // Of another scoreboard it does not wait.
  const std::vector<Step> other = loop_of({plain(kMufu, {.stall = 1, .write_scoreboard = 0}),
                                           plain(kAdd, {.stall = 4, .wait_mask = 2})});
  CHECK(cycles_of(other, 1) < 10);
  // Operands of a queued instruction may be overwritten 12 cycles after it begins.
  const std::vector<Step> read = loop_of({plain(kMufu, {.stall = 1, .read_scoreboard = 5}),
                                          plain(kAdd, {.stall = 1, .wait_mask = 1u << 5})});
  check_near(cycles_of(read, 1), 12 + 1);
}

Instruction wait_for(int scoreboard, int outstanding) {
  Instruction wait = plain(operation::kWaitScoreboard);
  wait.low |= static_cast<std::uint64_t>(outstanding) << 38 | static_cast<std::uint64_t>(scoreboard)
                                                                  << 44;
  return wait;
}

TEST_CASE("a wait for copies leaves as many open as it says") {
  const auto path = [&](int outstanding) {
    return loop_of({copy_16_bytes(),
                    plain(operation::kCloseCopyGroup, {.stall = 1, .write_scoreboard = 0}),
                    wait_for(0, outstanding), plain(kAdd, {.stall = 1})});
  };
  const Assumptions assumptions;
  const double none = cycles_of(path(0), 1), one = cycles_of(path(1), 1),
               two = cycles_of(path(2), 1);
  CHECK(none > assumptions.copy_latency);
  CHECK(none < 1.3 * assumptions.copy_latency);
  CHECK(one == Approx(none / 2).epsilon(0.1));
  CHECK(two == Approx(none / 3).epsilon(0.1));
}

TEST_CASE("units behind the queue take what they take, whoever waits") {
  for (const int warps : {1, 2, 4})
    check_near(cycles_of(repeated(100, plain(kMufu)), warps), 100 * 8);
  // LDSM.x4: 4 cycles of shared memory that four sub-cores share.
  check_near(cycles_of(repeated(100, ldsm_x4()), 2), 100 * 16);
  // Two of them do not enter the queue at once.
  const std::vector<Step> two =
      loop_of({plain(kMufu), plain(0x189, {.stall = 1, .write_scoreboard = 0}),
               plain(kAdd, {.stall = 4, .wait_mask = 1})});
  Assumptions slower = certain();
  slower.queue_interval += 4;
  check_near(cycles_of(two, 1, rtx4090(), 1, slower), cycles_of(two, 1) + 4);
  // Of two units each one goes on while the other one is busy.
  std::vector<Instruction> both;
  for (int i = 0; i < 100; ++i) both.insert(both.end(), {plain(kMufu), plain(0x189)});
  check_near(cycles_of(loop_of(both), 2), 100 * 8);
}

TEST_CASE("pipes of 16 lanes take every second cycle; of FP32 there are two of them, or one") {
  check_near(cycles_of(repeated(100, plain(kLop3)), 2), 200);
  check_near(cycles_of(repeated(100, plain(kAdd)), 2), 100);
  check_near(cycles_of(repeated(100, plain(kAdd)), 2, a100()), 200);
  check_near(cycles_of(repeated(100, plain(0x031)), 2), 200);  // HFMA2: one half alone
  check_near(cycles_of(repeated(100, plain(kMinMax)), 2), 200);
  check_near(cycles_of(repeated(100, plain(kMinMax)), 2, *find_gpu("RTX5090")), 100);
  check_near(cycles_of(repeated(100, plain(operation::kNop)), 2), 100);
}

TEST_CASE("a barrier holds the warps of its block, and costs what it costs") {
  const std::vector<Step> path = loop_of({plain(operation::kBarrier), plain(kAdd, {.stall = 4})});
  const Assumptions assumptions = certain();
  const double alone = cycles_of(path, 1);
  CHECK(alone >= assumptions.barrier_latency);
  CHECK(alone <= assumptions.barrier_latency + 6);
  check_near(cycles_of(path, 2), alone / 2);                                   // two blocks
  CHECK(cycles_of(path, 2, rtx4090(), 2) == Approx(alone / 2).epsilon(0.05));  // both, once a pass
  // The faster one waits: its own way is short.
  const std::vector<Step> work =
      loop_of({plain(operation::kBarrier), imma_s8(), imma_s8(), imma_s8()});
  CHECK(cycles_of(work, 2, rtx4090(), 2) >= 3 * 16);
}

TEST_CASE("a branch that is taken costs more than one that is not") {
  std::vector<Step> path = repeated(10, plain(kAdd));
  const double straight = cycles_of(path, 1);
  path.back().jumps = true;
  check_near(cycles_of(path, 1), straight + certain().jump);
}

TEST_CASE("of two copies under opposite predicates one is a copy") {
  Instruction yes = copy_16_bytes(), no = copy_16_bytes();
  yes.low = (yes.low & ~kNever) | 0ull << 12;  // @P0
  no.low = (no.low & ~kNever) | 8ull << 12;    // @!P0
  const auto repeat = [](std::vector<Instruction> pair) {
    std::vector<Instruction> all;
    for (int i = 0; i < 50; ++i) all.insert(all.end(), pair.begin(), pair.end());
    return loop_of(all);
  };
  const double one = cycles_of(repeat({yes}), 2);
  CHECK(cycles_of(repeat({yes, no}), 2) == Approx(one).epsilon(0.05));
  CHECK(cycles_of(repeat({yes, yes}), 2) > 1.8 * one);
}

TEST_CASE("what cannot be simulated is refused") {
  const Assumptions assumptions;
  CHECK_THROWS_WITH(simulate({}, rtx4090(), 2, 1, assumptions), Catch::Contains("instructions"));
  CHECK_THROWS_WITH(simulate(repeated(1, imma_s8()), rtx4090(), 0, 1, assumptions),
                    Catch::Contains("a warp"));
  CHECK_THROWS_WITH(simulate(repeated(1, qmma_f32()), a100(), 2, 1, assumptions),
                    "A100 has no rate for mma of f8, f32 sums");
}

// ---- what an observer hears -----------------------------------------------------------------

struct Trace : Observer {
  std::vector<Issue> issues;
  std::vector<std::array<std::int64_t, kWaits>> waits;  // by warp
  std::vector<std::pair<std::int64_t, int>> heard;      // of a warp in a cycle

  explicit Trace(int warps) : waits(static_cast<std::size_t>(warps)) {}
  void issued(const Issue& issue) override {
    issues.push_back(issue);
    heard.emplace_back(issue.cycle, issue.warp);
  }
  void waited(std::int64_t cycle, int warp, Wait why) override {
    ++waits[static_cast<std::size_t>(warp)][static_cast<std::size_t>(why)];
    heard.emplace_back(cycle, warp);
  }
  std::int64_t waited(int warp, Wait why) const {
    return waits[static_cast<std::size_t>(warp)][static_cast<std::size_t>(why)];
  }
  double busy(Pipe unit) const {
    double cycles = 0;
    for (const Issue& issue : issues) cycles += issue.unit == unit ? issue.end - issue.begin : 0;
    return cycles;
  }
};

Trace traced(const std::vector<Step>& path, int warps, const Assumptions& assumptions = certain()) {
  Trace trace(warps);
  simulate_run(path, rtx4090(), {.warps = warps}, assumptions, {}, &trace);
  return trace;
}

// Of a warp's cycles the share that it waits so.
double share(const Trace& trace, int warp, Wait why) {
  return static_cast<double>(trace.waited(warp, why)) /
         static_cast<double>(trace.issues.back().cycle + 1);
}

TEST_CASE("an observer hears the reason of each wait") {
  CHECK(share(traced(repeated(100, plain(kAdd, {.stall = 4})), 1), 0, Wait::stall_count) ==
        Approx(3.0 / 4).epsilon(0.01));
  CHECK(share(traced(repeated(100, imma_s8()), 1), 0, Wait::pipe) ==
        Approx(15.0 / 16).epsilon(0.01));
  const std::vector<Step> result = loop_of({plain(kMufu, {.stall = 1, .write_scoreboard = 0}),
                                            plain(kAdd, {.stall = 1, .wait_mask = 1})});
  CHECK(share(traced(result, 1), 0, Wait::scoreboard) == Approx(17.0 / 19).epsilon(0.02));
  const std::vector<Step> meeting = loop_of({plain(operation::kBarrier), plain(kAdd)});
  CHECK(share(traced(meeting, 1), 0, Wait::barrier) > 0.8);
  // The scheduler stays with the first warp, which never yields.
  const Trace two = traced(repeated(100, plain(kAdd)), 2);
  CHECK(share(two, 0, Wait::other_warp) == 0);
  CHECK(share(two, 1, Wait::other_warp) > 0.9);
}

// ---- what holds of every loop ---------------------------------------------------------------

class RandomLoops {
 public:
  explicit RandomLoops(unsigned seed) : random_(seed) {}

  int below(int end) { return static_cast<int>(random_() % static_cast<unsigned>(end)); }

  Instruction instruction() {
    Control control{.stall = 1 + below(6), .yields = below(2) == 0};
    if (below(8) == 0) control.wait_mask = 1u << below(6);
    switch (below(10)) {
      case 0:
        return imma_s8(control);
      case 1:
        return hmma_f32(control);
      case 2:
        control.write_scoreboard = below(6);
        return plain(kMufu, control);
      case 3:
        control.write_scoreboard = below(6);
        return ldsm_x4(control);
      case 4:
        return plain(kLop3, control);
      case 5:
        return plain(kMinMax, control);
      case 6:
        return plain(0x031, control);
      default:
        return plain(kAdd, control);
    }
  }

  std::vector<Step> loop() {
    std::vector<Instruction> instructions;
    const int count = 60 + below(120);
    for (int i = 0; i < count; ++i) instructions.push_back(instruction());
    return loop_of(instructions);
  }

 private:
  std::mt19937 random_;
};

TEST_CASE("no loop is faster than its bounds, and a lone warp takes its stalls") {
  RandomLoops random(7);
  for (int i = 0; i < 60; ++i) {
    const HotPath path{.header = 0, .steps = random.loop()};
    const Gpu& gpu = i % 2 == 0 ? rtx4090() : a100();
    const int warps = 1 + i % 4;
    const double cycles = cycles_of(path.steps, warps, gpu, 1, Assumptions());
    const Bounds b = bounds_of(path, gpu, warps);
    INFO(i);
    for (const double bound : {b.tensor, b.issue, b.mufu, b.fma, b.alu, b.shared, b.stalls})
      CHECK(cycles >= 0.99 * bound);
  }
}

TEST_CASE("what an observer hears adds up to what the run reports") {
  RandomLoops random(19);
  for (int i = 0; i < 20; ++i) {
    INFO(i);
    const HotPath path{.header = 0, .steps = random.loop()};
    const Run run{
        .scheduling = i % 2 == 0 ? Scheduling::same_then_youngest : Scheduling::same_then_oldest,
        .seed = static_cast<std::uint32_t>(i)};
    const SubcoreLoad load{.warps = 1 + i % 3};
    Trace trace(load.warps);
    const double cycles = simulate_run(path.steps, rtx4090(), load, Assumptions(), run, &trace);
    CHECK(cycles == simulate_run(path.steps, rtx4090(), load, Assumptions(), run));

    // Every warp in every cycle, once; one issue at most in a cycle.
    const std::int64_t end = trace.issues.back().cycle + 1;
    CHECK(trace.heard.size() == static_cast<std::size_t>(end * load.warps));
    CHECK(std::set(trace.heard.begin(), trace.heard.end()).size() == trace.heard.size());
    CHECK(std::adjacent_find(trace.issues.begin(), trace.issues.end(),
                             [](const Issue& one, const Issue& next) {
                               return one.cycle >= next.cycle;
                             }) == trace.issues.end());

    // The figure, from the ends of passes, over the rounds that are measured.
    std::vector<std::int64_t> passes;
    for (const Issue& issue : trace.issues) {
      if (issue.step + 1 == path.steps.size()) passes.push_back(issue.cycle);
    }
    const auto warps = static_cast<std::size_t>(load.warps);
    const std::size_t last = warps * static_cast<std::size_t>(run.iterations) - 1,
                      first = warps * static_cast<std::size_t>(run.iterations / 3 + 1) - 1;
    REQUIRE(passes.size() == last + 1);
    CHECK(cycles ==
          static_cast<double>(passes[last] - passes[first]) / static_cast<double>(last - first));

    // Busy cycles of the units: what each pass takes of them, and what the passes that had not ended took.
    const Bounds bounds = bounds_of(path, rtx4090(), load.warps);
    std::size_t begun = 0;
    for (const Issue& issue : trace.issues) begun += issue.step == 0 ? 1 : 0;
    const auto check_busy = [&](double busy, double of_pass) {
      CHECK(busy >= of_pass * static_cast<double>(passes.size()) * (1 - 1e-9));
      CHECK(busy <= of_pass * static_cast<double>(begun) * (1 + 1e-9));
    };
    check_busy(trace.busy(Pipe::tensor), bounds.tensor);
    check_busy(trace.busy(Pipe::mufu), bounds.mufu);
    check_busy(trace.busy(Pipe::alu), bounds.alu);
    check_busy(static_cast<double>(trace.issues.size()), bounds.issue);

    // A unit does one thing at a time.
    for (const Pipe unit :
         {Pipe::tensor, Pipe::fma, Pipe::fma_heavy, Pipe::alu, Pipe::mufu, Pipe::memory}) {
      double free = 0;
      int overlaps = 0;
      for (const Issue& issue : trace.issues) {
        if (issue.unit != unit) continue;
        overlaps += issue.begin < free ? 1 : 0;
        free = issue.end;
      }
      CHECK(overlaps == 0);
    }
  }
}

TEST_CASE("one instruction more, or a longer stall, makes no loop faster beyond noise") {
  constexpr double kNoise = 0.05;  // of loops in which two warps lock in phase
  RandomLoops random(11);
  for (int i = 0; i < 60; ++i) {
    const std::vector<Step> before = random.loop();
    std::vector<Step> more = before, longer = before;
    const auto place = static_cast<std::ptrdiff_t>(random.below(static_cast<int>(before.size())));
    more.insert(more.begin() + place, {random.instruction(), false});
    Instruction& delayed = longer[static_cast<std::size_t>(place)].instruction;
    Control control = delayed.control();
    control.stall += 8;
    delayed.set(control);
    const int warps = 1 + i % 4;
    const double cycles = cycles_of(before, warps, rtx4090(), 1, Assumptions());
    INFO(i);
    CHECK(cycles_of(more, warps, rtx4090(), 1, Assumptions()) >= cycles * (1 - kNoise));
    CHECK(cycles_of(longer, warps, rtx4090(), 1, Assumptions()) >= cycles * (1 - kNoise));
  }
}

TEST_CASE("a yield lets another warp go first, where the scheduler heeds it") {
  RandomLoops random(17);
  int differences = 0;
  for (int i = 0; i < 10; ++i) {
    const std::vector<Step> path = random.loop();
    std::vector<Step> silent = path;
    for (Step& step : silent) {
      Control control = step.instruction.control();
      control.yields = false;
      step.instruction.set(control);
    }
    const auto cycles = [&](const std::vector<Step>& steps, Scheduling scheduling) {
      return simulate_run(steps, rtx4090(), {}, certain(), {.scheduling = scheduling});
    };
    CHECK(cycles(path, Scheduling::same_then_oldest) ==
          cycles(silent, Scheduling::same_then_oldest));
    if (cycles(path, Scheduling::same_then_youngest) !=
        cycles(silent, Scheduling::same_then_youngest))
      ++differences;
  }
  CHECK(differences > 0);
}

TEST_CASE("the same loop has the same figure, and seeds differ little") {
  RandomLoops random(13);
  const std::vector<Step> path = random.loop();
  const SimulatedLoop once = simulate(path, rtx4090(), 2, 1, Assumptions());
  const SimulatedLoop twice = simulate(path, rtx4090(), 2, 1, Assumptions());
  CHECK(once.cycles == twice.cycles);
  CHECK(once.lowest == twice.lowest);
  CHECK(once.highest == twice.highest);
  CHECK(once.lowest <= once.cycles);
  CHECK(once.cycles <= once.highest);
  CHECK(once.highest < 1.2 * once.lowest);
}

}  // namespace
}  // namespace sagegen::model
