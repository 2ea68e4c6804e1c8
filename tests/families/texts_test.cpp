// Kernels of every family as option text, JSON and TOML: what is written reads back as the same kernel.
#include <catch2/catch.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sagegen/error.h"
#include "sagegen/set.h"
#include "tests/families/random_kernels.h"

using namespace sagegen;

namespace {

using Json = nlohmann::ordered_json;

// A set description of one kernel: every field by name, words in quotes.
std::string toml_of(const Kernel& kernel) {
  const Family& family = kernel.family();
  std::string text =
      fmt::format("[[{}]]\ntargets = [\"{}\"]\n", family.title, to_string(kernel.target()));
  for (const Field& field : family.what) {
    const std::string word = field.word(field.get(kernel.spec()));
    const bool bare = field.is_flag || field.values.words.empty();
    text += fmt::format(fmt::runtime(bare ? "{} = {}\n" : "{} = \"{}\"\n"), field.name, word);
  }
  if (!family.how.empty()) text += fmt::format("schedules = [\"{}\"]\n", kernel.how());
  return text;
}

// The word of a value in JSON.
std::string word_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Kernel kernel_of_json(const std::string& text) {
  const Json json = Json::parse(text);
  const Family& family = builtin_families().of_title(json["family"].get<std::string>());
  const std::shared_ptr<void> spec = family.new_spec(), schedule = family.new_schedule();
  for (const auto& [name, value] : json["what"].items())
    set_field(family.what, spec.get(), name, word_of(value));
  for (const auto& [name, value] : json["how"].items())
    set_field(family.how, schedule.get(), name, word_of(value));
  return Kernel(family, spec, schedule, parse_target(json["target"].get<std::string>()));
}

}  // namespace

TEST_CASE("a kernel reads back from its options") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 1);
    for (int i = 0; i < 1000; ++i) {
      const Kernel kernel = random.any();
      INFO(options_of(kernel));
      REQUIRE(kernel_of_options(*family, options_of(kernel), kernel.target()) == kernel);
    }
  }
}

TEST_CASE("a kernel reads back from its JSON, which names every field") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 2);
    for (int i = 0; i < 1000; ++i) {
      const Kernel kernel = random.any();
      const std::string text = to_json(kernel);
      INFO(text);
      REQUIRE(kernel_of_json(text) == kernel);
      const Json json = Json::parse(text);
      REQUIRE(json["key"] == kernel.key());
      REQUIRE(json["what"].size() == family->what.size());
      REQUIRE(json["how"].size() == family->how.size());
    }
  }
}

TEST_CASE("a kernel reads back from a set description that names every field") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 3);
    for (int i = 0; i < 200; ++i) {
      const Kernel kernel = random.valid();
      const std::string text = toml_of(kernel);
      INFO(text);
      const std::vector<Kernel> read = read_set(text, "one.toml");
      REQUIRE(read.size() == kernel.inputs().size() + 1);
      REQUIRE(read.back() == kernel);
    }
  }
}

TEST_CASE("a set description of one table stands for the product of all values of a field") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 4);
    for (int i = 0; i < 20; ++i) {
      const Kernel kernel = random.any();
      for (const Field& field : family->what) {
        KernelProduct product{.family = family->title, .targets = {kernel.target()}};
        for (const Field& other : family->what) {
          std::vector<std::string> words{other.word(other.get(kernel.spec()))};
          if (other.name == field.name) {
            words.clear();
            for (const int value : other.values.all()) words.push_back(other.word(value));
          }
          product.fields.emplace_back(other.name, words);
        }
        if (!family->how.empty()) product.schedules = {kernel.how()};
        std::size_t refused = 0, made = 0;
        const std::vector<Kernel> kernels =
            enumerate(product, builtin_families(), [&](const Kernel&, const Sentences& sentences) {
              CHECK_FALSE(sentences.empty());
              ++refused;
            });
        for (const Kernel& each : kernels) made += &each.family() == family ? 1 : 0;
        CHECK(made + refused == field.values.all().size());
      }
    }
  }
}

TEST_CASE("a word that a field does not have is refused with those that it has") {
  for (const Family* family : builtin_families().all()) {
    for (const Field& field : family->what) {
      const std::shared_ptr<void> spec = family->new_spec();
      for (const char* word : {"", "nonsense", "-1", "0x10", "1.5", " ", "9999999"}) {
        INFO(family->title << " " << field.name << " " << word);
        CHECK_THROWS_WITH(set_field(family->what, spec.get(), field.name, word),
                          Catch::Contains("is refused: it must be " + expected_word(field)));
      }
      CHECK(field.get(spec.get()) == field.initial);
    }
  }
}
