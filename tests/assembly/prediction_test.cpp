// Counts, bounds, residency and predicted speed of machine code by hand.
#include <catch2/catch.hpp>
#include <set>

#include "tests/assembly/machine_code.h"
#include "tools/model/prediction.h"

namespace sagegen::model {
namespace {

using namespace sagegen::test;

// A warp's tile of 32 x 64 scores at head_dim 64: 32 products each.
constexpr int kHeadDim = 64, kProducts = 32, kScores = 32 * 64;

// Q K, P V, and a branch back, as sm_89 writes it: the distance stands in words of 4 bytes from bit 34 on.
Code attention_like(const Instruction& qk, int qk_count, const Instruction& pv, int pv_count,
                    const std::vector<Instruction>& more = {}) {
  Code code{.architecture = 89, .registers = 255};
  const auto add = [&](int count, const Instruction& instruction) {
    for (int i = 0; i < count; ++i) code.instructions.push_back(instruction);
  };
  add(qk_count, qk);
  add(pv_count, pv);
  for (const Instruction& instruction : more) add(1, instruction);
  const auto words =
      static_cast<std::uint64_t>(-4 * (static_cast<std::int64_t>(code.instructions.size()) + 1));
  Instruction back{.low = 0x947u | kIf | words << 34,
                   .high = kSecondAlways | (words >> 30 & 0x3ffff)};
  back.set({.stall = 5});
  add(1, back);
  add(1, plain(operation::kExit));
  return code;
}

const Gpu& gpu(const char* name) { return *find_gpu(name); }
constexpr Launch kLaunch{.threads = 128, .dynamic_shared = 24576};

TEST_CASE("a loop is counted by class, per score of its product Q K") {
  const std::vector<Instruction> more{plain(0x021, {.stall = 4}), plain(0x183, {.stall = 2}),
                                      plain(0x187)};
  const Code code = attention_like(imma_s8(), kProducts, qmma_f32(), kProducts, more);
  const std::optional<HotPath> path = hot_path(code);
  REQUIRE(path);
  const LoopCounts counts = count_loop(*path, 89, kHeadDim);
  CHECK(counts.scores == kScores);
  CHECK(counts.instructions == 2 * kProducts + 4);
  CHECK(counts.of(OperationClass::mma) == 2 * kProducts);
  CHECK(counts.of(OperationClass::fp32) == 1);
  CHECK(counts.of(OperationClass::branch) == 1);
  CHECK(counts.spills == 2);
  CHECK(counts.stall_sum == 2 * kProducts + 4 + 2 + 1 + 5);
  CHECK(counts.slots_per_score(2 * kProducts) == 1);
  CHECK_THROWS_WITH(count_loop(*path, 89, 96), Catch::Contains("no scores of head_dim 96"));
  CHECK_THROWS_WITH(count_loop(*path, 89, 0), Catch::Contains("head_dim 0"));

  // INT4 takes half as many instructions for as many scores.
  const auto four_bits = hot_path(attention_like(imma_s4(), kProducts / 2, qmma_f32(), kProducts));
  REQUIRE(four_bits);
  const LoopCounts counts4 = count_loop(*four_bits, 89, kHeadDim);
  CHECK(counts4.scores == kScores);
  CHECK(counts4.multiplications[static_cast<std::size_t>(MmaKind::s4)] == kScores * kHeadDim);

  // Of f16, twice as many: beside P V of FP8 all are of Q K; else half of what is left without the sum of P, which is
  // eight channels more.
  const auto beside_fp8 =
      hot_path(attention_like(hmma_f32(), 2 * kProducts, qmma_f32(), kProducts));
  REQUIRE(beside_fp8);
  CHECK(count_loop(*beside_fp8, 89, kHeadDim).scores == kScores);
  constexpr int kSumProducts = kScores * 8 / (16 * 8 * 16);
  const auto all_f16 =
      hot_path(attention_like(hmma_f32(), 4 * kProducts, hmma_f32(), kSumProducts));
  REQUIRE(all_f16);
  CHECK(count_loop(*all_f16, 89, kHeadDim).scores == kScores);
  CHECK_THROWS_WITH(count_loop(*all_f16, 89, 128),
                    Catch::Contains("of Q K and P V, which are no scores of head_dim 128"));
}

TEST_CASE("the roof is what the rates of both products allow") {
  const auto roof = [&](const Code& code, const char* name) {
    return predict(code, kLaunch, kHeadDim, gpu(name)).roof;
  };
  // Multiply-adds per SM and cycle: 1024 of s8, 512 of e4m3 with f32 sums; two operations each.
  const double of_4090 = 2 * 2 / (1 / 1024.0 + 1 / 512.0) * 128 * 2.52e9 / 1e12;
  const Code e4m3 = attention_like(imma_s8(), kProducts, qmma_f32(), kProducts);
  CHECK(roof(e4m3, "RTX4090") == Approx(of_4090));
  CHECK(roof(e4m3, "L40S") == Approx(2 * 1024 * 142 * 2.52e9 / 1e12));
  Instruction f16_sums = qmma_f32();
  f16_sums.high &= ~(std::uint64_t{1} << 13);
  CHECK(roof(attention_like(imma_s8(), kProducts, f16_sums, kProducts), "RTX4090") ==
        Approx(2 * 1024 * 128 * 2.52e9 / 1e12));
  const double of_s4 = 2 * 2 / (1 / 2048.0 + 1 / 512.0) * 128 * 2.52e9 / 1e12;
  CHECK(roof(attention_like(imma_s4(), kProducts / 2, qmma_f32(), kProducts), "RTX4090") ==
        Approx(of_s4));
}

TEST_CASE("a loop of mma alone is predicted near its roof, a longer one below it") {
  const Code bare = attention_like(imma_s8(), kProducts, qmma_f32(), kProducts);
  const Prediction near = predict(bare, kLaunch, kHeadDim, gpu("RTX4090"));
  CHECK(near.blocks == 2);
  CHECK(near.warps == 2);
  CHECK(near.tops <= near.roof);
  CHECK(near.tops > 0.97 * near.roof);
  CHECK(near.cycles == Approx(near.bounds.tensor).epsilon(0.03));
  CHECK(near.lowest <= near.cycles);
  CHECK(near.cycles <= near.highest);
  const std::vector<Instruction> slow(3000, plain(0x012));
  const Prediction far = predict(attention_like(imma_s8(), kProducts, qmma_f32(), kProducts, slow),
                                 kLaunch, kHeadDim, gpu("RTX4090"));
  CHECK(far.roof == near.roof);
  CHECK(far.cycles > 6000);
  CHECK(far.tops == Approx(near.tops * near.cycles / far.cycles));
}

TEST_CASE("a block of one warp leaves sub-cores idle where no other one fits") {
  const Code code = attention_like(imma_s8(), kProducts, qmma_f32(), kProducts);
  const Prediction one =
      predict(code, {.threads = 32, .dynamic_shared = 60 * 1024}, kHeadDim, gpu("RTX4090"));
  CHECK(one.blocks == 1);
  CHECK(one.warps == 1);
  CHECK(one.tops < 0.26 * one.roof);
}

TEST_CASE("warps of one block meet at its barrier, those of two blocks do not") {
  // Two warps per sub-core either way. While one of them adds, the other one may multiply, unless it has to wait.
  std::vector<Instruction> more{plain(operation::kBarrier)};
  more.insert(more.end(), 400, plain(0x021, {.stall = 4}));
  const Code code = attention_like(imma_s8(), kProducts, qmma_f32(), kProducts, more);
  const Prediction apart = predict(code, {.threads = 128}, kHeadDim, gpu("RTX4090"));
  const Prediction together = predict(code, {.threads = 256}, kHeadDim, gpu("RTX4090"));
  CHECK(apart.warps == 2);
  CHECK(together.warps == 2);
  CHECK(together.blocks == 1);
  CHECK(together.cycles > 1.1 * apart.cycles);
}

TEST_CASE("blocks of an SM are limited by registers, shared memory, warps") {
  const auto blocks = [](int registers, Launch launch, const char* name = "RTX4090",
                         int static_shared = 0) {
    return blocks_per_sm({.registers = registers, .static_shared = static_shared}, launch,
                         gpu(name));
  };
  CHECK(blocks(255, {.threads = 128}) == 2);
  CHECK(blocks(168, {.threads = 128}) == 3);
  CHECK(blocks(169, {.threads = 128}) == 2);  // 176: registers are given out by 8 of a thread
  CHECK(blocks(128, {.threads = 128}) == 4);
  CHECK(blocks(32, {.threads = 128}) == 12);  // 48 warps
  CHECK(blocks(32, {.threads = 128}, "A100") == 16);
  CHECK(blocks(32, {.threads = 128, .dynamic_shared = 49152}) == 2);
  CHECK(blocks(32, {.threads = 128, .dynamic_shared = 51200}) == 1);  // and 1 KiB of the system
  CHECK(blocks(32, {.threads = 128, .dynamic_shared = 49152}, "RTX4090", 2048) == 1);
  CHECK(blocks(32, {.threads = 128, .dynamic_shared = 100 * 1024}) == 0);
}

TEST_CASE("what is not modelled is refused, with the rule") {
  const Code code = attention_like(imma_s8(), kProducts, qmma_f32(), kProducts);
  const auto refusal = [](const Code& refused, const char* name, Launch launch = kLaunch,
                          int head_dim = kHeadDim) -> std::string {
    try {
      predict(refused, launch, head_dim, gpu(name));
    } catch (const NotModelled& error) {
      return error.what();
    }
    return "";
  };
  CHECK(refusal(code, "RTX4090").empty());
  CHECK(refusal(code, "A100") == "the code is for sm_89, and the GPU is A100 (sm_80)");
  CHECK_THAT(refusal({.architecture = 89, .instructions = {plain(operation::kExit)}}, "RTX4090"),
             Catch::Contains("no loop with the two products"));
  Code ampere = code;
  ampere.architecture = 80;
  CHECK_THAT(refusal(ampere, "A100"),
             Catch::Contains("multiplies f8, f32 sums") && Catch::Contains("no rate"));
  Code warpgroups = code;
  warpgroups.instructions.push_back(plain(0x1f1));
  CHECK_THAT(refusal(warpgroups, "RTX4090"), Catch::Contains("wgmma"));
  CHECK_THAT(refusal(code, "RTX4090", {.threads = 100}), Catch::Contains("100 threads"));
  CHECK_THAT(refusal(code, "RTX4090", {.threads = 0}), Catch::Contains("0 threads"));
  CHECK_THAT(refusal(code, "RTX4090", {.threads = 128, .dynamic_shared = 1 << 20}),
             Catch::Contains("does not fit RTX4090"));
  CHECK_THAT(refusal(code, "RTX4090", kLaunch, 48), Catch::Contains("head_dim 48"));
}

TEST_CASE("the table of GPUs names each once, with its source") {
  std::set<std::string_view> names;
  for (const Gpu& one : gpus()) {
    INFO(one.name);
    CHECK(names.insert(one.name).second);
    CHECK(find_gpu(one.name) == &one);
    CHECK(usual_gpu(one.architecture) != nullptr);
    CHECK_FALSE(one.source.empty());
    CHECK(one.rate(MmaKind::s8) > 0);
    CHECK(one.rate(MmaKind::f16_f16) >= one.rate(MmaKind::f16_f32));
    CHECK(one.rate(MmaKind::f8_f16) >= one.rate(MmaKind::f8_f32));
    // Peak figures are whole: a sub-core does a power of two per cycle.
    for (const int rate : one.mma_rate) CHECK((rate & (rate - 1)) == 0);
  }
  CHECK(find_gpu("rtx4090") == find_gpu("RTX4090"));
  CHECK(find_gpu("RTX40900") == nullptr);
  CHECK(find_gpu("") == nullptr);
  CHECK(usual_gpu(77) == nullptr);
  CHECK(usual_gpu(89)->name == "RTX4090");
}

}  // namespace
}  // namespace sagegen::model
