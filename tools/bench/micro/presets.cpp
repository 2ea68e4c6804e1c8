// Ways to start an s32 accumulator at the bits of 1.5 * 2^23, so that its bits, read as f32, are
// 12582912 plus the score and no conversion is needed; and the fault of ptxas 13.0 that gives the
// operands of two wgmma the same registers.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "tools/bench/micro/wgmma_stream.h"

namespace sagegen::micro {
namespace {

constexpr const char* kNoWgmma = "the emulator does not execute wgmma";
constexpr std::uint32_t kBias = 0x4b400000;  // 1.5 * 2^23
constexpr std::uint32_t kTiles = 256;

// ---- presets ------------------------------------------------------------------------------------

enum class Preset { none, moves, dfma, e5m2 };
constexpr const char* kPresetNames[] = {"none", "moves", "dfma", "e5m2"};
constexpr const char* kPresetTexts[] = {
    "the first wgmma overwrites (no bias, needs conversions)", "a move for each register",
    "a 64-bit FMA for each two registers: old value * 0 + bias",
    "an e5m2 wgmma whose only product is 1.5 * 2^23, without a wait before the s8 chain"};

// Shared memory: A, two tiles of B in turns, and the operands of the e5m2 wgmma.
const WgmmaShape kShape{.n = 128};
const int kSecondB = kShape.image_bytes();
const int kBiasA = kSecondB + kShape.b_bytes();
const int kBiasB = kBiasA + kRows * kRowBytes;
const int kSharedBytes = kBiasB + kShape.b_bytes();

Words preset_input(const Operands& first, const Operands& second) {
  Words words = swizzled(encoded(kShape, first.a), kRows);
  const auto append = [&](const std::vector<std::uint8_t>& bytes, int rows) {
    const Words image = swizzled(bytes, rows);
    words.insert(words.end(), image.begin(), image.end());
  };
  append(encoded(kShape, first.b), kShape.n);
  append(encoded(kShape, second.b), kShape.n);
  // The first k of each row: 2^12 and 1.5 * 2^11 in e5m2 (exponent bias 15, two fraction bits).
  std::vector<std::uint8_t> a(kRows * kRowBytes), b(static_cast<std::size_t>(kShape.b_bytes()));
  for (std::size_t i = 0; i < a.size(); i += kRowBytes) a[i] = (12 + 15) << 2;
  for (std::size_t i = 0; i < b.size(); i += kRowBytes) b[i] = (11 + 15) << 2 | 2;
  append(a, kRows);
  append(b, kShape.n);
  return words;
}

Program preset_program(Preset preset, int warpgroups) {
  const int threads = warpgroups * kGroupThreads;
  const int accumulators = kShape.accumulators();
  std::string before, tile;
  switch (preset) {
    case Preset::none:
      break;
    case Preset::moves:
      for (int i = 0; i < accumulators; ++i)
        before += fmt::format("\tmov.b32 %d{}, {};\n", i, kBias);
      break;
    case Preset::
        dfma:  // old values are finite: their high word is that of a small number or 0x4b3.....
      for (int i = 0; i < accumulators; i += 2) {
        before += fmt::format(
            "\tmov.b64 %pair, {{%d{0}, %d{1}}};\n"
            "\tfma.rn.f64 %pair, %pair, %zero, %bias;\n"
            "\tmov.b64 {{%d{0}, %d{1}}}, %pair;\n",
            i, i + 1);
      }
      break;
    case Preset::e5m2:
      tile += fmt::format(
          "\twgmma.mma_async.sync.aligned.m64n{}k32.f32.e5m2.e5m2 {{{}}}, %pa0, %pb0, 0, 1, 1;\n",
          kShape.n, numbered("%d", accumulators));
      break;
  }
  for (int step = 0; step < kSteps; ++step) {
    tile += wgmma(kShape, step, preset == Preset::none && step == 0 ? "0" : "1");
  }
  // The two tiles of B in turns: the descriptors go back and forth.
  std::string turn = "\txor.b32 %r8, %r8, %r9;\n";
  for (int step = 0; step < kSteps; ++step) {
    turn += fmt::format(
        "\tcvt.u64.u32 %rd1, %r8;\n"
        "\tadd.s64 %db{0}, %first{0}, %rd1;\n",
        step);
  }
  std::string use = "\tmov.b32 %most, %d0;\n";
  for (int i = 1; i < accumulators; ++i) use += fmt::format("\tmax.s32 %most, %most, %d{};\n", i);
  use += "\tadd.s32 %word0, %word0, %most;\n";
  std::string setup = copy_to_shared(kSharedBytes, threads) + descriptors("%da", 0) +
                      descriptors("%first", kRows * kRowBytes) + descriptors("%pa", kBiasA) +
                      descriptors("%pb", kBiasB) +
                      fmt::format(
                          "\tld.param.b64 %zero, [micro_param_0+32];\n"
                          "\tmov.b32 %r2, {};\n"
                          "\tmov.b64 %bias, {{%r2, %r2}};\n"
                          "\tmov.b32 %word0, 0;\n"
                          "\tmov.b32 %r9, {};\n"
                          "\tmov.b32 %r8, %r9;\n",  // the first turn makes it 0
                          kBias, (kSecondB - kRows * kRowBytes) >> 4);
  for (int i = 0; i < accumulators; ++i) setup += fmt::format("\tmov.b32 %d{}, 0;\n", i);
  const std::string loop = turn + before + "\twgmma.fence.sync.aligned;\n" + tile +
                           "\twgmma.commit_group.sync.aligned;\n"
                           "\twgmma.wait_group.sync.aligned 0;\n" +
                           use;
  const int words = threads * (accumulators + 1);
  // [accumulator][thread], then the sums.
  const std::string store_sum =
      fmt::format("\tst.global.b32 [%rd0+{}], %word0;\n", 4 * threads * accumulators);
  const int tensor_count = kSteps;
  Program program{
      .name = fmt::format("preset_{}_{}wg", kPresetNames[static_cast<int>(preset)], warpgroups),
      .ptx = kernel_ptx(
          fmt::format("accumulators started by {}", kPresetTexts[static_cast<int>(preset)]),
          threads,
          wgmma_registers(kShape) + fmt::format("\t.reg .b64 %first<{0}>, %pa<{0}>, %pb<{0}>;\n"
                                                "\t.reg .b64 %pair, %zero, %bias;\n"
                                                "\t.reg .b32 %most, %word<1>;\n",
                                                kSteps),
          setup + start_clock() + counted_loop(loop) + stop_clock() +
              store_thread_words("%d", accumulators, threads, words) + store_sum),
      .threads = threads,
      .shared_bytes = kSharedBytes,
      .sass = {kShape.sass(tensor_count)}};
  if (preset == Preset::dfma) program.sass.push_back({"DFMA", 0x02b, accumulators / 2});
  if (preset == Preset::e5m2) program.sass.push_back({"QGMMA", kQgmma, 1});
  return program;
}

Words preset_expected(Preset preset, int threads, const Operands& first, const Operands& second,
                      std::uint32_t tiles) {
  const std::uint32_t bias = preset == Preset::none ? 0 : kBias;
  const auto score = [&](const Operands& operands, int reg, int thread) {
    const Place place = accumulator_place(reg, thread);
    return bias + static_cast<std::uint32_t>(operands.product(place.row, place.column));
  };
  Words words, sums;
  for (int reg = 0; reg < kShape.accumulators(); ++reg) {
    for (int thread = 0; thread < threads; ++thread) {
      words.push_back(score(tiles % 2 == 0 ? second : first, reg, thread % kGroupThreads));
    }
  }
  for (int thread = 0; thread < threads; ++thread) {
    if (thread >= kGroupThreads) {
      sums.push_back(sums[sums.size() - kGroupThreads]);
      continue;
    }
    std::int32_t most_first = std::numeric_limits<std::int32_t>::min(), most_second = most_first;
    for (int reg = 0; reg < kShape.accumulators(); ++reg) {
      most_first = std::max(most_first, static_cast<std::int32_t>(score(first, reg, thread)));
      most_second = std::max(most_second, static_cast<std::int32_t>(score(second, reg, thread)));
    }
    sums.push_back((tiles + 1) / 2 * static_cast<std::uint32_t>(most_first) +
                   tiles / 2 * static_cast<std::uint32_t>(most_second));
  }
  words.insert(words.end(), sums.begin(), sums.end());
  return words;
}

Benchmark preset_benchmark(Preset preset) {
  return {
      .name = fmt::format("preset_{}", kPresetNames[static_cast<int>(preset)]),
      .what = fmt::format(
          "tiles of four s8 wgmma m64n128k32, a wait and a row maximum; accumulators: {}",
          kPresetTexts[static_cast<int>(preset)]),
      .programs = {preset_program(preset, 1), preset_program(preset, 3)},
      .not_emulated = kNoWgmma,
      .run = [preset](Session& session, const std::vector<Program>& programs) {
        const Operands first = wgmma_operands(kShape, 2), second = wgmma_operands(kShape, 3);
        Outcome outcome;
        outcome.checked =
            "every accumulator of the last tile and the sum of the maxima of all, exactly";
        for (const Program& program : programs) {
          const auto loaded = session.load(program);
          const Observed observed = observe(
              session, *loaded,
              {.in = preset_input(first, second),
               .out_words = static_cast<std::size_t>(program.threads * (kShape.accumulators() + 1)),
               .iterations = kTiles});
          const std::string label = fmt::format("{} warpgroup(s)", program.threads / kGroupThreads);
          if (outcome.wrong.empty()) {
            outcome.wrong = first_difference(
                observed, preset_expected(preset, program.threads, first, second, kTiles),
                label.c_str());
          }
          outcome.series.push_back({label, "clocks per tile and SM",
                                    clocks_per(observed, static_cast<double>(kTiles) *
                                                             (program.threads / kGroupThreads))});
        }
        return outcome;
      }};
}

}  // namespace

void add_preset_benchmarks(std::vector<Benchmark>& list) {
  for (const Preset preset : {Preset::none, Preset::moves, Preset::dfma, Preset::e5m2}) {
    list.push_back(preset_benchmark(preset));
  }
}

}  // namespace sagegen::micro
