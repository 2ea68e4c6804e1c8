// Rates of wgmma: shapes, warpgroups, group sizes, and how groups of several warpgroups interleave.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tools/bench/micro/wgmma_stream.h"

namespace sagegen::micro {
namespace {

constexpr const char* kNoWgmma = "the emulator does not execute wgmma";

constexpr int kWgmmaTotal = 2048;  // of each warpgroup in a stream
constexpr int kGrouped = 16;       // per iteration; enough for the largest group

void run_stream(Session& session, const WgmmaShape& shape, const Program& program,
                int per_iteration, const std::string& label, Outcome& outcome) {
  const Operands operands = wgmma_operands(shape);
  const auto loaded = session.load(program);
  const Observed observed =
      observe(session, *loaded,
              {.in = wgmma_input(shape, operands),
               .out_words = static_cast<std::size_t>(shape.accumulators() * program.threads),
               .iterations = static_cast<std::uint32_t>(kWgmmaTotal / per_iteration)});
  const std::string wrong = first_difference(
      observed, wgmma_expected(shape, operands, program.threads, kWgmmaTotal), label.c_str());
  if (outcome.wrong.empty()) outcome.wrong = wrong;
  outcome.checked = "every accumulator of every block, exactly";
  const double count = static_cast<double>(kWgmmaTotal) * (program.threads / kGroupThreads);
  outcome.series.push_back({label, "clocks per wgmma and SM", clocks_per(observed, count)});
}

Benchmark stream_benchmark(const WgmmaShape& shape, int warpgroups) {
  const std::string name = fmt::format("wgmma_{}_{}wg", shape.name(), warpgroups);
  return {.name = name,
          .what = fmt::format("m64n{}k32 {}, A from {}, {} warpgroup{} of one block, groups of {}",
                              shape.n, shape.fp8 ? "e4m3" : "s8",
                              shape.a_in_registers ? "registers" : "shared memory", warpgroups,
                              warpgroups == 1 ? "" : "s", kStreamWgmma),
          .programs = {wgmma_stream_program(name, shape, warpgroups, kStreamWgmma)},
          .not_emulated = kNoWgmma,
          .run = [shape](Session& session, const std::vector<Program>& programs) {
            Outcome outcome;
            run_stream(session, shape, programs[0], kStreamWgmma, "all warpgroups", outcome);
            return outcome;
          }};
}

Benchmark group_benchmark(const WgmmaShape& shape, int warpgroups) {
  Benchmark benchmark{
      .name = fmt::format("wgmma_groups_{}_{}wg", shape.name(), warpgroups),
      .what = fmt::format("{}, {} warpgroup(s): each group is committed and waited for",
                          shape.name(), warpgroups),
      .programs = {},
      .not_emulated = kNoWgmma,
      .run = nullptr};
  std::vector<std::string> labels;
  for (const int group : {1, 2, 4, 8, 16}) {
    benchmark.programs.push_back(wgmma_stream_program(fmt::format("{}_by{}", benchmark.name, group),
                                                      shape, warpgroups, group, kGrouped));
    labels.push_back(fmt::format("groups of {}", group));
  }
  benchmark.run = [shape, labels](Session& session, const std::vector<Program>& programs) {
    Outcome outcome;
    for (std::size_t i = 0; i < programs.size(); ++i) {
      run_stream(session, shape, programs[i], kGrouped, labels[i], outcome);
    }
    return outcome;
  };
  return benchmark;
}

// ---- interleaving -------------------------------------------------------------------------------

// Warpgroup 0 issues short groups, the others long ones, as many wgmma each. Every wait leaves a
// clock. If the tensor cores serve group by group, a short group waits for the long ones that are
// before it; if they take instructions in turns, it takes about (warpgroups) times as long as
// alone.
struct Interleaving {
  int warpgroups, short_group, long_group;
};
constexpr int kWgmmaEach = 512;

int group_of(const Interleaving& mix, int warpgroup) {
  return warpgroup == 0 ? mix.short_group : mix.long_group;
}
int waits_of(const Interleaving& mix, int warpgroup) {
  return kWgmmaEach / group_of(mix, warpgroup);
}
int trace_start(const WgmmaShape& shape, const Interleaving& mix) {  // in words of a block
  return shape.accumulators() * mix.warpgroups * kGroupThreads;
}
int block_words(const WgmmaShape& shape, const Interleaving& mix) {
  return trace_start(shape, mix) + mix.warpgroups * 2 * kWgmmaEach;
}

Program interleaving_program(const std::string& name, const WgmmaShape& shape,
                             const Interleaving& mix) {
  const int threads = mix.warpgroups * kGroupThreads;
  const auto part = [&](const char* label, int group) {
    const int per_iteration = std::max(group, kSteps);
    std::string groups;
    for (int i = 0; i < per_iteration; i += group) {
      groups += wgmma_group(shape, group, i) +
                "\tmov.u64 %clock1, %clock64;\n"
                "\t@%p1 st.global.b64 [%rd1], %clock1;\n"
                "\tadd.s64 %rd1, %rd1, 8;\n";
    }
    return fmt::format(
        "\tmov.b32 %i, 0;\n"
        "{0}:\n"
        "\t.pragma \"nounroll\";\n"
        "{1}"
        "\tadd.s32 %i, %i, 1;\n"
        "\tsetp.lt.u32 %p0, %i, {2};\n"
        "\t@%p0 bra {0};\n",
        label, groups, kWgmmaEach / per_iteration);
  };
  const std::string body =
      wgmma_setup(shape, threads) +
      fmt::format(
          "\tshr.u32 %r2, %warp, 2;\n"
          "\tshfl.sync.idx.b32 %r2, %r2, 0, 31, 0xffffffff;\n"
          "\tmul.lo.u32 %r3, %cta, {};\n"
          "\tmad.lo.s32 %r3, %r2, {}, %r3;\n"
          "\tadd.s32 %r3, %r3, {};\n"
          "\tmul.wide.u32 %rd1, %r3, 4;\n"
          "\tadd.s64 %rd1, %rd1, %out;\n"
          "\tand.b32 %r4, %thread, {};\n"
          "\tsetp.eq.u32 %p1, %r4, 0;\n"
          "\tsetp.ne.u32 %p2, %r2, 0;\n",
          block_words(shape, mix), 2 * kWgmmaEach, trace_start(shape, mix), kGroupThreads - 1) +
      start_clock() + "\t@%p2 bra $others;\n" + part("$short", mix.short_group) +
      "\tbra $done;\n$others:\n" + part("$long", mix.long_group) + "$done:\n" + stop_clock() +
      store_thread_words("%d", shape.accumulators(), threads, block_words(shape, mix));
  return {.name = name,
          .ptx = kernel_ptx(fmt::format("{}: groups of {} beside groups of {}", shape.name(),
                                        mix.short_group, mix.long_group),
                            threads, wgmma_registers(shape), body),
          .threads = threads,
          .shared_bytes = shape.image_bytes(),
          .sass = {shape.sass(std::max({mix.short_group, mix.long_group, kSteps}))}};
}

// Clocks from one wait to the next of a warpgroup, while all warpgroups are at work.
std::vector<double> latencies(const Observed& observed, const WgmmaShape& shape,
                              const Interleaving& mix, int warpgroup) {
  std::vector<double> samples;
  const int run = static_cast<int>(observed.runs.size()) - 1;
  for (int block = 0; block < observed.blocks; ++block) {
    std::uint64_t end = ~std::uint64_t{0};
    for (int w = 0; w < observed.warps; ++w)
      end = std::min(end, observed.stamp(run, block, w).stop);
    const std::uint32_t* trace =
        &observed
             .out[static_cast<std::size_t>(block) *
                      static_cast<std::size_t>(block_words(shape, mix)) +
                  static_cast<std::size_t>(trace_start(shape, mix) + warpgroup * 2 * kWgmmaEach)];
    std::uint64_t before = 0;
    for (int i = 0; i < waits_of(mix, warpgroup); ++i) {
      std::uint64_t clock = 0;
      std::memcpy(&clock, trace + 2 * i, sizeof clock);
      if (clock > end) break;
      if (i > 1) samples.push_back(static_cast<double>(clock - before));
      before = clock;
    }
  }
  return samples;
}

Benchmark interleaving_benchmark(const WgmmaShape& shape, const Interleaving& mix) {
  const std::string name = fmt::format("wgmma_interleave_{}_{}wg_{}_{}", shape.name(),
                                       mix.warpgroups, mix.short_group, mix.long_group);
  return {
      .name = name,
      .what = fmt::format("time of a group: one warpgroup of groups of {}, {} of groups of {}",
                          mix.short_group, mix.warpgroups - 1, mix.long_group),
      .programs = {interleaving_program(name, shape, mix)},
      .not_emulated = kNoWgmma,
      .run = [shape, mix](Session& session, const std::vector<Program>& programs) {
        const Operands operands = wgmma_operands(shape);
        const auto loaded = session.load(programs[0]);
        const Observed observed =
            observe(session, *loaded,
                    {.in = wgmma_input(shape, operands),
                     .out_words = static_cast<std::size_t>(block_words(shape, mix))});
        Outcome outcome;
        outcome.checked = "every accumulator of every block, exactly";
        outcome.wrong = first_difference(
            observed, wgmma_expected(shape, operands, programs[0].threads, kWgmmaEach),
            "accumulators");
        for (int w = 0; w < mix.warpgroups; ++w) {
          outcome.series.push_back({fmt::format("warpgroup {}, groups of {}", w, group_of(mix, w)),
                                    "clocks per group", latencies(observed, shape, mix, w)});
        }
        return outcome;
      }};
}

}  // namespace

void add_wgmma_benchmarks(std::vector<Benchmark>& list) {
  for (const int n : {64, 128, 256}) list.push_back(stream_benchmark({.n = n}, 1));
  for (const int groups : {2, 3}) list.push_back(stream_benchmark({.n = 128}, groups));
  for (const int groups : {1, 2, 3}) {
    list.push_back(stream_benchmark({.a_in_registers = true, .n = 128}, groups));
  }
  for (const int n : {64, 128, 136, 256}) {
    list.push_back(stream_benchmark({.fp8 = true, .a_in_registers = true, .n = n}, 1));
  }
  for (const int n : {64, 128}) {
    for (const int groups : {2, 3}) {
      list.push_back(stream_benchmark({.fp8 = true, .a_in_registers = true, .n = n}, groups));
    }
  }
  for (const int groups : {1, 3}) {
    list.push_back(group_benchmark({.n = 128}, groups));
    list.push_back(group_benchmark({.fp8 = true, .a_in_registers = true, .n = 128}, groups));
  }
  const WgmmaShape s8{.n = 128};
  list.push_back(interleaving_benchmark(s8, {.warpgroups = 2, .short_group = 4, .long_group = 4}));
  list.push_back(interleaving_benchmark(s8, {.warpgroups = 2, .short_group = 2, .long_group = 16}));
  list.push_back(interleaving_benchmark(s8, {.warpgroups = 3, .short_group = 2, .long_group = 16}));
}

}  // namespace sagegen::micro
