// The tuner of applications, in the emulator: what it checks, what it keeps, how it goes on.
#include "templates/attention/plan_tuner.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <numbers>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"
#include "templates/attention/plan_tuned.h"
#include "tests/bound_by_permissions.h"
#include "tests/driver/fake_plan.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen;
using namespace sagegen::attention;
using runtime::Outcome, runtime::Trial;
using tests::TemporaryFolder;

namespace {

constexpr Target kTarget{89};
// Rows beyond whole tiles.
constexpr Shape kShape{.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 130, .kv_len = 200};

sagegen::Kernel kernel_of(const std::string& options) {
  return kernel_of_options(family(), options, kTarget);
}

const runtime::ArtifactSource& generator() {
  static const runtime::ArtifactSource source(
      [](const sagegen::Kernel& each) { return emit(each); });
  return source;
}

struct Bench {
  std::shared_ptr<runtime::EmulatorDriver> emulator = runtime::make_emulator();
  runtime::Device device{emulator, static_cast<int>(runtime::EmulatorProfile::sm_89)};
  TemporaryFolder folder;
  std::filesystem::path database = folder.path() / "tuning";

  TunerOptions options() const {
    TunerOptions options;
    options.database = database;
    return options;
  }
};

// The generator's code but for one schedule, whose text is edited.
runtime::ArtifactSource with_edit(const std::string& schedule,
                                  const std::function<void(std::string& code)>& edit) {
  return runtime::ArtifactSource([=](const sagegen::Kernel& kernel) {
    Artifact artifact = emit(kernel);
    if (&kernel.family() == &family() && kernel.how() == schedule) edit(artifact.code);
    return artifact;
  });
}

runtime::ArtifactSource with_change(const std::string& schedule, const std::string& from,
                                    const std::string& to) {
  return with_edit(schedule, [=](std::string& code) {
    const std::size_t at = code.find(from);
    REQUIRE(at != std::string::npos);
    code.replace(at, from.size(), to);
  });
}

// An f32 as PTX writes it.
std::string digits(double value) {
  return fmt::format("0f{:08X}", std::bit_cast<std::uint32_t>(static_cast<float>(value)));
}

// O times a factor: all rows, or row 0 of head 1.
enum class Rows { all, one };
runtime::ArtifactSource with_rows_times(const std::string& schedule, Rows rows, double factor) {
  return with_edit(schedule, [=](std::string& code) {
    const std::string reciprocal = "rcp.approx.ftz.f32 \t";  // of a row's sum of weights
    const std::string one = R"(
	.reg .pred %planted_x, %planted_y, %planted_t;
	.reg .b32 %planted_x_of, %planted_y_of, %planted_t_of;
	mov.u32 %planted_x_of, %ctaid.x;
	mov.u32 %planted_y_of, %ctaid.y;
	mov.u32 %planted_t_of, %tid.x;
	setp.eq.u32 %planted_x, %planted_x_of, 0;
	setp.eq.and.u32 %planted_y, %planted_y_of, 1, %planted_x;
	setp.lt.and.u32 %planted_t, %planted_t_of, 4, %planted_y;
	@%planted_t)";
    std::size_t at = code.find(reciprocal);
    REQUIRE(at != std::string::npos);
    while (at != std::string::npos) {
      const std::size_t begin = at + reciprocal.size();
      const std::string r = code.substr(begin, code.find(',', begin) - begin);
      at = code.find('\n', begin);
      code.insert(at, (rows == Rows::one ? one : "\n\t") +
                          fmt::format(" mul.rn.f32 {0}, {0}, {1};", r, digits(factor)));
      at = rows == Rows::one ? std::string::npos : code.find(reciprocal, at);
    }
  });
}

}  // namespace

TEST_CASE("Every schedule computes what the default does", "[tuner]") {
  const std::string options = GENERATE(
      "head_dim=64 causal=true", "head_dim=32 pv=f16 accumulation=f32_f16",
      "head_dim=32 io=bf16 qk=bf16 pv=bf16 smoothing=none accumulation=f32", "head_dim=32 out=s8",
      "head_dim=32 out=e4m3 qk=s4 smoothing=qk", "head_dim=32 skipsoftmax=true");
  CAPTURE(options);
  Bench bench;
  Tuner tuner(bench.device, kernel_of(options), kShape, generator(), bench.options());
  REQUIRE(tuner.schedules().size() > 10);
  // Every fifth, from the last to the first: the default is not the first one that is seen.
  for (std::size_t i = tuner.schedules().size(); i-- > 0;) {
    if (i % 5 != 0 && i != tuner.usual()) continue;
    const Trial trial = tuner.check(tuner.schedules()[i]);
    CHECK(trial.reason == "");
    CHECK(trial.outcome == Outcome::passed);
  }
  CHECK(bench.emulator->findings().empty());
}

TEST_CASE("A schedule that computes something else, ends with an error or does not load is out",
          "[tuner]") {
  Bench bench;
  const sagegen::Kernel kernel = kernel_of("head_dim=32");
  const std::string schedule = "q64k64w4s2";
  REQUIRE(kernel.how() != schedule);
  const auto outcome = [&](const runtime::ArtifactSource& source) {
    Tuner tuner(bench.device, kernel, kShape, source, bench.options());
    const Trial trial = tuner.check(schedule);
    INFO(trial.reason);
    CHECK(trial.reason.empty() == (trial.outcome == Outcome::passed));
    CHECK(tuner.check(kernel.how()).outcome == Outcome::passed);
    return trial.outcome;
  };
  CHECK(outcome(generator()) == Outcome::passed);
  // One product of keys with queries is another one.
  CHECK(outcome(with_change(schedule, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
                            "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32")) == Outcome::wrong);
  CHECK(outcome(with_change(schedule, "\tret;", "\ttrap;\n\tret;")) == Outcome::faulted);
  CHECK(outcome(with_change(schedule, ".version", ".nonsense")) == Outcome::refused);
  CHECK(outcome(runtime::ArtifactSource([&](const sagegen::Kernel& each) {
          if (each.how() == schedule) throw SpecError("there is no such code");
          return emit(each);
        })) == Outcome::refused);
}

TEST_CASE("Each limit on what a schedule computes holds by itself", "[tuner]") {
  Bench bench;
  const sagegen::Kernel kernel = kernel_of("head_dim=32");
  const std::string schedule = "q64k64w4s2";
  const auto trial = [&](const runtime::ArtifactSource& source) {
    return Tuner(bench.device, kernel, kShape, source, bench.options()).check(schedule);
  };
  const auto passes = [&](const runtime::ArtifactSource& source) {
    const Trial found = trial(source);
    CHECK(found.reason == "");
    CHECK(found.outcome == Outcome::passed);
  };
  const auto is_wrong = [&](const runtime::ArtifactSource& source, const std::string& reason) {
    const Trial found = trial(source);
    CHECK(found.outcome == Outcome::wrong);
    CHECK_THAT(found.reason, Catch::Contains(reason));
  };
  // One of 260 rows that is off by 3 % is 0.01 % of O.
  passes(with_rows_times(schedule, Rows::one, 1.015));
  is_wrong(with_rows_times(schedule, Rows::one, 1.03), "row 130 differs");
  passes(with_rows_times(schedule, Rows::all, 1.003));
  is_wrong(with_rows_times(schedule, Rows::all, 1.01), "of O (limit 0.005)");
  const auto with_lse_times = [&](double factor) {
    const double ln2 = std::numbers::ln2;
    return with_change(schedule, digits(ln2), digits(ln2 * factor));
  };
  // Of about 6.
  passes(with_lse_times(1.0008));
  is_wrong(with_lse_times(1.003), "its LSE is");
}

TEST_CASE("A sweep keeps the schedule of the fewest instructions, and is not repeated", "[tuner]") {
  Bench bench;
  const sagegen::Kernel kernel = kernel_of("head_dim=32 pv=f16 accumulation=f32");
  Tuner tuner(bench.device, kernel, kShape, generator(), bench.options());
  const Tuner::Result result = tuner.tune();
  REQUIRE(result.complete);
  CHECK(result.failures.empty());
  CHECK(tuner.stopwatch().unit() == "instructions");
  double best = 1e30;
  for (const std::string& schedule : tuner.schedules())
    best = std::min(best, tuner.sample(schedule));
  const double usual = tuner.sample(kernel.how());
  CHECK(result.usual_time == usual);
  if (best < 0.98 * usual) {
    CHECK(result.time == best);
    CHECK(tuner.sample(result.schedule) == best);
  } else {
    CHECK(result.schedule == kernel.how());
  }
  const auto found = runtime::TuningDatabase(bench.database).find(tuner.key());
  REQUIRE(found.entry);
  CHECK(found.entry->schedule == result.schedule);
  CHECK(found.entry->time == result.time);
  CHECK(result.stored == runtime::TuningDatabase(bench.database).file_of(tuner.key()));

  const std::uint64_t before = bench.emulator->warp_instructions();
  Tuner again(bench.device, kernel, kShape, generator(), bench.options());
  CHECK(again.tune().schedule == result.schedule);
  CHECK(bench.emulator->warp_instructions() == before);
}

TEST_CASE("A sweep that is stopped anywhere goes on, and checks nothing twice", "[tuner]") {
  Bench bench;
  const sagegen::Kernel kernel = kernel_of("head_dim=32");
  std::vector<std::string> checked;
  int steps = 0;
  const auto tune = [&](int most) {
    steps = 0;
    TunerOptions options = bench.options();
    options.judge = [&](const sagegen::Kernel& each, const Plan&) {
      checked.push_back(each.how());
      return Trial{};
    };
    options.stop = [&, most] { return ++steps > most; };
    return Tuner(bench.device, kernel, kShape, generator(), options).tune();
  };
  Tuner::Result result;
  int lives = 0;
  for (; !result.complete; ++lives) {
    REQUIRE(lives < 100);
    CHECK(result.schedule.empty());
    CHECK(result.stored.empty());
    result = tune(7);
  }
  CHECK(lives > 3);
  CHECK(!result.schedule.empty());
  const Tuner tuner(bench.device, kernel, kShape, generator(), bench.options());
  CHECK(std::ranges::is_permutation(checked, tuner.schedules()));
}

TEST_CASE("prepare() tunes what the database does not have, where that is wanted", "[tuner]") {
  Bench bench;
  const sagegen::Kernel kernel = kernel_of("head_dim=32 pv=f16 accumulation=f32");
  std::vector<std::string> warnings;
  const auto plan_with = [&](const char* mode, const sagegen::Kernel& of) {
    TuningOptions options;
    options.choice = tuning_choice(mode);
    options.database = bench.database;
    options.warn = [&](const std::string& text) { warnings.push_back(text); };
    return std::make_unique<TunedPlan>(bench.device, of, generator(), options);
  };
  const auto cached_before = plan_with("cached", kernel);
  cached_before->prepare(std::vector{kShape});
  CHECK(&cached_before->plan_for(kShape) == &cached_before->usual());

  const auto tuned = plan_with("tune", kernel);
  tuned->prepare(std::vector{kShape});
  const std::string schedule = tuned->plan_for(kShape).kernel().how();
  const auto cached = plan_with("cached", kernel);
  cached->prepare(std::vector{kShape});
  CHECK(cached->plan_for(kShape).kernel().how() == schedule);
  CHECK(warnings.empty());
  CHECK(runtime::TuningDatabase(bench.database).list().size() == 1);

  // Of a mask that nobody gave nothing can be timed.
  const sagegen::Kernel masked = kernel_of("head_dim=32 mask=true");
  const auto refused = plan_with("tune", masked);
  refused->prepare(std::vector{kShape});
  CHECK(&refused->plan_for(kShape) == &refused->usual());
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Catch::Contains("is not tuned") && Catch::Contains("mask.data"));
}

TEST_CASE("Where nothing can be kept nothing is tuned, and one warning says so", "[tuner]") {
  Bench bench;
  std::vector<std::string> warnings;
  TuningOptions options;
  options.choice = tuning_choice("tune");
  options.database = bench.database;
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  const auto is_denied = [&] {
    warnings.clear();
    test::bound_by_permissions([&] {
      TunedPlan plan(bench.device, kernel_of("head_dim=32"), generator(), options);
      plan.prepare(std::vector{kShape});
      CHECK(&plan.plan_for(kShape) == &plan.usual());
    });
    REQUIRE(warnings.size() == 1);
    CHECK_THAT(warnings[0], Catch::Contains("is not tuned") &&
                                Catch::Contains("Permission denied; the default is used"));
  };
  namespace fs = std::filesystem;
  const fs::perms closed = fs::perms::owner_read | fs::perms::owner_exec;
  fs::permissions(bench.folder.path(), closed);
  is_denied();
  // A sweep that was begun when something could.
  fs::permissions(bench.folder.path(), fs::perms::owner_all);
  TunerOptions stopped = bench.options();
  stopped.stop = [] { return true; };
  Tuner(bench.device, kernel_of("head_dim=32"), kShape, generator(), stopped).tune();
  const fs::path sweeps = bench.folder.path() / "sweeps";
  for (const auto& journal : fs::directory_iterator(sweeps))
    fs::permissions(journal.path(), fs::perms::owner_read);
  is_denied();
  CHECK(runtime::TuningDatabase(bench.database).list().empty());
}

TEST_CASE("What cannot be tuned is refused with the reason", "[tuner]") {
  Bench bench;
  Shape packed = kShape;
  packed.total_q = packed.total_kv = 100;
  CHECK_THROWS_WITH(Tuner(bench.device, kernel_of("head_dim=32 varlen=true"), packed, generator()),
                    Catch::Contains("packed"));
  CHECK_THROWS_WITH(Tuner(bench.device, kernel_of("head_dim=64 inputs=given"), kShape, generator()),
                    Catch::Contains("codes of the caller"));
  Shape impossible = kShape;
  impossible.kv_heads = 3;
  Tuner tuner(bench.device, kernel_of("head_dim=32"), impossible, generator(), bench.options());
  // Again and again: that is no fault of a schedule.
  for (int i = 0; i < 4; ++i) CHECK_THROWS_WITH(tuner.tune(), Catch::Contains("kv_heads"));
}

TEST_CASE("One process at a time takes times on a GPU", "[tuner]") {
  TemporaryFolder folder;
  const auto driver = std::make_shared<test::FakeDriver>();
  const runtime::Device device(driver, 0);
  TunerOptions options;
  options.database = folder.path() / "tuning";
  options.judge = [](const sagegen::Kernel&, const Plan&) { return Trial{}; };
  {
    const auto held = timing_lock(device);
    REQUIRE(held);
    CHECK_THROWS_AS(
        Tuner(device, test::usual_kernel(), kShape, test::fake_source(), options).tune(),
        runtime::CacheError);
  }
  options.deployment = runtime::Deployment::graph;
  Tuner tuner(device, test::usual_kernel(), kShape, test::fake_source(), options);
  const Tuner::Result result = tuner.tune();
  CHECK(result.complete);
  CHECK(tuner.stopwatch().unit() == "ns");
  CHECK(result.schedule == test::usual_kernel().how());  // all take the same time there
  CHECK(driver->misuse().empty());
}

TEST_CASE("A sweep asks for the code of each kernel once", "[tuner]") {
  TemporaryFolder folder;
  const runtime::Device device(std::make_shared<test::FakeDriver>(), 0);
  TunerOptions options;
  options.database = folder.path() / "tuning";
  options.judge = [](const sagegen::Kernel&, const Plan&) { return Trial{}; };
  std::map<std::string, int> asked;
  const runtime::ArtifactSource counting([&](const sagegen::Kernel& kernel) {
    ++asked[kernel.key()];
    return test::fake_source()(kernel);
  });
  CHECK(Tuner(device, test::usual_kernel(), kShape, counting, options).tune().complete);
  CHECK(asked.size() > 10);
  for (const auto& [key, times] : asked) {
    INFO(key);
    CHECK(times == 1);
  }
}

TEST_CASE("Where the code of other schedules is missing, nothing is kept, and it is tried again", "[tuner]") {
  Bench bench;
  const sagegen::Kernel kernel = kernel_of("head_dim=32");
  const runtime::ArtifactSource usual_alone([&](const sagegen::Kernel& each) -> Artifact {
    if (&each.family() == &family() && each.how() != kernel.how())
      throw SpecError("no PTX of " + each.key());
    return emit(each);
  });
  std::vector<std::string> warnings;
  const auto choices_with = [&](const runtime::ArtifactSource& source) {
    TuningOptions options;
    options.choice = tuning_choice("tune");
    options.database = bench.database;
    options.warn = [&](const std::string& text) { warnings.push_back(text); };
    TunedPlan plan(bench.device, kernel, source, options);
    plan.prepare(std::vector{kShape});
    return plan.choices().size();
  };
  for (int start = 0; start < 2; ++start) {
    warnings.clear();
    CHECK(choices_with(usual_alone) == 0);
    REQUIRE(warnings.size() == 1);
    CHECK_THAT(warnings[0], Catch::Contains("no other schedule can be tried") &&
                                Catch::Contains("no PTX of"));
    CHECK(runtime::TuningDatabase(bench.database).list().empty());
  }
  warnings.clear();
  choices_with(generator());
  CHECK(warnings.empty());
  CHECK(runtime::TuningDatabase(bench.database).list().size() == 1);
}

TEST_CASE("A bound on workspaces holds for tuned schedules, and those that may need more are not tried",
          "[tuner]") {
  Bench bench;
  Shape two = kShape;
  two.kv_heads = 2;
  const sagegen::Kernel kernel = kernel_of("head_dim=64");
  std::vector<std::string> warnings;
  TuningOptions options;
  options.choice = tuning_choice("tune");
  options.database = bench.database;
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  const std::size_t whole = Plan(bench.device, kernel, generator()).workspace_bytes(two);
  options.plan.max_workspace_bytes = static_cast<std::int64_t>(whole) - 1;  // so that it is cut
  TunerOptions of_tuner = bench.options();
  of_tuner.plan = options.plan;
  const Tuner tuner(bench.device, kernel, two, generator(), of_tuner);
  for (const std::string& schedule : tuner.schedules())
    CHECK(needs_no_more(kernel, kernel.with_schedule(schedule)));
  TunedPlan plan(bench.device, kernel, generator(), options);
  plan.prepare(std::vector{two});
  CHECK(warnings.empty());
  CHECK(plan.plan_for(two).workspace_bytes(two) < whole);

  // One that another plan has found, without a bound.
  runtime::TuningEntry entry = test::tuning_entry(bench.device, kernel, two, "q256k64w8s2");
  REQUIRE(entry.key == tuner.key());
  entry.measured = "2126-11-30T12:00:00Z";
  runtime::TuningDatabase(bench.database).store(entry);
  TunedPlan other(bench.device, kernel, generator(), options);
  other.prepare(std::vector{two});
  CHECK(&other.plan_for(two) == &other.usual());
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Catch::Contains("max_workspace_bytes"));
}

TEST_CASE("A launch that is cut off, and memory that is taken, are no fault of the default", "[tuner]") {
  const auto interrupt = std::make_shared<std::atomic<bool>>(true);
  Bench bench;
  bench.emulator->configure({.interrupt = interrupt});
  const sagegen::Kernel kernel = kernel_of("head_dim=32");
  const auto tune = [&] { return Tuner(bench.device, kernel, kShape, generator(), bench.options()).tune(); };
  for (int i = 0; i < 4; ++i) CHECK_THROWS_AS(tune(), runtime::DriverError);
  *interrupt = false;
  CHECK(!tune().schedule.empty());

  struct Full : test::FakeDriver {
    bool is_full = false;
    runtime::Result mem_alloc(runtime::DevicePtr* to, std::size_t bytes) override {
      return is_full ? runtime::Result::out_of_memory : FakeDriver::mem_alloc(to, bytes);
    }
  };
  const auto driver = std::make_shared<Full>();
  const runtime::Device device(driver, 0);
  std::vector<std::string> warnings;
  TuningOptions options;
  options.choice = tuning_choice("tune");
  options.database = bench.database;
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  TunedPlan plan(device, test::usual_kernel(), test::fake_source(), options);
  driver->is_full = true;
  plan.prepare(std::vector{kShape});
  CHECK(&plan.plan_for(kShape) == &plan.usual());
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Catch::Contains("cuMemAlloc"));
}

TEST_CASE("What one judge said is not asked of another, and a sweep may begin anew", "[tuner]") {
  Bench bench;
  const sagegen::Kernel kernel = kernel_of("head_dim=32");
  int asked = 0;
  const auto tune = [&](const std::string& judge, Outcome says, bool again) {
    asked = 0;
    TunerOptions options = bench.options();
    options.judged_by = judge;
    options.again = again;
    options.judge = [&, says](const sagegen::Kernel& each, const Plan&) -> Trial {
      ++asked;
      if (says == Outcome::passed || each.how() == kernel.how()) return {};
      return {says, "no"};
    };
    return Tuner(bench.device, kernel, kShape, generator(), options).tune().failures.size();
  };
  const std::size_t others = tune("the strict one", Outcome::wrong, false);
  CHECK(others > 10);
  CHECK(asked > 10);
  CHECK(tune("the strict one", Outcome::passed, false) == others);
  CHECK(asked == 0);
  CHECK(tune("another", Outcome::passed, false) == 0);
  CHECK(asked > 10);
  CHECK(tune("the strict one", Outcome::passed, true) == 0);
}
