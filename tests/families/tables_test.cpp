// Families from elsewhere: what a list of families refuses, and what keys may look like otherwise.
#include <catch2/catch.hpp>

#include <deque>

#include "sagegen/error.h"
#include "sagegen/set.h"
#include "tests/families/random_kernels.h"

using namespace sagegen;
using Catch::Matchers::Contains;

namespace {

enum class Kind { x, y };

struct Spec {
  int a = 1, b = 1, c = 1;
  Kind kind = Kind::x;
  bool on = false, off = false, was = true;
};
struct Schedule {
  int m = 1, n = 1;
};

using Def = FamilyDef<Spec, Schedule>;

// A family that breaks no rule, but for what a test changes.
Def sound() {
  return {.owner = "acme",
          .word = "toy",
          .title = "toy",
          .room = "elsewhere",
          .what = {field<&Spec::a>("a", "a", range(0, 20))},
          .how = {field<&Schedule::m>("m", "m", range(1, 3))},
          .resources = [](const Def::View&) { return Resources{.threads = 32}; },
          .params = [](const Def::View&) { return ParamLayout(); }};
}

Def with_what(Fields what) {
  Def def = sound();
  def.what = std::move(what);
  return def;
}
Def with_how(Fields how) {
  Def def = sound();
  def.how = std::move(how);
  return def;
}

std::string refusal(Def def) {
  const FamilyOf<Spec, Schedule> family(std::move(def));
  try {
    Families().add(family);
  } catch (const InternalError& error) {
    return error.what();
  }
  return "accepted";
}

Values kinds(std::string_view x, std::string_view y) {
  return words<Kind>({{Kind::x, x}, {Kind::y, y}});
}

Field a(Values values = range(0, 20), std::string_view tag = "a") {
  return field<&Spec::a>("a", tag, std::move(values));
}
Field b(std::string_view tag = "b") { return field<&Spec::b>("b", tag, range(0, 20)); }
Field c(std::string_view tag = "c") { return field<&Spec::c>("c", tag, range(0, 20)); }
Field kind(std::string_view x, std::string_view y, std::string_view tag = "") {
  return field<&Spec::kind>("kind", tag, kinds(x, y));
}

}  // namespace

TEST_CASE(
    "tables that would give two kernels one key are refused with the text that is ambiguous") {
  struct Case {
    const char* what;
    Def def;
    const char* part;
  };
  const Case cases[] = {
      {"a silent field takes what the next one wrote", with_what({later(a()), b("a")}),
       "\"a0\" in a key reads as a, which is absent there"},
      {"the same behind another field", with_what({c(), later(a()), b("a")}),
       "\"a0\" in a key reads as a"},
      {"a silent field that looks like a word",
       with_what({c(), later(a(range(0, 20), "f")), kind("f1", "f2")}),
       "\"f1\" in a key reads as a"},
      {"a flag that looks like a word",
       with_what({c(), flag<&Spec::on>("on", "x"), kind("x", "y")}), "\"x\" in a key reads as on"},
      {"two flags of one word",
       with_what({c(), flag<&Spec::on>("on", "x"), flag<&Spec::off>("off", "x")}),
       "\"x\" in a key reads as on"},
      {"two silent fields apart", with_what({later(a()), later(b()), later(c("a"))}),
       "in a key reads as a"},
      {"numbers that run into each other", with_what({a(), joined(b(""))}),
       "does not read back as a ="},
      {"a word that goes on as another", with_what({kind("f", "f1"), joined(b(""))}),
       "\"f1\" in a key does not read back as kind = f;"},
      {"a field that joins one that may be absent", with_what({a(), later(b()), joined(c())}),
       "in a key does not read back as a ="},
      {"a word with a part that is the next field", with_what({kind("f", "f_c1"), c()}),
       "\"f_c1\" in a key does not read back as kind = f;"},
      {"a schedule that looks like a target",
       with_how({later(field<&Schedule::m>("m", "sm", range(1, 3)))}),
       "\"sm89\" in a key reads as m"},
  };
  for (const Case& each : cases) {
    INFO(each.what);
    CHECK_THAT(refusal(each.def), Contains("family acme_toy (toy): ") && Contains(each.part));
  }
}

TEST_CASE("tables that cannot be read or written are refused") {
  struct Case {
    Def def;
    const char* part;
  };
  const Case cases[] = {
      {with_what({a(), field<&Spec::b>("a", "b", range(0, 2))}), "the name a is in use already"},
      {with_what({field<&Spec::a>("m", "a", range(0, 2))}), "the name m is in use already"},
      {with_what({field<&Spec::a>("targets", "a", range(0, 2))}), "the name targets is in use"},
      {with_what({field<&Spec::a>("schedule", "a", range(0, 2))}), "the name schedule is in use"},
      {with_what({field<&Spec::a>("A", "a", range(0, 2))}), "field A: a name is of lower-case"},
      {with_what({field<&Spec::a>("", "a", range(0, 2))}), "a name is of lower-case"},
      {with_what({a(numbers({2, 4}))}), "field a: its default is not one of its values"},
      {with_what({a(numbers({1, 1}))}), "field a: a value, word or token stands twice"},
      {with_what({kind("x", "x")}), "field kind: a value, word or token stands twice"},
      {with_what({field<&Spec::kind>("kind", "",
                                     words<Kind>({{Kind::x, "x", "t"}, {Kind::y, "y", "t"}}))}),
       "field kind: a value, word or token stands twice"},
      {with_what({a(range(-1, 3))}), "field a: -1: numbers are from 0, of at most 6 digits"},
      {with_what({a(range(0, 1'000'000))}), "1000000: numbers are from 0"},
      {with_what({a(range(1, 2), "A")}), "\"A0\" cannot stand in a key"},
      {with_what({a(range(1, 2), "a-")}), "\"a-0\" cannot stand in a key"},
      {with_what({a(range(1, 2), "a__")}), "\"a__0\" cannot stand in a key"},
      {with_what({a(range(1, 2), "_a")}), "\"_a0\" cannot stand in a key"},
      {with_what({flag<&Spec::on>("on", "")}), "\"\" cannot stand in a key"},
      {with_what({flag<&Spec::on>("on", "on_")}), "\"on_\" cannot stand in a key"},
      {with_what({kind("two words", "y")}), "\"two words\" cannot be a word"},
      {with_what({kind("", "y")}), "\"\" cannot be a word"},
      {with_what({flag<&Spec::was>("was", "was")}), "a flag is off by default"},
  };
  for (const Case& each : cases) {
    INFO(each.part);
    CHECK_THAT(refusal(each.def), Contains("family acme_toy (toy): ") && Contains(each.part));
  }
  for (const std::string_view word : {"", "two_words", "Toy", "2d", "toy-x"}) {
    Def def = sound();
    def.word = word;
    CHECK_THAT(refusal(def), Contains("is no word of a key"));
    def = sound();
    def.owner = word;
    CHECK_THAT(refusal(def), Contains("is no word of a key"));
  }
  for (const std::string_view title : {"", "my toy", "Toy", "a.b"}) {
    Def def = sound();
    def.title = title;
    CHECK_THAT(refusal(def), Contains("its title names tables of sets"));
  }
  Def no_resources = sound();
  no_resources.resources = nullptr;
  CHECK_THROWS_AS((FamilyOf<Spec, Schedule>(no_resources)), InternalError);
  Def no_params = sound();
  no_params.params = nullptr;
  CHECK_THROWS_AS((FamilyOf<Spec, Schedule>(no_params)), InternalError);
}

TEST_CASE("no two families have one title, whoever owns them, nor one word of an owner") {
  const auto add = [](Def first, Def second) {
    const FamilyOf<Spec, Schedule> a(std::move(first)), b(std::move(second));
    try {
      Families().add(a).add(b);
    } catch (const InternalError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  Def other = sound();
  other.owner = "rival";
  CHECK_THAT(add(sound(), other), Contains("acme_toy (\"toy\") and rival_toy (\"toy\")"));
  other.title = "rival_toy";
  CHECK(add(sound(), other) == "accepted");  // rival_toy_... is another key than acme_toy_...
  other.owner = "acme";
  CHECK_THAT(add(sound(), other), Contains("nor the same word of one owner"));
  CHECK_THROWS_AS(Families(builtin_families()).add(*builtin_families().all()[0]), InternalError);
}

TEST_CASE("unusual tables that are sound: their kernels read back everywhere") {
  const Def defs[] = {
      sound(),
      with_what({}),
      with_how({}),
      with_what({later(a()), flag<&Spec::on>("on", "on"), later(kind("x", "y"))}),
      with_what({flag<&Spec::on>("on", "on"), flag<&Spec::off>("off", "off")}),
      with_how({later(field<&Schedule::m>("m", "m", range(1, 3)))}),
      with_how({later(field<&Schedule::m>("m", "m", range(1, 3))),
                joined(field<&Schedule::n>("n", "n", range(1, 3)))}),
      with_what({a(), joined(later(b())), joined(c()), flag<&Spec::on>("on", "b")}),
      with_what({kind("fast_one", "fast", "k_"), joined(later(b("x")))}),
      with_what({a(numbers({4, 2, 1}), "")}),
      with_what({a(range(0, 3), "sm"), kind("sm", "y")}),
  };
  int number = 0;
  for (const Def& def : defs) {
    INFO("family " << number++);
    const FamilyOf<Spec, Schedule> family(def);
    const Families families = Families(builtin_families()).add(family);
    test::RandomKernels random(family, 1);
    for (int i = 0; i < 300; ++i) {
      // The first at its defaults: all silent fields are absent.
      const Kernel kernel = i == 0 ? Kernel(family, {}, {}, Target{89}) : random.any();
      INFO(kernel.key());
      const Kernel read = parse_key(kernel.key(), families);
      REQUIRE(read == kernel);
      REQUIRE(options_text(family.what, read.spec()) == options_text(family.what, kernel.spec()));
      REQUIRE(options_text(family.how, read.schedule()) ==
              options_text(family.how, kernel.schedule()));
      REQUIRE(kernel_of_options(family, options_of(kernel), kernel.target()) == kernel);
      REQUIRE(kernel.with_schedule(kernel.how()) == kernel);
      REQUIRE(kernel.violations().empty());
    }
    for (const char* bad : {"acme_toy_", "acme_toy__", "acme_toy__sm89x", "acme_toy_nonsense__sm89",
                            "acme_toy__nonsense__sm89", "acme_toy__sm89__sm89", "acme_toy_sm89"}) {
      INFO(bad);
      CHECK_THROWS_AS(parse_key(bad, families), SpecError);
    }
  }
}

TEST_CASE("what a field joined later leaves alone: keys, texts and sets from before") {
  const FamilyOf<Spec, Schedule> before(with_what({a(), kind("x", "y")}));
  const FamilyOf<Spec, Schedule> after(
      with_what({a(), kind("x", "y"), later(b()), flag<&Spec::on>("on", "on")}));
  const Families then = Families().add(before), now = Families().add(after);
  test::RandomKernels random(before, 2);
  for (int i = 0; i < 100; ++i) {
    const Kernel old = random.any();
    CHECK(parse_key(old.key(), now).key() == old.key());
    CHECK(kernel_of_options(after, options_of(old), old.target()).key() == old.key());
  }
  CHECK_THROWS_AS(parse_key("acme_toy_a1_x_b2__m1__sm89", then), SpecError);
  CHECK(parse_key("acme_toy_a1_x_b2__m1__sm89", now).violations().empty());
}
