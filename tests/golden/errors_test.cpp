// Misuse of the DSL is an error that names the template's file and line, and says what to do.
#include <catch2/catch.hpp>

#include <optional>

#include "sagegen/dsl/reduce.h"
#include "sagegen/dsl/tile.h"
#include "sagegen/error.h"
#include "tests/golden/golden.h"

namespace sagegen::golden {
namespace {

using namespace dsl;
using Catch::Contains;

constexpr Target kAmpere{.sm = 80};

// The message with which building the kernel fails.
std::string error_of(const Build& build, Target target = kAmpere) {
  Kernel kernel(target);
  try {
    build(kernel);
  } catch (const CodegenError& error) {
    return error.what();
  }
  return "no error";
}

std::string here(int line) { return "tests/golden/errors_test.cpp:" + std::to_string(line) + ": "; }

TEST_CASE("operands that are not values of this kernel") {
  SECTION("never given a value") {
    I32 nothing;
    const std::string error = error_of([&](Kernel& t) { t.keep(t.k.min(nothing, t.a)); });
    CHECK(error == here(__LINE__ - 1) + "an operand was never given a value");
  }
  SECTION("never given a value, as operands of an operator: its line is named") {
    const I32 i;
    const I64 wide;
    const F32 x;
    const Pred p;
    const GlobalPtr g;
    const auto refused = [](int line, const Build& build) {
      CHECK(error_of(build) == here(line) + "an operand was never given a value");
    };
    refused(__LINE__, [&](Kernel& t) { t.k.max(i + 1, t.a); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(i + i); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(1 - i); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(t.a * i); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(i < t.a); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(-i); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(~wide); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(t.wide - wide); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(wide << 3); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(t.x / x); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(2.0f * x); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(x >= 1.0f); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(!p); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(p && t.k.pred(true)); });
    refused(__LINE__, [&](Kernel&) { static_cast<void>(g + 8); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(g + t.a); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(t.in + wide); });
    refused(__LINE__, [&](Kernel& t) { static_cast<void>(t.k.shared(64, 4) + i); });
  }
  SECTION("of a Var that was never made") {
    Var<I32> nothing;
    const std::string never = "a Var was never made with var()";
    CHECK(error_of([&](Kernel& t) { t.k.min(nothing.get(), t.a); }) == here(__LINE__) + never);
    CHECK(error_of([&](Kernel& t) { nothing = t.a; }) == here(__LINE__) + never);
    CHECK(error_of([&](Kernel& t) { nothing.set(t.a); }) == here(__LINE__) + never);
    CHECK(error_of([&](Kernel& t) { t.keep(nothing + t.a); }) == here(__LINE__) + never);
    CHECK(error_of([&](Kernel& t) { t.keep(t.a + nothing); }) ==
          here(__LINE__ - 1) + "an operand was never given a value");
  }
  SECTION("of another builder") {
    Kernel other(kAmpere);
    CHECK_THAT(error_of([&](Kernel& t) { t.k.min(t.a, other.a); }),
               Contains(here(__LINE__ - 1)) && Contains("another kernel's builder"));
    CHECK_THAT(error_of([&](Kernel& t) { t.keep(t.a + other.a); }),
               Contains(here(__LINE__ - 1)) && Contains("another kernel's builder"));
  }
  SECTION("made in a branch or loop that has ended") {
    I32 inner;
    CHECK_THAT(error_of([&](Kernel& t) {
                 t.k.if_(t.a < t.b, [&] { inner = t.a + t.b; });
                 t.keep(inner);
               }),
               Contains("inside a branch or loop that has ended") && Contains("Var"));
    CHECK_THAT(error_of([&](Kernel& t) {
                 t.k.for_range(t.a, t.b, 1, [&](I32 i) { inner = i * t.c; });
                 t.keep(inner);
               }),
               Contains("inside a branch or loop that has ended"));
  }
}

TEST_CASE("helpers that are made of verbs name their caller's line") {
  const std::string never = "an operand was never given a value";
  CHECK(error_of([](Kernel& t) { warp_sum(t.k, F32{}); }) == here(__LINE__) + never);
  CHECK(error_of([](Kernel& t) { block_max(t.k, I32{}); }) == here(__LINE__) + never);
  CHECK(error_of([](Kernel& t) { quad_max(t.k, F32{}); }) == here(__LINE__) + never);
  // A helper of somebody's own does the same, also where it calls another one.
  const auto mean = [](KernelBuilder& k, F32 value, SourceLoc loc = SourceLoc::here()) {
    const Caller caller(k, loc);
    return block_sum(k, value) * (1.0f / static_cast<float>(k.threads()));
  };
  CHECK(error_of([&](Kernel& t) { mean(t.k, F32{}); }) == here(__LINE__) + never);
  // Behind the helper lines count again.
  CHECK(error_of([&](Kernel& t) { mean(t.k, t.x), t.k.abs(F32{}); }) == here(__LINE__) + never);
}

TEST_CASE("arguments that no instruction has") {
  const auto rejects = [](const Build& build, const std::string& words) {
    CHECK_THAT(error_of(build), Contains("tests/golden/errors_test.cpp:") && Contains(words));
  };
  rejects([](Kernel& t) { t.k.shuffle_xor(t.a, 32); }, "mask of 1 to 31, not 32");
  rejects([](Kernel& t) { t.k.permute_bytes(t.a, t.b, {0, 1, 2, 8}); }, "bytes 0 to 7, not 8");
  rejects([](Kernel& t) { t.k.pack2(DType::s8, t.x, t.y); }, "f16 or bf16, not s8");
  rejects([](Kernel& t) { t.k.unpack2(DType::e4m3, t.a); }, "f16 or bf16, not e4m3");
  rejects([](Kernel& t) { t.k.pack4(DType::f16, t.x, t.y, t.z, t.w); }, "s8 or e4m3, not f16");
  rejects([](Kernel& t) { t.k.cp_async_wait(-1); }, "leaves -1 groups");
  rejects([](Kernel& t) { t.k.block_idx(3); }, "axis 0, 1 or 2, not 3");
  rejects([](Kernel& t) { t.k.for_range(t.a, t.b, 0, [](I32) {}); }, "a step of 0");
  rejects([](Kernel& t) { t.k.shared(0, 16); }, "sizes are positive");
  rejects([](Kernel& t) { t.k.shared(64, 24); }, "powers of two");
  rejects([](Kernel& t) { t.k.shared(64, 4), t.k.shared(0x7fffffff, 4); }, "exceed");
  rejects([](Kernel& t) { t.k.shared(64, 4), t.k.shared(64, 1 << 30); }, "exceed");
  rejects([](Kernel& t) { t.keep(t.a / 0); }, "division by the constant 0");
  rejects([](Kernel& t) { t.keep(t.a << 32); }, "shift of 32 bits by 32");
  rejects([](Kernel& t) { t.k.store(t.out, t.wide << 64); }, "shift of 64 bits by 64");
  rejects([](Kernel& t) { t.k.shift_right_signed(t.a, t.k.i32(32)); }, "shift of 32 bits by 32");
  rejects([](Kernel& t) { t.k.divide_signed(t.a, t.k.i32(0)); }, "division by the constant 0");
  rejects([](Kernel& t) { t.k.remainder_signed(t.a, t.k.i32(0)); }, "division by the constant 0");
  rejects([](Kernel& t) { t.k.barrier(16, 64); }, "barriers 0 to 15, not 16");
  rejects([](Kernel& t) { t.k.barrier(1, 48); }, "48 threads cannot meet");
  rejects([](Kernel& t) { t.k.barrier_arrive(1, 96); }, "the block has 64 threads");
  rejects([](Kernel& t) { t.k.while_([&] { return t.k.pred(true); }, [] {}); }, "would not end");
  rejects([](Kernel& t) { t.k.while_({}, [] {}); }, "while_ needs a condition and a body");
  rejects([](Kernel& t) { t.k.fail("of my own"); }, "of my own");
  rejects([](Kernel& t) { t.k.params<TensorParam>(); },
          "56 bytes of parameters, this struct has 32");
}

TEST_CASE("fragments are what the instruction multiplies") {
  const auto fragments = [](Kernel& t, DType a, DType b, DType c, Mma kind,
                            SourceLoc loc = SourceLoc::here()) {
    t.k.mma(kind, {a, t.ints()}, {b, {t.a, t.b}}, {c, t.ints()}, loc);
  };
  const int line = __LINE__ + 1;
  const Build mixed = [&](Kernel& t) { fragments(t, DType::f16, DType::s8, DType::s32, Mma::s8); };
  CHECK(error_of(mixed) == here(line) +
                               "mma of s8 takes A of s8, but this one holds f16; use the mma of "
                               "its type or convert it");
  const auto rejects = [](const Build& build, const std::string& words) {
    CHECK_THAT(error_of(build), Contains("tests/golden/errors_test.cpp:") && Contains(words));
  };
  rejects([&](Kernel& t) { fragments(t, DType::f16, DType::bf16, DType::f32, Mma::f16); },
          "takes B of f16, but this one holds bf16");
  rejects([&](Kernel& t) { fragments(t, DType::s8, DType::s8, DType::f32, Mma::s8); },
          "takes an accumulator of s32, but this one holds f32");
  rejects([](Kernel& t) { t.k.mma(Mma::s8, {}, {}, MmaC()); }, "never given a value");
  rejects([](Kernel& t) { t.k.mma({}, {}, {}); }, "never given a value");
  rejects(
      [](Kernel& t) {
        t.k.mma({DType::f32, t.ints()}, {}, {});
      },
      "no mma takes operands of f32");
  rejects(
      [](Kernel& t) {
        t.k.mma({DType::s8, {}}, {DType::s8, {}}, {});
      },
      "an operand was never given a value");
  // Bits of no type are for the first mma; from then on the sum has its type.
  rejects(
      [](Kernel& t) {
        const MmaA a(DType::s8, t.ints()), half(DType::f16, t.ints());
        const MmaB b(DType::s8, {t.a, t.b}), half_b(DType::f16, {t.a, t.b});
        const MmaC sum = t.k.mma(a, b, {t.a, t.a, t.a, t.a});
        t.k.mma(half, half_b, sum);
      },
      "takes an accumulator of f32, but this one holds s32");
  rejects(
      [](Kernel& t) {
        t.k.mma(Mma::s8, {DType::s8, t.ints()}, {DType::s8, {t.a, t.b}}, MmaHalfC(t.a, t.a));
      },
      "f16 accumulators multiplies f16 or e4m3; use accumulators of 32 bits");
  rejects(
      [](Kernel& t) {
        t.k.mma(Mma::f16, {DType::bf16, t.ints()}, {DType::f16, {t.a, t.b}}, MmaHalfC(t.a, t.a));
      },
      "mma of f16 takes A of f16, but this one holds bf16");
  rejects(
      [](Kernel& t) {
        t.k.mma({DType::f16, t.ints()}, MmaUnsignedB(t.a, t.b), {t.a, t.b, t.c, t.d});
      },
      "mma of s8 takes A of s8, but this one holds f16");
  rejects(
      [](Kernel& t) {
        t.k.mma_k8(MmaShortA(DType::f16, {t.a, t.b}), MmaShortB(DType::bf16, {t.c}),
                   {t.a, t.b, t.c, t.d});
      },
      "mma of f16 takes B of f16, but this one holds bf16");
  rejects([](Kernel& t) { t.k.multiply2(DType::bf16, t.a, t.b); },
          "multiply2 multiplies pairs of f16, not of bf16");
  rejects([](Kernel& t) { t.k.subtract2(DType::bf16, t.a, t.b); },
          "subtract2 subtracts pairs of f16, not of bf16");
}

TEST_CASE("tiles are read as what they hold, and inside") {
  const auto rejects = [](const Build& build, const std::string& words) {
    CHECK_THAT(error_of(build), Contains("tests/golden/errors_test.cpp:") && Contains(words));
  };
  const auto tile = [](Kernel& t, const TileLayout& layout) {
    return SharedTile{layout, t.k.shared(layout.bytes(), kBankBytes)};
  };
  const TileLayout rows{64, 128, OperandA::kPanelBytes, DType::s8};
  const TileLayout columns{64, 128, dsl::panel_of_rows(128), DType::s8};
  rejects([&](Kernel& t) { OperandA(t.k, tile(t, {64, 128, 32})); }, "set TileLayout::type");
  rejects([&](Kernel& t) { OperandA(t.k, tile(t, columns)); }, "panels of 32 bytes");
  rejects([&](Kernel& t) { OperandA(t.k, tile(t, rows)).load(4, 0); }, "block (4, 0) of 16 rows");
  rejects([&](Kernel& t) { OperandA(t.k, tile(t, rows)).load(0, 4); }, "outside the tile of 64");
  rejects([&](Kernel& t) { OperandA(t.k, tile(t, rows)).load(-1, 0); }, "outside the tile");
  rejects([&](Kernel& t) { OperandA(t.k, {rows, {}}); }, "never given a value");
  rejects([&](Kernel& t) { OperandB(t.k, columns).load(tile(t, columns), 4, 0); }, "block (4, 0)");
  TileLayout other = columns;
  other.type = DType::f16;
  rejects([&](Kernel& t) { OperandB(t.k, columns).load(tile(t, other), 0, 0); },
          "another layout or type");
  rejects([&](Kernel& t) { OperandV(t.k, DType::bf16, other); },
          "reads bf16, but the tile holds f16");
  rejects([&](Kernel& t) { OperandV(t.k, DType::s8, columns); }, "e4m3, f16 or bf16, not s8");
  rejects([&](Kernel& t) { OperandV(t.k, DType::f16, other).load(tile(t, other), 4); },
          "block (0, 4)");
  rejects([](Kernel& t) { Accumulator(24, 8, t.k.i32(0)); }, "asked for 24 x 8");
  rejects([](Kernel&) { Accumulator(16, 8, F32{}); }, "never given a value");
  rejects([](Kernel& t) { Accumulator(16, 8, t.x).at(2, 0); }, "block (1, 0) lies outside");
  rejects([](Kernel& t) { AccumulatorVars(t.k, 16, 8).at(0, 2); }, "element (0, 2) lies outside");
  rejects([](Kernel&) { LanePosition(I32{}); }, "never given a value");
  const TileSource from{};
  rejects(
      [&](Kernel& t) {
        copy_tile_async(t.k, tile(t, rows), {t.in, t.wide}, t.a, 0);
      },
      "0 threads cannot copy");
  rejects([&](Kernel& t) { copy_tile_async(t.k, tile(t, rows), from, t.a, 64); },
          "never given a value");
  rejects(
      [&](Kernel& t) {
        copy_tile_async(t.k, tile(t, rows), {t.in, t.wide}, t.a, 8);
      },
      "8 threads cannot copy a tile of 64 rows of 128 bytes in passes of eight rows");
  for (const int row_bytes : {144, 24, -16}) {
    rejects(
        [&](Kernel& t) {
          copy_tile_async(t.k, tile(t, rows), {t.in, t.wide, row_bytes}, t.a, 64);
        },
        "do not fill a tile of rows of 128");
  }
  rejects(
      [&](Kernel& t) {
        const TileSource walked{t.in, t.wide, 0, [&](I32) { return t.wide; }, /*of_thread=*/true};
        copy_tile_async(t.k, tile(t, rows), walked, t.a, 64);
      },
      "rows that are no constant stride apart");
  rejects([&](Kernel& t) { store_tile(t.k, tile(t, rows), t.a, 0, t.out, t.wide, t.b); },
          "0 threads cannot store");
  rejects([&](Kernel& t) { store_tile(t.k, tile(t, rows), t.a, 64, t.out, t.wide, t.b, 24); },
          "64 threads cannot store 24 bytes of rows of 128");
  rejects(
      [&](Kernel& t) {
        store_tile(t.k, tile(t, {12, 64, 32}), t.a, 64, t.out, t.wide, t.b);
      },
      "12 rows of 64 bytes");
  CHECK_THROWS_WITH((TileLayout{8, 64, 0}.offset(1, 1)), Contains("32, 64 or 128 bytes, not 0"));
}

TEST_CASE("what the target does not have") {
  const auto mma = [](Mma kind) {
    return [kind](Kernel& t) {
      const DType type = kind == Mma::e4m3 ? DType::e4m3 : DType::s4;
      t.k.mma(kind, {type, t.ints()}, {type, {t.a, t.b}}, {t.a, t.b, t.c, t.d});
    };
  };
  CHECK_THAT(error_of(mma(Mma::e4m3), {.sm = 80}),
             Contains("mma of e4m3") && Contains("sm_80") && Contains("use f16"));
  CHECK_THAT(error_of(mma(Mma::s4), {.sm = 120}), Contains("mma of s4") && Contains("sm_120"));
  CHECK_THAT(error_of([](Kernel& t) { t.k.pack4(DType::e4m3, t.x, t.y, t.z, t.w); }, {.sm = 86}),
             Contains("conversion to e4m3") && Contains("sm_86"));
  CHECK(error_of(mma(Mma::e4m3), {.sm = 89}) == "no error");
  const auto in_f16 = [](Kernel& t) {
    const DType type = DType::e4m3;
    t.k.mma(Mma::e4m3, {type, t.ints()}, {type, {t.a, t.b}}, MmaHalfC(t.a, t.b));
  };
  CHECK_THAT(error_of(in_f16, {.sm = 86}), Contains("mma of e4m3") && Contains("use f16"));
  CHECK(error_of(in_f16, {.sm = 89}) == "no error");

  const TargetInfo& info = target_info({.sm = 89});
  CHECK_THAT(error_of([&](Kernel& t) { t.k.shared(1024, 16), t.k.shared(info.smem_per_block, 16); },
                      info.target),
             Contains(std::to_string(info.smem_per_block)) && Contains("behind the 1024 in use") &&
                 Contains("smaller tiles or fewer stages"));
  CHECK(error_of([&](Kernel& t) { t.k.shared(info.smem_per_block, 16); }, info.target) ==
        "no error");
}

TEST_CASE("block sizes are whole warps") {
  for (const int threads : {0, -32, 33, 1056}) {
    CHECK_THROWS_WITH(KernelBuilder("odd", kAmpere, threads, 8),
                      Contains("kernel odd") && Contains(std::to_string(threads)));
  }
}

}  // namespace
}  // namespace sagegen::golden
