// Parameter blocks: of every family, and what a layout refuses.
#include "sagegen/params.h"

#include <catch2/catch.hpp>

#include <map>
#include <set>

#include "sagegen/error.h"
#include "tests/families/random_kernels.h"

using namespace sagegen;
using Catch::Matchers::Contains;

namespace {

// A block of these members, with whatever fields() a test needs.
struct Sound {
  Address rows;
  TensorParam tensor;
  std::int32_t len, padded;
  float scale;
  static constexpr std::string_view kName = "sound";
  static std::vector<ParamField> fields() {
    return {param_field("rows", &Sound::rows), param_field("tensor", &Sound::tensor),
            param_field("len", &Sound::len), param_field("padded", &Sound::padded),
            param_field("scale", &Sound::scale)};
  }
};

template <int Case>
struct Two {
  std::int32_t a, b;
  static constexpr std::string_view kName = "two";
  static std::vector<ParamField> fields() {
    const ParamField a = param_field("a", &Two::a), b = param_field("b", &Two::b);
    if (Case == 0) return {a};
    if (Case == 1) return {a, a};
    if (Case == 2) return {b, a};
    if (Case == 3) return {a, b, b};
    if (Case == 4) return {};
    return {a, b};
  }
};

struct Swapped {
  std::int32_t b, a;
  static constexpr std::string_view kName = "two";
  static std::vector<ParamField> fields() {
    return {param_field("b", &Swapped::b), param_field("a", &Swapped::a)};
  }
};
struct Holed {
  std::int32_t count;
  Address rows;
  static constexpr std::string_view kName = "holed";
  static std::vector<ParamField> fields() {
    return {param_field("count", &Holed::count), param_field("rows", &Holed::rows)};
  }
};
struct Three {
  std::int32_t x, y, z;
  static constexpr std::string_view kName = "three";
  static std::vector<ParamField> fields() {
    return {param_field("x", &Three::x), param_field("y", &Three::y), param_field("z", &Three::z)};
  }
};
struct OtherType {
  float a;
  std::int32_t b;
  static constexpr std::string_view kName = "two";
  static std::vector<ParamField> fields() {
    return {param_field("a", &OtherType::a), param_field("b", &OtherType::b)};
  }
};

template <typename Block>
std::string refusal() {
  try {
    ParamLayout().add<Block>();
  } catch (const InternalError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("a layout says each member's name, type and place") {
  ParamLayout layout;
  layout.add<Sound>();
  CHECK(layout.text() ==
        "sound@0{rows:address@0, tensor:tensor@8, len:s32@40, padded:s32@44, scale:f32@48}");
  CHECK(layout.bytes() == sizeof(Sound));
  layout.add<Two<5>>();
  CHECK(layout.text().ends_with(" two@56{a:s32@0, b:s32@4}"));
  CHECK(layout.offset<Two<5>>() == sizeof(Sound));
  CHECK(layout.bytes() == sizeof(Sound) + 8);
  CHECK(layout.has("two"));
  CHECK_FALSE(layout.has("three"));
  CHECK_THROWS_WITH(layout.offset("three"),
                    Contains("no parameter block three") && Contains("two@56"));
  CHECK(ParamLayout().bytes() == 0);
  CHECK_THROWS_WITH(ParamLayout().offset("two"), Contains("it has none"));
}

TEST_CASE("blocks lie at their alignment") {
  ParamLayout layout;
  layout.add<Two<5>>();
  layout.add<Three>().add<Sound>();
  CHECK(layout.offset<Three>() == 8);
  CHECK(layout.offset<Sound>() == 24);  // behind 20 bytes, at 8
}

TEST_CASE("a block whose fields() leaves a member out, repeats one or is out of order is refused") {
  CHECK_THAT(refusal<Two<0>>(), Contains("block two has 2 members, and its fields() names 1"));
  CHECK_THAT(refusal<Two<1>>(), Contains("block two: a is at byte 0") &&
                                    Contains("what is named before it ends at byte 4"));
  CHECK_THAT(refusal<Two<2>>(), Contains("block two: b is at byte 4") &&
                                    Contains("what is named before it ends at byte 0"));
  CHECK_THAT(refusal<Two<3>>(), Contains("has 2 members, and its fields() names 3"));
  CHECK_THAT(refusal<Two<4>>(), Contains("has 2 members, and its fields() names 0"));
  CHECK(refusal<Two<5>>() == "accepted");
  CHECK_THAT(refusal<Holed>(), Contains("block holed: rows is at byte 8") &&
                                   Contains("what is named before it ends at byte 4"));
  CHECK_THROWS_WITH(ParamLayout().add<Two<5>>().add<Swapped>(),
                    Contains("parameter block two stands twice"));
}

TEST_CASE("other names, types, places or blocks are another digest") {
  const auto digest = [](const ParamLayout& layout) { return layout.digest(); };
  std::set<std::uint64_t> digests{
      digest(ParamLayout()),
      digest(ParamLayout().add<Two<5>>()),
      digest(ParamLayout().add<Swapped>()),
      digest(ParamLayout().add<OtherType>()),
      digest(ParamLayout().add<Sound>()),
      digest(ParamLayout().add<Sound>().add<Two<5>>()),
      digest(ParamLayout().add<Two<5>>().add<Sound>()),
  };
  CHECK(digests.size() == 7);
  CHECK(digest(ParamLayout().add<Two<5>>()) == digest(ParamLayout().add<Two<5>>()));
  // A released number: kernels that exist carry it.
  CHECK(digest(ParamLayout().add<Two<5>>()) == 0xe324c1d6443a79cu);
}

TEST_CASE("a pack holds its blocks, and zeros where none was set") {
  const ParamLayout layout = ParamLayout().add<Two<5>>().add<Sound>();
  ParamPack pack(layout);
  CHECK(pack.bytes() == layout.bytes());
  const auto at = [&](std::size_t offset) {
    std::int32_t word = 0;
    std::memcpy(&word, static_cast<const char*>(pack.data()) + offset, sizeof word);
    return word;
  };
  for (std::size_t i = 0; i < pack.bytes(); i += 4) CHECK(at(i) == 0);
  Sound sound{};
  sound.padded = 17;
  pack.set(sound);
  pack.set(Two<5>{.a = 3, .b = 4});
  CHECK(at(0) == 3);
  CHECK(at(4) == 4);
  CHECK(at(layout.offset<Sound>() + 44) == 17);
  const ParamLayout other = ParamLayout().add<Sound>();
  ParamPack narrow(other);
  CHECK_THROWS_AS(narrow.set(Two<5>{}), InternalError);
}

TEST_CASE("the layout of every kernel names every byte that it passes, once") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 1);
    std::map<std::uint64_t, std::string> texts;  // by digest
    for (int i = 0; i < 500; ++i) {
      const Kernel kernel = random.valid();
      const ParamLayout layout = kernel.params();
      INFO(kernel.key() << ": " << layout.text());
      REQUIRE(layout.bytes() > 0);
      REQUIRE(layout.bytes() <= ParamPack::kMaxBytes);
      const auto [found, fresh] = texts.try_emplace(layout.digest(), layout.text());
      REQUIRE(found->second == layout.text());
      // It depends on what a kernel computes, and on neither schedule nor target: a plan packs it once.
      for (const TargetInfo& info : supported_targets())
        REQUIRE(kernel.on(info.target).params().digest() == layout.digest());
      REQUIRE(kernel.with_usual_schedule().params().digest() == layout.digest());
    }
  }
}
