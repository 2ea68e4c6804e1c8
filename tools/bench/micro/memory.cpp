// How fast all SMs together bring tiles from L2 to shared memory: bulk tensor copies of boxes of 64
// and of 128 rows of 128 bytes, and bulk copies of as many contiguous bytes as a control.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "tools/bench/micro/micro.h"
#include "tools/hardware/probe.h"

namespace sagegen::micro {
namespace {

constexpr int kThreads = 128;
constexpr int kRowBytes = 128;
constexpr int kResultWords = 2;       // of a thread: a sum, and whether it gave up
constexpr int kBuffersOffset = 1024;  // barriers before
constexpr std::uint32_t kRounds = 512;
constexpr int kPolls = 10000;  // for one box; each waits for a while by itself

// A block has `stages` boxes of its own and reads them again and again: 128 KB of the 50 MB of L2
// for each SM. With the option n, 2^n blocks share their boxes.
struct Copies {
  const char* name;
  bool tensor;
  int rows, stages;

  int box_bytes() const { return rows * kRowBytes; }
  int slice_bytes() const { return stages * box_bytes(); }
};

Program copy_program(const std::string& name, const Copies& copies) {
  const auto barrier = [](int stage) { return fmt::format("[%smem+{}]", 8 * stage); };
  const auto issue = [&](int stage) {
    std::string text = fmt::format("\tmbarrier.arrive.expect_tx.shared::cta.b64 _, {}, {};\n",
                                   barrier(stage), copies.box_bytes());
    const int destination = kBuffersOffset + stage * copies.box_bytes();
    if (copies.tensor) {
      text += fmt::format(
          "\tadd.s32 %r4, %r3, {};\n"
          "\tcp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
          "[%smem+{}], [%map, {{%r5, %r4}}], {};\n",
          stage * copies.rows, destination, barrier(stage));
    } else {
      text += fmt::format(
          "\tadd.s64 %rd3, %rd2, {};\n"
          "\tcp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%smem+{}], [%rd3], "
          "{}, {};\n",
          stage * copies.box_bytes(), destination, copies.box_bytes(), barrier(stage));
    }
    return text;
  };
  // Where a box does not arrive the second result is 1.
  const auto wait = [&](const std::string& label, int stage, const char* parity,
                        const char* give_up) {
    return fmt::format(
        "\tmov.b32 %r8, 0;\n"
        "{0}:\n"
        "\tmbarrier.try_wait.parity.shared::cta.b64 %p1, {1}, {2};\n"
        "\t@%p1 bra {0}_over;\n"
        "\tadd.s32 %r8, %r8, 1;\n"
        "\tsetp.lt.u32 %p4, %r8, {3};\n"
        "\t@%p4 bra {0};\n"
        "\tmov.b32 %word1, 1;\n"
        "\tbra {4};\n"
        "{0}_over:\n",
        label, barrier(stage), parity, kPolls, give_up);
  };
  std::string body =
      "\tmov.b32 %word0, 0;\n"
      "\tmov.b32 %word1, 0;\n"
      "\tld.param.b32 %r2, [micro_param_0+28];\n"
      "\tshr.u32 %r2, %cta, %r2;\n" +
      fmt::format("\tmul.lo.u32 %r3, %r2, {};\n", copies.stages * copies.rows) +
      fmt::format("\tmul.wide.u32 %rd2, %r2, {};\n", copies.slice_bytes()) +
      "\tadd.s64 %rd2, %rd2, %in;\n"
      "\tmov.b64 %map, micro_param_0;\n"
      "\tcvta.param.u64 %map, %map;\n"
      "\tadd.s64 %map, %map, 64;\n"
      "\tmov.b32 %r5, 0;\n"
      "\tsetp.ne.u32 %p2, %thread, 0;\n"
      "\t@%p2 bra $ready;\n";
  for (int stage = 0; stage < copies.stages; ++stage) {
    body += fmt::format("\tmbarrier.init.shared::cta.b64 {}, 1;\n", barrier(stage));
  }
  body += "\tfence.mbarrier_init.release.cluster;\n\tfence.proxy.async;\n$ready:\n" +
          start_clock() + "\t@%p2 bra $finished;\n";
  for (int stage = 0; stage < copies.stages; ++stage) body += issue(stage);
  // A box is asked for again as soon as it is there.
  std::string round =
      "\tand.b32 %r6, %i, 1;\n"
      "\tadd.s32 %r7, %i, 1;\n"
      "\tsetp.lt.u32 %p3, %r7, %iterations;\n";
  for (int stage = 0; stage < copies.stages; ++stage) {
    round += wait(fmt::format("$wait{}", stage), stage, "%r6", "$finished") +
             fmt::format("\t@!%p3 bra $next{};\n", stage) + issue(stage) +
             fmt::format("$next{}:\n", stage);
  }
  body += counted_loop(round) + "$finished:\n\tbar.sync 0;\n" + stop_clock() +
          "\tadd.s32 %r6, %iterations, 1;\n"
          "\tand.b32 %r6, %r6, 1;\n";
  for (int stage = 0; stage < copies.stages; ++stage) {
    body += wait(fmt::format("$last{}", stage), stage, "%r6", "$store");
  }
  // Sums of the words, whatever their order.
  body += fmt::format(
      "\tmov.b32 %r1, %thread;\n"
      "$sum:\n"
      "\tmad.lo.s32 %r2, %r1, 4, %smem;\n"
      "\tld.shared.b32 %r3, [%r2+{}];\n"
      "\tadd.s32 %word0, %word0, %r3;\n"
      "\tadd.s32 %r1, %r1, {};\n"
      "\tsetp.lt.u32 %p0, %r1, {};\n"
      "\t@%p0 bra $sum;\n"
      "$store:\n",
      kBuffersOffset, kThreads, copies.slice_bytes() / 4);
  body += store_thread_words("%word", kResultWords, kThreads, kResultWords * kThreads);
  SassCount sass{copies.tensor ? "UTMALDG" : "UBLKCP", copies.tensor ? 0x1b4 : 0x1ba,
                 copies.stages};
  return {.name = name,
          .ptx = kernel_ptx(
              fmt::format("{} boxes of {} bytes in flight", copies.stages, copies.box_bytes()),
              kThreads, "\t.reg .b32 %word<2>;\n\t.reg .b64 %map;\n", body),
          .threads = kThreads,
          .shared_bytes = kBuffersOffset + copies.slice_bytes(),
          .sass = {sass}};
}

std::string wrong_sums(const Observed& observed, const Copies& copies, const Words& data,
                       int share) {
  const auto slice_words = static_cast<std::ptrdiff_t>(copies.slice_bytes() / 4);
  for (int block = 0; block < observed.blocks; ++block) {
    const auto slice = data.begin() + slice_words * (block >> share);
    const auto out = observed.out.begin() + std::ptrdiff_t{kResultWords} * kThreads * block;
    if (std::accumulate(out + kThreads, out + 2 * kThreads, 0u) != 0) {
      return fmt::format("block {}: a box did not arrive within {} polls", block, kPolls);
    }
    const std::uint32_t expected = std::accumulate(slice, slice + slice_words, 0u);
    const std::uint32_t found = std::accumulate(out, out + kThreads, 0u);
    if (found != expected) {
      return fmt::format("block {}: the words add up to {:08x}, expected {:08x}", block, found,
                         expected);
    }
  }
  return {};
}

// All bytes of a run over the time from the first start to the last stop of all blocks.
double terabytes_per_second(const Observed& observed, int run, double bytes) {
  std::uint64_t first = ~std::uint64_t{0}, last = 0;
  for (const Stamp& stamp : observed.runs[static_cast<std::size_t>(run)]) {
    first = std::min(first, stamp.global_start);
    last = std::max(last, stamp.global_stop);
  }
  return bytes / static_cast<double>(last - first) / 1000;
}

Outcome run_copies(Session& session, const Copies& copies, const Program& program) {
  const auto loaded = session.load(program);
  hardware::Random random(11);
  Words data(static_cast<std::size_t>(session.blocks()) *
             static_cast<std::size_t>(copies.slice_bytes() / 4));
  for (std::uint32_t& word : data) word = random.word();
  Outcome outcome;
  outcome.checked = "the sum of the words of every block's boxes after the last round";
  for (const int share : {0, 3}) {
    LaunchPlan plan{.in = data,
                    .out_words = std::size_t{kResultWords} * kThreads,
                    .iterations = kRounds,
                    .option = static_cast<std::uint32_t>(share)};
    if (copies.tensor) {
      plan.prepare = [&](Parameters& parameters) {
        const auto rows =
            static_cast<std::uint64_t>(session.blocks() * copies.stages * copies.rows);
        parameters.map = runtime::make_tensor_map(
            session.device(), {.type = runtime::TensorMapType::u8,
                               .rank = 2,
                               .base = parameters.in,
                               .shape = {kRowBytes, rows},
                               .strides = {kRowBytes},
                               .box = {kRowBytes, static_cast<std::uint32_t>(copies.rows)},
                               .swizzle = runtime::TensorMapSwizzle::span_128,
                               .promotion = runtime::TensorMapPromotion::l2_128});
      };
    }
    const Observed observed = observe(session, *loaded, plan);
    if (outcome.wrong.empty()) outcome.wrong = wrong_sums(observed, copies, data, share);
    const double bytes = static_cast<double>(kRounds) * copies.slice_bytes();
    const std::string label = share == 0 ? "boxes of their own" : "8 blocks share boxes";
    outcome.series.push_back({label, "bytes per clock and SM", per_clock(observed, bytes)});
    Series total{label + ", all SMs", "TB/s", {}};
    for (int run = 0; run < static_cast<int>(observed.runs.size()); ++run) {
      total.samples.push_back(terabytes_per_second(observed, run, bytes * observed.blocks));
    }
    outcome.series.push_back(total);
  }
  return outcome;
}

}  // namespace

void add_memory_benchmarks(std::vector<Benchmark>& list) {
  static const Copies all[] = {
      {"tma_64_rows", true, 64, 16},      {"tma_128_rows", true, 128, 8},
      {"tma_64_rows_4", true, 64, 4},     {"tma_128_rows_4", true, 128, 4},
      {"bulk_8192_bytes", false, 64, 16}, {"bulk_16384_bytes", false, 128, 8},
  };
  for (const Copies& copies : all) {
    list.push_back(
        {.name = copies.name,
         .what = fmt::format("L2 to shared memory, all SMs: {} of {} bytes, {} in flight",
                             copies.tensor ? "bulk tensor copies" : "bulk copies",
                             copies.box_bytes(), copies.stages),
         .programs = {copy_program(copies.name, copies)},
         .not_emulated = "the emulator does not execute bulk copies",
         .run = [copies](Session& session, const std::vector<Program>& programs) {
           return run_copies(session, copies, programs[0]);
         }});
  }
}

}  // namespace sagegen::micro
