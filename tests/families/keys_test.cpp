// Keys, rules and schedules of every family.
#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <set>

#include "sagegen/error.h"
#include "tests/families/random_kernels.h"

using namespace sagegen;
using Catch::Matchers::Contains;

namespace {

// The kernel with one field of its spec or schedule set.
Kernel with(const Kernel& kernel, const Field& field, int value, bool of_spec) {
  const Family& family = kernel.family();
  const std::shared_ptr<void> spec = family.new_spec(kernel.spec());
  const std::shared_ptr<void> schedule = family.new_schedule(kernel.schedule());
  field.set(of_spec ? spec.get() : schedule.get(), value);
  return Kernel(family, spec, schedule, kernel.target());
}

// check(field, of_spec) for every field of spec and schedule.
template <typename Check>
void for_fields(const Family& family, const Check& check) {
  for (const Field& field : family.what) check(field, true);
  for (const Field& field : family.how) check(field, false);
}

std::vector<int> values_of(const Kernel& kernel) {
  std::vector<int> values;
  for_fields(kernel.family(), [&](const Field& field, bool of_spec) {
    values.push_back(field.get(of_spec ? kernel.spec() : kernel.schedule()));
  });
  return values;
}

bool is_identifier(const std::string& text) {
  return text[0] >= 'a' && text[0] <= 'z' && std::ranges::all_of(text, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
         });
}

}  // namespace

TEST_CASE("every value of every field reads back from a key") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 1);
    for (int i = 0; i < 20; ++i) {
      const Kernel start = random.any();
      for_fields(*family, [&](const Field& field, bool of_spec) {
        for (const int value : field.values.all()) {
          const Kernel kernel = with(start, field, value, of_spec);
          INFO(kernel.key());
          const Kernel read = parse_key(kernel.key());
          REQUIRE(&read.family() == family);
          REQUIRE(read.key() == kernel.key());
          REQUIRE(read.target() == kernel.target());
          REQUIRE(values_of(read) == values_of(kernel));
        }
      });
    }
  }
}

TEST_CASE(
    "random kernels read back from their keys, and two of them share a key only if they are one") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 2);
    std::map<std::string, std::pair<std::vector<int>, int>> seen;
    for (int i = 0; i < 5000; ++i) {
      const Kernel kernel = random.any();
      const Kernel read = parse_key(kernel.key());
      INFO(kernel.key());
      REQUIRE(values_of(read) == values_of(kernel));
      REQUIRE(read == kernel);
      REQUIRE(read.violations() == kernel.violations());
      const auto [found, fresh] =
          seen.try_emplace(kernel.key(), values_of(kernel), kernel.target().sm);
      REQUIRE(found->second == std::pair(values_of(kernel), kernel.target().sm));
    }
    CHECK(seen.size() > 10);
  }
}

TEST_CASE("one changed field is one changed key, in what or in how") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 3);
    for (int i = 0; i < 50; ++i) {
      const Kernel start = random.any();
      std::set<std::string> keys{start.key()};
      std::size_t changes = 0;
      for_fields(*family, [&](const Field& field, bool of_spec) {
        const int old = field.get(of_spec ? start.spec() : start.schedule());
        for (const int value : field.values.all()) {
          if (value == old) continue;
          const Kernel changed = with(start, field, value, of_spec);
          INFO(start.key() << " and " << changed.key());
          REQUIRE(keys.insert(changed.key()).second);
          REQUIRE((changed.what() == start.what()) == !of_spec);
          REQUIRE((changed.how() == start.how()) == of_spec);
          ++changes;
        }
      });
      CHECK(keys.size() == changes + 1);
      for (const TargetInfo& info : supported_targets()) {
        const Kernel moved = start.on(info.target);
        CHECK((moved == start) == (info.target == start.target()));
        CHECK(moved.what() == start.what());
        CHECK(moved.how() == start.how());
      }
    }
  }
}

TEST_CASE("a key is a PTX identifier: owner, family, what, how and target") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 4);
    for (int i = 0; i < 500; ++i) {
      const Kernel kernel = random.any();
      INFO(kernel.key());
      CHECK(is_identifier(kernel.key()));
      CHECK(kernel.key().size() < 200);  // file names have at most 255 bytes
      const std::string how = kernel.how().empty() ? "" : "__" + kernel.how();
      CHECK(kernel.key() == kernel.what() + how + "__sm" + std::to_string(kernel.target().sm));
      CHECK(
          kernel.what().starts_with(std::string(family->owner) + "_" + std::string(family->word)));
    }
  }
}

TEST_CASE("a value outside its field is refused by name, and nothing else is said") {
  constexpr int kLeast = -2147483647 - 1, kMost = 2147483647;
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 5);
    const Kernel valid = random.valid();
    for_fields(*family, [&](const Field& field, bool of_spec) {
      if (field.is_flag) return;
      for (const int value : {kLeast, -1, 7, 9, 33, 255, 1000, kMost}) {
        if (field.values.has(value)) continue;
        const Kernel kernel = with(valid, field, value, of_spec);
        const Sentences sentences = kernel.violations();
        INFO(kernel.key());
        REQUIRE(sentences.size() == 1);
        CHECK_THAT(sentences[0],
                   Contains(std::string(field.name) + " " + field.word(value) + " is refused: "));
        CHECK_THROWS_AS(kernel.validate(), SpecError);
      }
    });
  }
}

TEST_CASE("no kernel at all is more than an exception") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 6);
    int refused = 0;
    for (int i = 0; i < 5000; ++i) {
      const Kernel kernel = random.garbage();
      refused += kernel.violations().empty() ? 0 : 1;
      CHECK_FALSE(kernel.key().empty());
      // What is asked for any values.
      const std::shared_ptr<void> spec = family->new_spec(kernel.spec());
      try {
        const TargetInfo& info = target_info(kernel.target());
        family->complete(spec.get(), {}, info);
        family->usual(spec.get(), info);
        kernel.with_usual_schedule();
        kernel.on(Target{-1}).violations();
      } catch (const SpecError&) {
      }
      try {
        parse_key(kernel.key());
      } catch (const SpecError&) {
      }
      CHECK_FALSE(to_json(kernel).empty());
      CHECK_FALSE(options_of(kernel).empty());
    }
    CHECK(refused > 2500);
  }
}

TEST_CASE("what is valid has resources that its target has, valid inputs and a description") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 7);
    std::set<int> targets;
    for (int i = 0; i < 500; ++i) {
      const Kernel kernel = random.valid();
      INFO(kernel.key());
      targets.insert(kernel.target().sm);
      const Resources need = kernel.resources();
      REQUIRE(need.threads % 32 == 0);
      REQUIRE(need.threads >= 32);
      REQUIRE(need.threads <= 1024);
      REQUIRE(need.dynamic_smem >= 0);
      REQUIRE(need.dynamic_smem <= target_info(kernel.target()).smem_per_block);
      for (const Kernel& input : kernel.inputs()) {
        REQUIRE(input.violations().empty());
        REQUIRE(input.target() == kernel.target());
        REQUIRE_FALSE(input == kernel);
      }
      const std::vector<Section> sections = kernel.describe();
      REQUIRE_FALSE(sections.empty());
      std::set<std::string> titles;
      for (const Section& section : sections) {
        REQUIRE_FALSE(section.title.empty());
        REQUIRE(titles.insert(section.title).second);
        REQUIRE_FALSE(section.lines.empty());
        for (const std::string& line : section.lines) REQUIRE_FALSE(line.empty());
      }
    }
    INFO(family->title);
    CHECK(targets.size() == supported_targets().size());
  }
}

TEST_CASE("the description tells kernels apart that compute other numbers") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 8);
    std::map<std::vector<std::string>, std::string> whats;  // by description
    for (int i = 0; i < 300; ++i) {
      // Of one schedule and target, so that the spec alone is left.
      const Kernel kernel = random.valid();
      std::vector<std::string> text{kernel.how(), to_string(kernel.target())};
      for (const Section& section : kernel.describe())
        text.insert(text.end(), section.lines.begin(), section.lines.end());
      const auto [found, fresh] = whats.try_emplace(text, kernel.what());
      INFO(kernel.what() << " and " << found->second);
      if (found->second != kernel.what()) FAIL_CHECK("are described by the same words");
    }
  }
}

TEST_CASE("the legal schedules of a kernel: each once, valid, by name, the usual one among them") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 9);
    for (int i = 0; i < 10; ++i) {
      const Kernel kernel = random.valid();
      INFO(kernel.key());
      std::set<std::string> keys;
      for (const Kernel& other : kernel.schedules()) {
        REQUIRE(keys.insert(other.key()).second);
        REQUIRE(other.what() == kernel.what());
        REQUIRE(other.violations().empty());
        REQUIRE(kernel.with_schedule(other.how()) == other);
      }
      CHECK(keys.count(kernel.key()) == 1);
      if (family->how.empty()) CHECK(keys.size() == 1);
      const Kernel usual = kernel.with_usual_schedule();
      CHECK(usual.with_usual_schedule() == usual);
      CHECK(keys.count(usual.key()) == (usual.violations().empty() ? 1 : 0));
    }
  }
}

TEST_CASE("what is usual is complete, stable and valid where anything near it is") {
  for (const Family* family : builtin_families().all()) {
    for (const TargetInfo& info : supported_targets()) {
      const std::shared_ptr<void> spec = family->new_spec();
      family->complete(spec.get(), {}, info);
      const std::shared_ptr<void> again = family->new_spec(spec.get());
      family->complete(again.get(), {}, info);
      CHECK(key_text(family->what, again.get()) == key_text(family->what, spec.get()));
      CHECK(refused_values(family->what, spec.get()).empty());
      const Kernel usual(*family, spec, family->usual(spec.get(), info), info.target);
      CHECK(refused_values(family->how, usual.schedule()).empty());
      CHECK(parse_key(usual.key()) == usual);
      // What is given stays as it is.
      for (const Field& field : family->what) {
        for (const int value : field.values.all()) {
          const std::shared_ptr<void> given = family->new_spec();
          field.set(given.get(), value);
          family->complete(given.get(), {field.name}, info);
          INFO(family->title << " " << field.name << " " << value);
          CHECK(field.get(given.get()) == value);
        }
      }
    }
  }
}
