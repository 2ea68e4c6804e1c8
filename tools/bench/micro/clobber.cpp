// A fault of ptxas 13.0, seen in its machine code: A operands that a wgmma reads in every
// iteration, loaded once before the loop, and the A operands of a second wgmma, packed anew in
// every iteration, get the same registers if a wait for an mbarrier is between them. From the
// second iteration on the first wgmma then multiplies by the packed values. This kernel has that
// form, with data for which the scores of the last iteration are known.
#include <fmt/format.h>

#include <algorithm>

#include "sagegen/runtime/error.h"
#include "tools/bench/micro/wgmma_stream.h"

namespace sagegen::micro {
namespace {

// Queries 64 x 32 and keys 32 x 32 of s8 in -1, 0, 1; values 32 x 32 of e4m3. Only the first 32
// bytes of the rows of a tile are used.
const WgmmaShape kScores{.a_in_registers = true, .n = 32};
const WgmmaShape kOutput{.fp8 = true, .a_in_registers = true, .n = 32};
constexpr int kRegisters = 16;
const int kValuesOffset = kScores.image_bytes();
const int kBarrierOffset = kValuesOffset + kOutput.b_bytes();
const int kFragmentOffset = kBarrierOffset;  // of the input, where shared memory has the barrier

Operands small_operands() {
  Operands operands = wgmma_operands(kScores);
  for (int& value : operands.a) value = value % 2;
  for (int& value : operands.b) value = value % 2;
  const auto only_first = [](std::vector<int>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % kRowBytes >= kStepBytes) values[i] = 0;
    }
  };
  only_first(operands.a);
  only_first(operands.b);
  return operands;
}

Words clobber_input() {
  const Operands scores = small_operands(), output = wgmma_operands(kOutput);
  const Words base = wgmma_input(kScores, scores);
  const auto image = static_cast<std::ptrdiff_t>(kScores.image_bytes() / 4);
  Words words(base.begin(), base.begin() + image);
  const Words values = swizzled(encoded(kOutput, output.b), kOutput.n);
  words.insert(words.end(), values.begin(), values.end());
  words.insert(words.end(), base.begin() + image, base.end());  // fragments of the queries
  return words;
}

Program clobber_program() {
  const auto list = [](const char* prefix, int count) {
    return "{" + numbered(prefix, count) + "}";
  };
  std::string pack;
  for (int i = 0; i < 4; ++i) {  // four scores become one register of the second A operand
    for (int j = 0; j < 4; ++j) {
      pack += fmt::format(
          "\tcvt.rn.f32.s32 %e{0}, %s{1};\n"
          "\tex2.approx.ftz.f32 %e{0}, %e{0};\n",
          j, 4 * i + j);
    }
    pack += fmt::format(
        "\tcvt.rn.satfinite.e4m3x2.f32 %h0, %e1, %e0;\n"
        "\tcvt.rn.satfinite.e4m3x2.f32 %h1, %e3, %e2;\n"
        "\tmov.b32 %k{}, {{%h0, %h1}};\n",
        i);
  }
  std::string setup = copy_to_shared(kBarrierOffset, kGroupThreads) +
                      descriptors("%db", kRows * kRowBytes) + descriptors("%dv", kValuesOffset) +
                      fmt::format(
                          "\tadd.s32 %barrier, %smem, {};\n"
                          "\tsetp.eq.u32 %p0, %thread, 0;\n"
                          "\t@%p0 mbarrier.init.shared::cta.b64 [%barrier], 1;\n"
                          "\tbar.sync 0;\n"
                          "\tld.param.b32 %parity, [micro_param_0+28];\n"
                          "\tmul.wide.u32 %rd0, %thread, 4;\n"
                          "\tadd.s64 %rd0, %rd0, %in;\n",
                          kBarrierOffset);
  for (int i = 0; i < 4; ++i) {
    setup += fmt::format("\tld.global.b32 %q{}, [%rd0+{}];\n", i,
                         kFragmentOffset + 4 * kGroupThreads * i);
  }
  for (int i = 0; i < kRegisters; ++i) setup += fmt::format("\tmov.b32 %o{}, 0;\n", i);
  std::string sum;
  for (int i = 0; i < kRegisters; ++i) sum += fmt::format("\tadd.rn.f32 %o{0}, %o{0}, %t{0};\n", i);
  const std::string fence = "\twgmma.fence.sync.aligned;\n";
  const std::string wait =
      "\twgmma.commit_group.sync.aligned;\n"
      "\twgmma.wait_group.sync.aligned 0;\n";
  // A fresh barrier passes parity 1 at once, so the loop never spins; the compiler cannot know.
  const std::string spin =
      "$spin:\n"
      "\tmbarrier.try_wait.parity.shared::cta.b64 %p1, [%barrier], %parity;\n"
      "\t@%p1 bra $passed;\n"
      "\tbra $spin;\n"
      "$passed:\n";
  const std::string loop =
      fence +
      fmt::format("\twgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 {}, {}, %db0, 0;\n",
                  list("%s", kRegisters), list("%q", 4)) +
      wait + pack + spin + fence +
      fmt::format("\twgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {}, {}, %dv0, 0, 1, 1;\n",
                  list("%t", kRegisters), list("%k", 4)) +
      wait + sum;
  const int words = 2 * kRegisters * kGroupThreads;
  std::string store = store_thread_words("%s", kRegisters, kGroupThreads, words);
  for (int i = 0; i < kRegisters; ++i) {
    store +=
        fmt::format("\tst.global.b32 [%rd0+{}], %o{};\n", 4 * kGroupThreads * (kRegisters + i), i);
  }
  return {.name = "ptxas_clobber",
          .ptx = kernel_ptx(
              "two wgmma with A in registers and an mbarrier wait between them", kGroupThreads,
              fmt::format(
                  "\t.reg .b32 %q<4>, %s<{0}>, %t<{0}>, %o<{0}>, %k<4>, %e<4>, %barrier, %parity;\n"
                  "\t.reg .b16 %h<2>;\n"
                  "\t.reg .b64 %db<{1}>, %dv<{1}>;\n",
                  kRegisters, kSteps),
              setup + counted_loop(loop) + store),
          .threads = kGroupThreads,
          .shared_bytes = kBarrierOffset + 16,
          .sass = {{"IGMMA", kIgmma, 1}, {"QGMMA", kQgmma, 1}}};
}

Words expected_scores() { return wgmma_expected(kScores, small_operands(), kGroupThreads, kSteps); }

// Empty if the scores of the last of so many iterations are right.
std::string wrong_after(Session& session, const LoadedProgram& program, std::uint32_t iterations) {
  const Observed observed = observe(session, program,
                                    {.in = clobber_input(),
                                     .out_words = std::size_t{2} * kRegisters * kGroupThreads,
                                     .iterations = iterations,
                                     .option = 1,
                                     .repetitions = 1});
  return first_difference(observed, expected_scores(), "scores");
}

Outcome run_clobber(Session& session, const std::vector<Program>& programs) {
  Outcome outcome;
  outcome.checked = "the scores after one iteration, where the fault cannot show";
  const auto report = [&](const std::string& origin, const LoadedProgram& program) {
    const std::string first = wrong_after(session, program, 1);
    if (outcome.wrong.empty() && !first.empty()) outcome.wrong = origin + ", " + first;
    const std::string later = wrong_after(session, program, 3);
    outcome.finding +=
        fmt::format("{}{}: scores of the third iteration {}", outcome.finding.empty() ? "" : "; ",
                    origin, later.empty() ? "RIGHT" : "WRONG (" + later + ")");
  };
  report("driver JIT", *session.load_ptx(programs[0]));
  try {
    report("cubin of ptxas", *session.load_cubin(programs[0]));
  } catch (const NotExecuted& e) {
    outcome.finding += fmt::format("; cubin of ptxas: {}", e.what());
  }
  return outcome;
}

}  // namespace

void add_clobber_benchmark(std::vector<Benchmark>& list) {
  list.push_back(
      {.name = "ptxas_clobber",
       .what = "whether two wgmma share the registers of their A operands: no time, right or wrong",
       .programs = {clobber_program()},
       .not_emulated = "the emulator does not execute wgmma",
       .run = run_clobber});
}

}  // namespace sagegen::micro
