// The hot path of machine code by hand: which loop, and which way through it.
#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/assembly/machine_code.h"
#include "tools/model/hot_path.h"
#include "tools/model/operation_class.h"

namespace sagegen::model {
namespace {

using namespace sagegen::test;

const Instruction kAdd = plain(0x021), kExit = plain(operation::kExit);
const Instruction kHide = plain(operation::kFloatSelect);

std::vector<Instruction> joined(std::initializer_list<std::vector<Instruction>> parts) {
  std::vector<Instruction> all;
  for (const std::vector<Instruction>& part : parts)
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::vector<Instruction> times(int count, const Instruction& instruction) {
  return std::vector<Instruction>(static_cast<std::size_t>(count), instruction);
}

int count_of(const HotPath& path, int operation) {
  return static_cast<int>(
      std::count_if(path.steps.begin(), path.steps.end(),
                    [&](const Step& step) { return step.instruction.operation() == operation; }));
}

// Q K, a branch around a block, P V, and back.
Code loop_with(const std::vector<Instruction>& block) {
  const int size = static_cast<int>(block.size());
  return code_of(joined({{kAdd, imma_s8(), branch(size, kIf)},
                         block,
                         {hmma_f32(), branch(-(size + 4), kIf), kExit}}));
}

TEST_CASE("a loop of one block is its hot path") {
  const auto path = hot_path(code_of({kAdd, kAdd, imma_s8(), hmma_f32(), branch(-4, kIf), kExit}));
  REQUIRE(path);
  CHECK(path->header == 1);
  REQUIRE(path->steps.size() == 4);
  CHECK_FALSE(path->steps[2].jumps);
  CHECK(path->steps[3].jumps);
}

TEST_CASE("a block that hides scores is passed by") {
  const auto path = hot_path(loop_with(times(8, kHide)));
  REQUIRE(path);
  CHECK(count_of(*path, operation::kFloatSelect) == 0);
  REQUIRE(path->steps.size() == 4);
  CHECK(path->steps[1].jumps);
}

TEST_CASE("a way that hides no score is taken, though it is longer") {
  // 4 FSEL and a jump, or 8 additions.
  const auto path = hot_path(code_of(joined({{imma_s8(), branch(5, kIf)},
                                             times(4, kHide),
                                             {branch(8, kAlways)},
                                             times(8, kAdd),
                                             {hmma_f32(), branch(-17, kIf), kExit}})));
  REQUIRE(path);
  CHECK(path->header == 0);
  CHECK(count_of(*path, operation::kFloatSelect) == 0);
  CHECK(path->steps.size() == 12);
}

TEST_CASE("a block that copies the next tile is taken, with a selection in it") {
  const auto path =
      hot_path(loop_with(joined({times(4, copy_16_bytes()), {kHide}, times(20, kAdd)})));
  REQUIRE(path);
  CHECK(count_of(*path, operation::kCopy) == 4);
  CHECK(path->steps.size() == 29);
}

TEST_CASE("a block that zeroes the end of a tile, and what is merely longer, is passed by") {
  for (const Instruction& other : {plain(operation::kStoreShared), kAdd}) {
    const auto path = hot_path(loop_with(times(4, other)));
    REQUIRE(path);
    CHECK(path->steps.size() == 4);
  }
}

TEST_CASE("a second try of a tile is passed by, though it would copy") {
  const auto path = hot_path(loop_with({imma_s8(), copy_16_bytes(), hmma_f32()}));
  REQUIRE(path);
  CHECK(count_of(*path, operation::kImma) == 1);
  CHECK(count_of(*path, operation::kHmma) == 1);
}

TEST_CASE("where tiles are skipped the path is that of a tile that is not") {
  // The branch goes over everything: nothing of a tile is done in every iteration.
  const auto path = hot_path(
      code_of({kAdd, branch(3, kIf), imma_s8(), kAdd, hmma_f32(), branch(-6, kIf), kExit}));
  REQUIRE(path);
  CHECK(path->steps.size() == 6);
}

TEST_CASE("of two loops the one that hides nothing is taken, wherever it stands") {
  const std::vector<Instruction> inner{imma_s8(), hmma_f32(), branch(-3, kIf)};
  const std::vector<Instruction> edge = joined(
      {{imma_s8()}, times(1, branch(4, kIf)), times(4, kHide), {hmma_f32(), branch(-8, kIf)}});
  for (const Code& code :
       {code_of(joined({inner, edge, {kExit}})), code_of(joined({edge, inner, {kExit}}))}) {
    const auto path = hot_path(code);
    REQUIRE(path);
    CHECK(path->steps.size() == inner.size());
  }
}

TEST_CASE(
    "of nested loops the inner one is taken, and inner loops without products are passed once") {
  // 0 .. 4 with the loop 1 .. 3 in it.
  const auto inner =
      hot_path(code_of({kAdd, imma_s8(), hmma_f32(), branch(-3, kIf), branch(-5, kIf), kExit}));
  REQUIRE(inner);
  CHECK(inner->header == 1);
  CHECK(inner->steps.size() == 3);
  // The same where the outer loop has a tile of its own.
  const auto peeled = hot_path(code_of(
      {imma_s8(), hmma_f32(), imma_s8(), hmma_f32(), branch(-3, kIf), branch(-6, kIf), kExit}));
  REQUIRE(peeled);
  CHECK(peeled->header == 2);
  // A wait in the loop: 1 and 2.
  const auto outer =
      hot_path(code_of({imma_s8(), kAdd, branch(-2, kIf), hmma_f32(), branch(-5, kIf), kExit}));
  REQUIRE(outer);
  CHECK(outer->header == 0);
  CHECK(outer->steps.size() == 5);
}

TEST_CASE("code without both products in one loop has no hot path") {
  CHECK_FALSE(hot_path(code_of({})));
  CHECK_FALSE(hot_path(code_of({imma_s8(), hmma_f32(), kExit})));
  CHECK_FALSE(
      hot_path(code_of({imma_s8(), kAdd, branch(-2, kIf), hmma_f32(), branch(-2, kIf), kExit})));
  CHECK_FALSE(hot_path(code_of({kAdd, kAdd, branch(-2, kIf), kExit})));
}

}  // namespace
}  // namespace sagegen::model
