// Which plan a shape gets: from the database, from a pinned file, or the default, on a driver that executes nothing.
#include "templates/attention/plan_tuned.h"

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <thread>

#include <catch2/catch.hpp>

#include "tests/bound_by_permissions.h"
#include "tests/driver/fake_plan.h"
#include "tests/tune/counted_allocations.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen;
using namespace sagegen::test;
using namespace sagegen::attention;
using tests::TemporaryFolder;

namespace {

constexpr Shape kLong{.batch = 1, .q_heads = 32, .kv_heads = 32, .q_len = 4096, .kv_len = 4096};
constexpr Shape kShort{.batch = 1, .q_heads = 32, .kv_heads = 32, .q_len = 100, .kv_len = 100};

struct Bench {
  std::shared_ptr<FakeDriver> driver = std::make_shared<FakeDriver>();
  Device device{driver, 0};
  TemporaryFolder folder;
  std::vector<std::string> warnings;

  TuningOptions options(TuningChoice choice = {}) {
    return {.choice = std::move(choice),
            .database = folder.path(),
            .warn = [this](const std::string& text) { warnings.push_back(text); }};
  }
  TuningEntry entry(const Shape& shape, const std::string& schedule) const {
    return tuning_entry(device, usual_kernel(), shape, schedule);
  }
  void store(const TuningEntry& entry) const { TuningDatabase(folder.path()).store(entry); }
};

std::string how(const Plan& plan) { return plan.kernel().how(); }

}  // namespace

TEST_CASE("Shapes of a class are those that round up alike", "[tuned]") {
  CHECK(to_string(shape_class(kLong)) == "h32g1q4096k4096");
  CHECK(to_string(
            shape_class({.batch = 3, .q_heads = 5, .kv_heads = 5, .q_len = 1, .kv_len = 4097})) ==
        "h16g1q1k8192");
  CHECK(shape_class({.batch = 2, .q_heads = 16, .kv_heads = 16, .q_len = 2049, .kv_len = 4000}) ==
        shape_class(kLong));
  CHECK(shape_class({.batch = 2, .q_heads = 16, .kv_heads = 16, .q_len = 2048, .kv_len = 4000}) !=
        shape_class(kLong));
}

TEST_CASE("Heads that share K and V are another class", "[tuned]") {
  Shape shared = kLong;
  shared.kv_heads = 8;
  CHECK(to_string(shape_class(shared)) == "h32g4q4096k4096");
}

TEST_CASE("Bits of a block-sparse mask are of the default's tiles, and so are schedules",
          "[tuned]") {
  Bench bench;
  const sagegen::Kernel kernel = usual_kernel({.blocksparse = true});
  CHECK(may_replace(kernel, kernel.with_schedule("q128k64w8s2")));
  CHECK(!may_replace(kernel, kernel.with_schedule("q64k64w4s2")));
  TuningEntry entry = bench.entry(kLong, "q64k64w4s2");
  entry.key.what = kernel.what();
  entry.params = kernel.params().digest();
  bench.store(entry);
  TunedPlan plan(bench.device, kernel, fake_source(), bench.options());
  plan.prepare(std::vector{kLong});
  CHECK(&plan.plan_for(kLong) == &plan.usual());
  REQUIRE(bench.warnings.size() == 1);
  CHECK_THAT(bench.warnings[0], Catch::Contains("of other tiles"));
}

TEST_CASE("A shape that was prepared gets what the database has, others the default", "[tuned]") {
  Bench bench;
  const std::string usual = usual_kernel().how();
  bench.store(bench.entry(kLong, "q64k64w4s2"));
  TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options());
  CHECK(how(plan.plan_for(kLong)) == usual);  // nobody has prepared it
  plan.prepare(std::vector{kLong, kShort});
  CHECK(how(plan.plan_for(kLong)) == "q64k64w4s2");
  Shape like = kLong;
  like.q_len = 3000;
  CHECK(how(plan.plan_for(like)) == "q64k64w4s2");
  CHECK(how(plan.plan_for(kShort)) == usual);
  CHECK(plan.choices() == std::vector<std::string>{"h32g1q4096k4096 q64k64w4s2"});
  CHECK(bench.warnings.empty());
}

TEST_CASE("On the request path nothing is read, loaded or allocated", "[tuned]") {
  Bench bench;
  bench.store(bench.entry(kLong, "q64k64w4s2"));
  TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options());
  plan.prepare(std::vector{kLong, kShort});
  std::filesystem::remove_all(bench.folder.path());
  const int calls = bench.driver->call_count();
  const std::int64_t before = tests::allocations();
  const Plan* found = nullptr;
  for (int i = 0; i < 1000; ++i) found = &plan.plan_for(i % 2 == 0 ? kLong : kShort);
  CHECK(tests::allocations() == before);
  CHECK(found == &plan.usual());
  CHECK(bench.driver->call_count() == calls);
  plan.prepare(std::vector{kLong});  // known
  CHECK(bench.driver->call_count() == calls);
}

TEST_CASE("An entry of another kernel, class, device, version or deployment is none of ours",
          "[tuned]") {
  Bench bench;
  const auto with = [&](const auto& change) {
    TuningEntry entry = bench.entry(kLong, "q64k64w4s2");
    change(entry.key);
    bench.store(entry);
  };
  with([](TuningKey& key) { key.what += "_causal"; });
  with([](TuningKey& key) { key.shape = "h32g1q2048k4096"; });
  with([](TuningKey& key) { ++key.device.clock_khz; });
  with([](TuningKey& key) { key.device.driver = "CUDA 12.0"; });
  with([](TuningKey& key) { key.generator = "1.2.4 attention 1"; });
  with([](TuningKey& key) { key.mode = "graph"; });
  TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options());
  plan.prepare(std::vector{kLong});
  CHECK(&plan.plan_for(kLong) == &plan.usual());
  CHECK(bench.warnings.empty());
}

TEST_CASE("An entry that cannot be is one warning, and kept aside", "[tuned]") {
  Bench bench;
  const TuningEntry good = bench.entry(kLong, "q64k64w4s2");
  const TuningDatabase database(bench.folder.path());
  const std::filesystem::path file = database.file_of(good.key);
  SECTION("another layout") {
    TuningEntry entry = good;
    entry.params += 1;
    database.store(entry);
  }
  SECTION("a schedule that no rule lets through") { bench.store(bench.entry(kLong, "q64k64w3s2")); }
  SECTION("damaged") {
    database.store(good);
    std::ofstream(file, std::ios::app) << "x";
  }
  TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options());
  plan.prepare(std::vector{kLong});
  CHECK(&plan.plan_for(kLong) == &plan.usual());
  REQUIRE(bench.warnings.size() == 1);
  CHECK_THAT(bench.warnings[0],
             Catch::Contains(file.string()) && Catch::Contains("the default is used"));
  CHECK(!std::filesystem::exists(file));
  CHECK(std::filesystem::exists(bench.folder.path() / "aside" / file.filename()));
  plan.prepare(std::vector{kLong});
  CHECK(bench.warnings.size() == 1);
}

TEST_CASE("A database that cannot be written is read all the same", "[tuned]") {
  Bench bench;
  const TuningDatabase database(bench.folder.path());
  bench.store(bench.entry(kLong, "q64k64w4s2"));
  const std::filesystem::path damaged = database.file_of(bench.entry(kShort, "q64k64w4s2").key);
  std::ofstream(damaged) << "x";
  std::filesystem::permissions(bench.folder.path(), std::filesystem::perms::owner_read |
                                                        std::filesystem::perms::owner_exec);
  bound_by_permissions([&] {
    TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options());
    plan.prepare(std::vector{kLong});
    CHECK(how(plan.plan_for(kLong)) == "q64k64w4s2");
    CHECK(bench.warnings.empty());
    plan.prepare(std::vector{kLong, kShort});
    CHECK(&plan.plan_for(kShort) == &plan.usual());
  });
  REQUIRE(bench.warnings.size() == 1);
  CHECK_THAT(bench.warnings[0],
             Catch::Contains(damaged.string()) && Catch::EndsWith("the default is used"));
  CHECK(std::filesystem::exists(damaged));
  std::filesystem::permissions(bench.folder.path(), std::filesystem::perms::owner_all);
}

TEST_CASE("A schedule whose code is missing is warned of once, and the default stays", "[tuned]") {
  Bench bench;
  Shape longer = kLong;
  longer.kv_len = 8192;
  for (const Shape& shape : {kLong, longer}) bench.store(bench.entry(shape, "q64k64w4s2"));
  const ArtifactSource all = fake_source();
  const ArtifactSource usual_alone([&](const sagegen::Kernel& kernel) -> ArtifactSource::Shared {
    if (kernel.how() == "q64k64w4s2") throw SpecError("there is no such code");
    return all(kernel);
  });
  TunedPlan plan(bench.device, usual_kernel(), usual_alone, bench.options());
  plan.prepare(std::vector{kLong, longer});
  CHECK(&plan.plan_for(kLong) == &plan.usual());
  CHECK(&plan.plan_for(longer) == &plan.usual());
  REQUIRE(bench.warnings.size() == 1);
  CHECK_THAT(bench.warnings[0], Catch::Contains("there is no such code"));
}

TEST_CASE("A pinned file counts on every device, and nothing else does", "[tuned]") {
  Bench bench;
  bench.store(bench.entry(kShort, "q64k64w4s2"));  // in the database, which is not asked
  TuningEntry entry = bench.entry(kLong, "q64k64w4s3");
  entry.key.device.name = "another GPU";
  entry.key.generator = "0.0.1 attention 1";
  const std::filesystem::path file = bench.folder.path() / "pins";
  std::ofstream(file) << to_text(std::vector{entry});
  TunedPlan plan(bench.device, usual_kernel(), fake_source(),
                 bench.options(tuning_choice("pinned " + file.string())));
  plan.prepare(std::vector{kLong, kShort});
  CHECK(how(plan.plan_for(kLong)) == "q64k64w4s3");
  CHECK(&plan.plan_for(kShort) == &plan.usual());
  std::ofstream(file) << "x";
  CHECK_THROWS_AS(TunedPlan(bench.device, usual_kernel(), fake_source(),
                            bench.options(tuning_choice("pinned " + file.string()))),
                  ArtifactError);
}

TEST_CASE("A pinned file beside an invariance is not used, and one warning says so", "[tuned]") {
  Bench bench;
  const std::filesystem::path file = bench.folder.path() / "pins";
  std::ofstream(file) << to_text(std::vector{bench.entry(kLong, "q64k64w4s3")});
  for (const TuningChoice& choice :
       {tuning_choice("pinned " + file.string()), tuning_choice("cached")}) {
    TuningOptions options = bench.options(choice);
    options.plan.invariance = Invariance::batch;
    TunedPlan plan(bench.device, usual_kernel(), fake_source(), std::move(options));
    plan.prepare(std::vector{kLong, kShort});
    CHECK(&plan.plan_for(kLong) == &plan.usual());
  }
  REQUIRE(bench.warnings.size() == 1);  // of the file; what a cache has nobody asked for
  CHECK_THAT(bench.warnings[0],
             Catch::Contains(file.string()) && Catch::Contains("invariance batch"));
}

TEST_CASE("Switched off, the database is not asked", "[tuned]") {
  Bench bench;
  bench.store(bench.entry(kLong, "q64k64w4s2"));
  TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options(tuning_choice("off")));
  plan.prepare(std::vector{kLong});
  CHECK(&plan.plan_for(kLong) == &plan.usual());
}

TEST_CASE("The environment chooses, and a word that means nothing is refused", "[tuned]") {
  CHECK(tuning_choice("off").mode == TuningMode::off);
  CHECK(tuning_choice("cached").mode == TuningMode::cached);
  CHECK(tuning_choice("").mode == TuningMode::cached);
  CHECK(tuning_choice("pinned /a b").pinned == "/a b");
  CHECK(tuning_choice("tune").mode == TuningMode::tune);
  for (const char* bad : {"on", "pinned", "pinned ", "OFF"})
    CHECK_THROWS_AS(tuning_choice(bad), ArgumentError);
  setenv("SAGEGEN_TUNING", "off", 1);
  CHECK(tuning_choice_of_environment().mode == TuningMode::off);
  setenv("SAGEGEN_TUNING", "xx", 1);
  CHECK_THROWS_WITH(tuning_choice_of_environment(),
                    Catch::Contains("SAGEGEN_TUNING") && Catch::Contains("\"xx\"") &&
                        Catch::Contains("off, cached, tune, or \"pinned FILE\""));
  unsetenv("SAGEGEN_TUNING");
  CHECK(tuning_choice_of_environment().mode == TuningMode::cached);
}

TEST_CASE("A shape that is not possible is refused, and nothing changes", "[tuned]") {
  Bench bench;
  TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options());
  CHECK_THROWS_AS(plan.prepare(std::vector{kLong, Shape{.q_heads = 3, .kv_heads = 2}}),
                  ArgumentError);
  CHECK(plan.choices().empty());
}

TEST_CASE("Requests go on while shapes are prepared", "[tuned]") {
  Bench bench;
  std::vector<Shape> shapes;
  for (int i = 0; i < 12; ++i) {
    shapes.push_back(
        {.batch = 1, .q_heads = 1 << i % 4, .kv_heads = 1, .q_len = 64 << i % 6, .kv_len = 64});
    bench.store(bench.entry(shapes.back(), i % 2 == 0 ? "q64k64w4s2" : "q64k64w4s3"));
  }
  TunedPlan plan(bench.device, usual_kernel(), fake_source(), bench.options());
  std::atomic<bool> over{false};
  std::vector<std::thread> readers;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    readers.emplace_back([&] {
      while (!over) {
        for (const Shape& shape : shapes) {
          const std::string found = how(plan.plan_for(shape));
          if (found != "q64k64w4s2" && found != "q64k64w4s3" && found != usual_kernel().how())
            ++wrong;
        }
      }
    });
  }
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t) {
    writers.emplace_back([&, t] {
      for (std::size_t i = 0; i < shapes.size(); ++i)
        plan.prepare(
            std::span(shapes).subspan((i + static_cast<std::size_t>(t) * 3) % shapes.size(), 1));
    });
  }
  for (std::thread& writer : writers) writer.join();
  over = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(wrong == 0);
  for (std::size_t i = 0; i < shapes.size(); ++i)
    CHECK(how(plan.plan_for(shapes[i])) != usual_kernel().how());
}
