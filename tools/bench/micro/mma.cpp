// mma.sync on compute capability 9.0, where wgmma is the fast path: s8 and f16 as the hardware has
// them, s4 and e4m3 as ptxas emulates them.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>

#include "tools/bench/micro/micro.h"
#include "tools/hardware/probe.h"

namespace sagegen::micro {
namespace {

constexpr int kThreads = 256;
constexpr int kAccumulators = 4;  // independent ones of a warp
constexpr int kRounds = 8;        // of all accumulators per iteration

struct Mma {
  const char* name;
  const char* shape;
  const char* types;  // of d, a, b, c
  int k, bits;        // of an operand element
  bool integer;
  bool emulated;
  std::vector<SassCount> sass;  // of one mma
};

// Words of A and B hold 32 / bits elements. A lane 4g+t of A and of B hold the same elements of k
// in the registers of one half of k: all that the product needs to know of the layout.
int halves(const Mma& mma) { return mma.k * mma.bits / 128; }
int a_words(const Mma& mma) { return 2 * halves(mma); }
int b_words(const Mma& mma) { return halves(mma); }

// Small integers, so that every format holds them and sums stay exact in the narrowest accumulator:
// -1, 0, 1.
int element(hardware::Random& random) { return random.below(3) - 1; }

std::uint32_t code_of(const Mma& mma, int value) {
  if (mma.integer) return static_cast<std::uint32_t>(value) & ((1u << mma.bits) - 1u);
  const std::uint32_t one = mma.bits == 16 ? 0x3c00u : 0x38u;  // f16, e4m3
  return value == 0 ? 0u : one | (value < 0 ? 1u << (mma.bits - 1) : 0u);
}

struct Operands {
  Words words;                                  // [register][lane]
  std::vector<std::array<int, kLanes>> values;  // [register * elements + element][lane]
};

Operands make_operands(const Mma& mma) {
  hardware::Random random(7);
  Operands operands;
  for (int r = 0; r < a_words(mma) + b_words(mma); ++r) {
    const int elements = 32 / mma.bits;
    std::vector<std::array<int, kLanes>> values(static_cast<std::size_t>(elements));
    for (int lane = 0; lane < kLanes; ++lane) {
      std::uint32_t word = 0;
      for (int e = 0; e < elements; ++e) {
        const int value = element(random);
        values[static_cast<std::size_t>(e)][static_cast<std::size_t>(lane)] = value;
        word |= code_of(mma, value) << (mma.bits * e);
      }
      operands.words.push_back(word);
    }
    operands.values.insert(operands.values.end(), values.begin(), values.end());
  }
  return operands;
}

int product(const Mma& mma, const Operands& operands, int row, int column) {
  const int elements = 32 / mma.bits;
  int sum = 0;
  for (int h = 0; h < halves(mma); ++h) {
    for (int t = 0; t < 4; ++t) {
      for (int e = 0; e < elements; ++e) {
        const int a = (2 * h + (row >> 3)) * elements + e;
        const int b = (a_words(mma) + h) * elements + e;
        sum +=
            operands
                .values[static_cast<std::size_t>(a)][static_cast<std::size_t>(4 * (row & 7) + t)] *
            operands.values[static_cast<std::size_t>(b)][static_cast<std::size_t>(4 * column + t)];
      }
    }
  }
  return sum;
}

// [word][thread] of a block: register i of accumulator n started at n.
Words expected_words(const Mma& mma, const Operands& operands, std::uint32_t iterations) {
  Words words;
  for (int n = 0; n < kAccumulators; ++n) {
    for (int i = 0; i < 4; ++i) {
      for (int thread = 0; thread < kThreads; ++thread) {
        const int lane = thread % kLanes;
        const int sum =
            product(mma, operands, (lane >> 2) + 8 * (i >> 1), 2 * (lane & 3) + (i & 1));
        const int value = n + static_cast<int>(iterations) * kRounds * sum;
        words.push_back(mma.integer ? static_cast<std::uint32_t>(value)
                                    : std::bit_cast<std::uint32_t>(static_cast<float>(value)));
      }
    }
  }
  return words;
}

Program mma_program(const Mma& mma) {
  std::string registers = fmt::format("\t.reg .b32 %a<{}>, %b<{}>, %d<{}>;\n", a_words(mma),
                                      b_words(mma), 4 * kAccumulators);
  std::string load =
      "\tmul.wide.u32 %rd0, %lane, 4;\n"
      "\tadd.s64 %rd0, %rd0, %in;\n";
  std::vector<std::string> loaded;
  for (int i = 0; i < a_words(mma) + b_words(mma); ++i) {
    const bool is_a = i < a_words(mma);
    loaded.push_back(fmt::format("%{}{}", is_a ? 'a' : 'b', is_a ? i : i - a_words(mma)));
    load += fmt::format("\tld.global.b32 {}, [%rd0+{}];\n", loaded.back(), 4 * kLanes * i);
  }
  load += wait_for_loads(loaded);
  std::string steps;
  for (int n = 0; n < kAccumulators; ++n) {
    for (int i = 0; i < 4; ++i) {
      load += mma.integer ? fmt::format("\tmov.b32 %d{}, {};\n", 4 * n + i, n)
                          : fmt::format("\tmov.b32 %d{}, 0f{:08x};\n", 4 * n + i,
                                        std::bit_cast<std::uint32_t>(static_cast<float>(n)));
    }
  }
  if (mma.emulated) load += "\tld.param.b32 %r2, [micro_param_0+32];\n";
  for (int round = 0; round < kRounds; ++round) {
    for (int n = 0; n < kAccumulators; ++n) {
      // ptxas would compute a product of operands that stay once, before the loop.
      for (int i = 0; mma.emulated && i < a_words(mma) + b_words(mma); ++i) {
        const bool is_a = i < a_words(mma);
        steps += fmt::format("\txor.b32 %{0}{1}, %{0}{1}, %r2;\n", is_a ? 'a' : 'b',
                             is_a ? i : i - a_words(mma));
      }
      const std::string d =
          fmt::format("{{%d{}, %d{}, %d{}, %d{}}}", 4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3);
      steps +=
          fmt::format("\tmma.sync.aligned.{}.row.col.{} {}, {{{}}}, {{{}}}, {};\n", mma.shape,
                      mma.types, d, numbered("%a", a_words(mma)), numbered("%b", b_words(mma)), d);
    }
  }
  std::vector<SassCount> sass = mma.sass;
  for (SassCount& count : sass) count.count *= kRounds * kAccumulators;
  return {
      .name = fmt::format("mma_{}", mma.name),
      .ptx = kernel_ptx(
          fmt::format("mma.sync {} {}", mma.shape, mma.types), kThreads, registers,
          load + start_clock() + counted_loop(steps) + stop_clock() +
              store_thread_words("%d", 4 * kAccumulators, kThreads, 4 * kAccumulators * kThreads)),
      .threads = kThreads,
      .shared_bytes = 0,
      .sass = sass};
}

Outcome run_mma(Session& session, const Mma& mma, const Program& program) {
  // e4m3 sums stay below 2^13: 256 steps of at most 32.
  const std::uint32_t iterations = session.iterations(32);
  const Operands operands = make_operands(mma);
  const auto loaded = session.load(program);
  const Observed observed = observe(session, *loaded,
                                    {.in = operands.words,
                                     .out_words = std::size_t{4} * kAccumulators * kThreads,
                                     .iterations = iterations,
                                     .repetitions = 10});
  Outcome outcome;
  outcome.checked = "every accumulator, exactly";
  outcome.wrong =
      first_difference(observed, expected_words(mma, operands, iterations), "accumulators");
  const double count = static_cast<double>(iterations) * kRounds * kAccumulators * loaded->warps();
  outcome.series = {{"all warps", "clocks per mma and SM", clocks_per(observed, count)}};
  return outcome;
}

}  // namespace

void add_mma_benchmarks(std::vector<Benchmark>& list) {
  static const std::vector<Mma> mmas = {
      {"s8", "m16n8k32", "s32.s8.s8.s32", 32, 8, true, false, {{"IMMA", 0x037, 1}}},
      {"f16", "m16n8k16", "f32.f16.f16.f32", 16, 16, false, false, {{"HMMA", 0x03c, 1}}},
      {"e4m3_emulated", "m16n8k32", "f32.e4m3.e4m3.f32", 32, 8, false, true, {{"HMMA", 0x03c, 2}}},
      {"s4_emulated", "m16n8k64", "s32.s4.s4.s32", 64, 4, true, true, {}},  // calls a subroutine
  };
  for (const Mma& mma : mmas) {
    list.push_back(
        {.name = fmt::format("mma_{}", mma.name),
         .what = fmt::format("mma.sync {} {}, {} warps of {} accumulators{}", mma.shape, mma.types,
                             kThreads / kLanes, kAccumulators,
                             mma.emulated ? ", each with operands that may have changed" : ""),
         .programs = {mma_program(mma)},
         .not_emulated = {},
         .run = [mma](Session& session, const std::vector<Program>& programs) {
           return run_mma(session, mma, programs[0]);
         }});
  }
}

}  // namespace sagegen::micro
