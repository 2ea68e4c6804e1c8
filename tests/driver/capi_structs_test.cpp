// How the C API reads structs of programs that were compiled with an older or a newer sagegen.h, by a struct that has grown.
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/capi/structs.h"
#include "sagegen/runtime/error.h"

using Catch::Matchers::Contains;
using sagegen::capi::StructType;
using sagegen::runtime::ArgumentError;

// As it was first, as this library has it, and as one that is still to come will.
struct First {
  std::size_t struct_size;
  std::int64_t a;
};
struct Grown {
  std::size_t struct_size;
  std::int64_t a, b;
};
struct Later {
  std::size_t struct_size;
  std::int64_t a, b, c;
};

namespace sagegen::capi {
template <>
struct First<Grown> {
  static constexpr StructType kType{"grown", sizeof(::First), sizeof(Grown)};
};
}  // namespace sagegen::capi

namespace {

template <typename T>
Grown read(const T& from) {
  return sagegen::capi::read(reinterpret_cast<const Grown*>(&from), "call", "grown");
}

}  // namespace

TEST_CASE("a shorter struct has defaults for what it lacks") {
  const struct {
    ::First first;
    std::int64_t behind = 99;  // no part of it
  } old = {.first = {sizeof(::First), 5}};
  CHECK(read(old).a == 5);
  CHECK(read(old).b == 0);
}

TEST_CASE("a longer struct is taken while what is not known is 0") {
  Later later{sizeof(Later), 5, 6, 0};
  CHECK(read(later).b == 6);
  later.c = std::int64_t{1} << 56;  // a byte at the end
  CHECK_THROWS_AS(read(later), ArgumentError);
  CHECK_THROWS_WITH(read(later), Contains("call: grown has 32 bytes, of which this library") && Contains("knows the first 24") &&
                                     Contains("leave the new fields 0, or use the libsagegen of that sagegen.h"));
}

TEST_CASE("sizes that no version has are refused") {
  for (const std::size_t size : {std::size_t{0}, std::size_t{8}, std::size_t{17}, std::size_t{23}, std::size_t{4104}, SIZE_MAX}) {
    const Later from{size, 1, 2, 0};
    CHECK_THROWS_WITH(read(from), Contains("call: struct_size of grown is " + std::to_string(size) + "; ") &&
                                      Contains("sizeof(grown)"));
    Grown to{size, 1, 2};
    CHECK_THROWS_AS(sagegen::capi::write(&to, Grown{sizeof(Grown), 3, 4}, "call"), ArgumentError);
    CHECK(to.a == 1);
  }
  CHECK_THROWS_WITH(sagegen::capi::read<Grown>(nullptr, "call", "grown"), "call: grown is null");
}

TEST_CASE("elements of an array lie as far apart as the first one says") {
  const std::vector<::First> old{{sizeof(::First), 5}, {sizeof(::First), 6}, {sizeof(::First), 7}};
  const auto read = [](const auto& from, std::size_t count) {
    return sagegen::capi::read_array(reinterpret_cast<const Grown*>(from.data()), count, "call", "list");
  };
  REQUIRE(read(old, 3).size() == 3);
  CHECK(read(old, 3)[2].a == 7);
  std::vector<Later> later{{sizeof(Later), 5, 1, 0}, {sizeof(Later), 6, 2, 0}};
  CHECK(read(later, 2)[1].b == 2);
  later[1].c = 1;
  CHECK_THROWS_WITH(read(later, 2), Contains("what follows is not 0"));
  later[1] = {sizeof(Grown), 6, 2, 0};
  CHECK_THROWS_WITH(read(later, 2), Contains("24 in element 1 and 32 in the first one"));
  CHECK(read(std::vector<Later>{}, 0).empty());
  CHECK_THROWS_WITH(sagegen::capi::read_array<Grown>(nullptr, 1, "call", "list"), "call: list is null");
}

TEST_CASE("an output is written as far as the caller's goes") {
  const Grown ours{sizeof(Grown), 3, 4};
  struct {
    ::First first;
    std::int64_t behind;
  } old{{sizeof(::First), 0}, 99};
  sagegen::capi::write(reinterpret_cast<Grown*>(&old), ours, "call");
  CHECK(old.first.struct_size == sizeof(::First));
  CHECK(old.first.a == 3);
  CHECK(old.behind == 99);
  Later later{sizeof(Later), 7, 7, 7};
  sagegen::capi::write(reinterpret_cast<Grown*>(&later), ours, "call");
  CHECK(later.struct_size == sizeof(Later));
  CHECK(later.b == 4);
  CHECK(later.c == 0);
}
