// A stream of wgmma in one warpgroup and other work in a second one: how much each slows the other
// down.
//
// The worker goes on until the tensor side has finished and says how far it came, so both are at
// work for the whole of what is timed. Option 0: both; 1: the tensor side alone; 2: the worker
// alone, for as long as the tensor side sleeps.
#include <fmt/format.h>

#include <map>

#include "tools/bench/micro/chains.h"
#include "tools/bench/micro/wgmma_stream.h"

namespace sagegen::micro {
namespace {

constexpr int kThreads = 2 * kGroupThreads;
constexpr int kGroup = 16;  // wgmma per commit and wait
constexpr int kPerIteration = 64;
constexpr std::uint32_t kIterations = 32;
constexpr int kBoth = 0, kTensorOnly = 1, kWorkerOnly = 2;

int flag_offset(const WgmmaShape& shape) { return shape.image_bytes(); }
int work_offset(const WgmmaShape& shape) { return shape.image_bytes() + 16; }
int chain_input_offset(const WgmmaShape& shape) {  // after the image and the fragments of A
  return shape.image_bytes() + 4 * 4 * kSteps * kGroupThreads;
}
int accumulator_words(const WgmmaShape& shape) { return shape.accumulators() * kGroupThreads; }
int block_words(const WgmmaShape& shape, const Chains& work) {
  return accumulator_words(shape) + kWarpsPerGroup * static_cast<int>(chain_words(work));
}

Program contention_program(const std::string& name, const WgmmaShape& shape, const Chains& work) {
  std::string steps;
  for (int i = 0; i < kPerIteration; i += kGroup) steps += wgmma_group(shape, kGroup, i);
  // 1 us sleeps until as many clocks have passed as the stream is expected to take.
  const std::string sleep = fmt::format(
      "$sleep:\n"
      "\tnanosleep.u32 1000;\n"
      "\tmov.u64 %clock1, %clock64;\n"
      "\tsub.s64 %clock1, %clock1, %clock0;\n"
      "\tsetp.lt.u64 %p0, %clock1, {};\n"
      "\t@%p0 bra $sleep;\n",
      kIterations * kPerIteration * static_cast<unsigned>(shape.n) / 2);
  const std::string tensor =
      fmt::format("\tsetp.eq.u32 %p3, %r9, {};\n\t@%p3 bra $sleep;\n", kWorkerOnly) +
      counted_loop(steps) + "\tbra $finished;\n" + sleep + "$finished:\n" + stop_clock() +
      fmt::format(
          "\tadd.s32 %r2, %smem, {};\n"
          "\tmov.b32 %r3, 1;\n"
          "\tst.volatile.shared.b32 [%r2], %r3;\n",
          flag_offset(shape)) +
      store_thread_words("%d", shape.accumulators(), kGroupThreads, block_words(shape, work));
  const std::string worker =
      fmt::format(
          "\tmov.b32 %r8, 0;\n"
          "\tadd.s32 %r10, %smem, {};\n"
          "\tsetp.eq.u32 %p3, %r9, {};\n"
          "\t@%p3 bra $stopped;\n"
          "$work:\n"
          "\t.pragma \"nounroll\";\n"
          "\tld.volatile.shared.b32 %r11, [%r10];\n",  // early: its latency is not waited for
          flag_offset(shape), kTensorOnly) +
      chain_steps(work) +
      "\tadd.s32 %r8, %r8, 1;\n"
      "\tsetp.eq.u32 %p0, %r11, 0;\n"
      "\t@%p0 bra $work;\n"
      "$stopped:\n" +
      stop_clock("%r8") +
      fmt::format(
          "\tand.b32 %r2, %warp, 3;\n"
          "\tmul.lo.u32 %r3, %cta, {};\n"
          "\tmad.lo.s32 %r3, %r2, {}, %r3;\n"
          "\tadd.s32 %r3, %r3, {};\n"
          "\tmul.wide.u32 %rd0, %r3, 4;\n"
          "\tmul.wide.u32 %rd1, %lane, {};\n"
          "\tadd.s64 %rd0, %rd0, %rd1;\n"
          "\tadd.s64 %rd0, %rd0, %out;\n",
          block_words(shape, work), chain_words(work), accumulator_words(shape), work.bits / 8) +
      store_chains(work, work_offset(shape));
  const std::string body = wgmma_setup(shape, kThreads) +
                           load_chains(work, chain_input_offset(shape), work_offset(shape)) +
                           fmt::format(
                               "\tld.param.b32 %r9, [micro_param_0+28];\n"
                               "\tadd.s32 %r2, %smem, {};\n"
                               "\tmov.b32 %r3, 0;\n"
                               "\tst.volatile.shared.b32 [%r2], %r3;\n"
                               "\tshr.u32 %r4, %warp, 2;\n"
                               "\tshfl.sync.idx.b32 %r4, %r4, 0, 31, 0xffffffff;\n"
                               "\tsetp.ne.u32 %p2, %r4, 0;\n",
                               flag_offset(shape)) +
                           start_clock() + "\t@%p2 bra $worker;\n" + tensor +
                           "\tbra $end;\n$worker:\n" + worker + "$end:\n";
  // The flag is a load from shared memory as well.
  const int work_count =
      work.chains * work.steps * work.operations + (work.shared_bytes > 0 ? 1 : 0);
  return {.name = name,
          .ptx = kernel_ptx(fmt::format("{} beside {}", shape.name(), work.what), kThreads,
                            wgmma_registers(shape) + chain_registers(work), body),
          .threads = kThreads,
          .shared_bytes = work_offset(shape) + work.shared_bytes,
          .sass = {shape.sass(kPerIteration), {work.sass_name, work.sass_opcode, work_count}}};
}

// Every worker's values, each after the number of iterations that it reports.
std::string compare_workers(const WgmmaShape& shape, const Chains& work, const Observed& observed) {
  std::map<std::uint32_t, std::vector<std::pair<int, int>>> by_count;  // of (block, warp)
  const int run = static_cast<int>(observed.runs.size()) - 1;
  for (int block = 0; block < observed.blocks; ++block) {
    for (int w = 0; w < kWarpsPerGroup; ++w) {
      by_count[observed.stamp(run, block, kWarpsPerGroup + w).count].emplace_back(block, w);
    }
  }
  ChainState state = initial_state(work);
  std::uint32_t at = 0;
  for (const auto& [count, places] : by_count) {
    advance(work, state, count - at);
    at = count;
    for (const auto& [block, w] : places) {
      const std::size_t start =
          static_cast<std::size_t>(block) * static_cast<std::size_t>(block_words(shape, work)) +
          static_cast<std::size_t>(accumulator_words(shape)) +
          static_cast<std::size_t>(w) * chain_words(work);
      const std::string wrong =
          compare_chains(work, state, &observed.out[start],
                         fmt::format("block {}, worker {}, {} iterations", block, w, count));
      if (!wrong.empty()) return wrong;
    }
  }
  return {};
}

// Lanes per clock and SM.
std::vector<double> work_rates(const Chains& work, const Observed& observed) {
  std::vector<double> samples;
  const double lanes = static_cast<double>(work.chains) * work.steps * work.operations * kLanes;
  for (int run = 0; run < static_cast<int>(observed.runs.size()); ++run) {
    for (int block = 0; block < observed.blocks; ++block) {
      double done = 0;
      for (int w = 0; w < kWarpsPerGroup; ++w) {
        done += lanes * observed.stamp(run, block, kWarpsPerGroup + w).count;
      }
      samples.push_back(done / observed.span(run, block, kWarpsPerGroup, kWarpsPerGroup));
    }
  }
  return samples;
}

Outcome run_contention(Session& session, const WgmmaShape& shape, const Chains& work,
                       const Program& program) {
  const Operands operands = wgmma_operands(shape);
  Words in = wgmma_input(shape, operands);
  const Words chains = chain_input(work);
  in.insert(in.end(), chains.begin(), chains.end());
  const auto loaded = session.load(program);
  LaunchPlan plan{.in = in,
                  .out_words = static_cast<std::size_t>(block_words(shape, work)),
                  .iterations = kIterations};
  const double wgmmas = kIterations * kPerIteration;
  const Words expected =
      wgmma_expected(shape, operands, kGroupThreads, kIterations * kPerIteration);
  Outcome outcome;
  outcome.checked = "every accumulator, and the worker's values after as many steps as it reports";
  const auto observe_as = [&](int option) {
    plan.option = static_cast<std::uint32_t>(option);
    Observed observed = observe(session, *loaded, plan);
    std::string wrong;
    if (option != kWorkerOnly) wrong = first_difference(observed, expected, "accumulators");
    if (wrong.empty() && option != kTensorOnly) wrong = compare_workers(shape, work, observed);
    if (outcome.wrong.empty()) outcome.wrong = wrong;
    return observed;
  };
  const Observed tensor = observe_as(kTensorOnly);
  const Observed worker = observe_as(kWorkerOnly);
  const Observed both = observe_as(kBoth);
  const std::vector<double> tensor_alone = clocks_per(tensor, wgmmas, 0, kWarpsPerGroup);
  const std::vector<double> tensor_beside = clocks_per(both, wgmmas, 0, kWarpsPerGroup);
  const std::vector<double> work_alone = work_rates(work, worker),
                            work_beside = work_rates(work, both);
  const std::string unit = work.unit + " per clock and SM";
  outcome.series = {{"wgmma alone", "clocks per wgmma", tensor_alone},
                    {"wgmma beside the work", "clocks per wgmma", tensor_beside},
                    {"wgmma, slowdown",
                     "ratio of medians",
                     {quantile(tensor_beside, 0.5) / quantile(tensor_alone, 0.5)}},
                    {work.name + " alone", unit, work_alone},
                    {work.name + " beside wgmma", unit, work_beside},
                    {work.name + ", slowdown",
                     "ratio of medians",
                     {quantile(work_alone, 0.5) / quantile(work_beside, 0.5)}}};
  return outcome;
}

}  // namespace

void add_contention_benchmarks(std::vector<Benchmark>& list) {
  for (const WgmmaShape& shape :
       {WgmmaShape{.n = 128}, WgmmaShape{.fp8 = true, .a_in_registers = true, .n = 128}}) {
    for (const char* work_name : {"ex2", "ffma", "lop3", "fmnmx", "cvt_e4m3x2", "dfma", "lds128"}) {
      const Chains& work = find_chains(work_name);
      const std::string name = fmt::format("contention_{}_{}", shape.name(), work.name);
      list.push_back(
          {.name = name,
           .what = fmt::format("{} wgmma in one warpgroup, {} in another", shape.name(), work.name),
           .programs = {contention_program(name, shape, work)},
           .not_emulated = "the emulator does not execute wgmma",
           .run = [shape, &work](Session& session, const std::vector<Program>& programs) {
             return run_contention(session, shape, work, programs[0]);
           }});
    }
  }
}

}  // namespace sagegen::micro
