// What probes say that their operands must give, held to independent computations: a recording is
// judged by it on the machine with the GPU, before any emulator executes the instruction.
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <set>

#include "tools/hardware/replay.h"

namespace sagegen::test {
namespace {

using namespace hardware;

constexpr int kThreads = 128;

Words all_expected(const Probe& probe, const Words& operands) {
  Words all;
  for (int index = 0; index < probe.cases; ++index) {
    const Words words = probe.expected(operands, index);
    REQUIRE(words.size() == probe.output_words());
    all.insert(all.end(), words.begin(), words.end());
  }
  return all;
}

Recording as_recorded(const Probe& probe, const Words& results) {
  const std::string ptx = probe_ptx(probe);
  const Words operands = probe_operands(probe, 5);
  Recording recording;
  recording.probe = probe.name;
  recording.seed = 5;
  recording.cases = probe.cases;
  recording.ptx_crc = crc32(ptx.data(), ptx.size());
  recording.operands_crc = crc32(operands.data(), operands.size() * 4);
  recording.compute_capability = 90;
  recording.results = results;
  return recording;
}

TEST_CASE("a recording that is not what the operands must give is found without an emulator") {
  int known = 0;
  for (const Probe& probe : all_probes()) {
    if (!probe.expected) {
      continue;
    }
    ++known;
    INFO(probe.name);
    const Words expected = all_expected(probe, probe_operands(probe, 5));
    Recording recording = as_recorded(probe, expected);
    CHECK(replay(recording).verdict != Verdict::differs);
    recording.results[recording.results.size() / 2] ^= 0x100u;
    const Replay result = replay(recording);
    CHECK(result.verdict == Verdict::differs);
    CHECK(result.difference.words == 1);
    CHECK_THAT(result.text, Catch::Contains("not what the operands must give"));
  }
  CHECK(known >= 50);
}

// Where a warpgroup probe keeps its matrices: words per thread.
struct Layout {
  const char* name;
  int n, a_words, b_words, steps;
  bool a_in_shared_memory;
};

// A wgmma is mma.m16n8k32 stacked four times and repeated n / 8 times; the emulator executes those.
// Fragments of one step, case, warp and block of columns follow one another as cases of the mma
// probe.
TEST_CASE("the s8 results of wgmma are those of stacked mma.sync") {
  const Layout layouts[] = {
      {"wgmma_s8_s32_n8_rs_plain", 8, 4, 1, 1, false},
      {"wgmma_s8_s32_n64_ss_plain", 64, 4, 4, 1, true},
      {"wgmma_s8_s32_n64_ss_swizzle64", 64, 8, 8, 2, true},
      {"wgmma_s8_s32_n64_rs_swizzle128", 64, 16, 16, 4, false},
      {"wgmma_s8_s32_n64_ss_swizzle128", 64, 16, 16, 4, true},
  };
  for (const Layout& layout : layouts) {
    INFO(layout.name);
    const Probe& probe = *find_probe(layout.name);
    const int c_words = layout.n / 2;
    REQUIRE(probe.inputs == layout.a_words + layout.b_words + c_words + 1);
    const Words operands = probe_operands(probe, 9);
    const auto at = [&](int index, int word, int thread) {
      return operands[static_cast<std::size_t>((index * probe.inputs + word) * kThreads + thread)];
    };
    // Word q of the rows of a matrix that the threads hold together.
    const auto row_word = [&](int index, int first, int row, int q) {
      const int word = row * 8 * layout.steps + q;
      return at(index, first + word / kThreads, word % kThreads);
    };
    const int blocks = layout.n / 8;
    Probe mma = *find_probe("mma_m16n8k32_s8_s32");
    mma.cases = probe.cases * 4 * blocks;
    Words sums;
    for (int step = 0; step < layout.steps; ++step) {
      mma.fill = [&](int mma_case, Random&, Words& words) {
        const int block = mma_case % blocks;
        const int warp = mma_case / blocks % 4;
        const int index = mma_case / blocks / 4;
        for (int lane = 0; lane < kLanes; ++lane) {
          const int thread = warp * kLanes + lane;
          const int g = lane / 4;
          const int t = lane % 4;
          for (int r = 0; r < 4; ++r) {
            words[static_cast<std::size_t>(r * kLanes + lane)] =
                layout.a_in_shared_memory
                    ? row_word(index, 0, 16 * warp + g + 8 * (r & 1), 8 * step + 4 * (r >> 1) + t)
                    : at(index, 4 * step + r, thread);
          }
          for (int r = 0; r < 2; ++r) {
            words[static_cast<std::size_t>((4 + r) * kLanes + lane)] =
                row_word(index, layout.a_words, 8 * block + g, 8 * step + 4 * r + t);
          }
          const bool adds = (at(index, probe.inputs - 1, thread) >> step & 1u) != 0;
          for (int r = 0; r < 4; ++r) {
            const std::uint32_t before =
                step == 0 ? at(index, layout.a_words + layout.b_words + 4 * block + r, thread)
                          : sums[static_cast<std::size_t>((mma_case * 4 + r) * kLanes + lane)];
            words[static_cast<std::size_t>((6 + r) * kLanes + lane)] = adds ? before : 0u;
          }
        }
      };
      sums = record(runtime::Device(runtime::make_emulator(),
                                    static_cast<int>(runtime::EmulatorProfile::sm_90)),
                    mma, 1)
                 .results;
    }
    int differing = 0;
    for (int index = 0; index < probe.cases; ++index) {
      const Words expected = probe.expected(operands, index);
      for (int i = 0; i < c_words; ++i) {
        for (int thread = 0; thread < kThreads; ++thread) {
          const int mma_case = (index * 4 + thread / kLanes) * blocks + i / 4;
          const std::uint32_t sum =
              sums[static_cast<std::size_t>((mma_case * 4 + i % 4) * kLanes + thread % kLanes)];
          differing += expected[static_cast<std::size_t>(i * kThreads + thread)] == sum ? 0 : 1;
        }
      }
    }
    CHECK(differing == 0);
  }
}

TEST_CASE("a preset accumulator holds a float that counts from 12582912") {
  const Probe& probe = *find_probe("wgmma_s8_s32_n64_ss_swizzle128_preset");
  const Words expected = all_expected(probe, probe_operands(probe, 2));
  std::set<std::int32_t> seen;
  for (const std::uint32_t word : expected) {
    const auto sum = static_cast<std::int32_t>(word - 0x4b400000u);
    CHECK(std::bit_cast<float>(word) == 12582912.0f + static_cast<float>(sum));
    seen.insert(sum);
  }
  CHECK(seen.size() > 1000);
}

// The swizzles of the PTX ISA as tables: which 16-byte chunk of a row holds chunk `chunk`.
int chunk_of(int span, int row, int chunk) {
  switch (span) {
    case 128:
      return chunk ^ (row % 8);
    case 64:
      return chunk ^ (row / 2 % 4);
    default:
      return chunk ^ (row / 4 % 2);
  }
}

TEST_CASE("boxes of tensors: every byte where the swizzle puts it, zeros outside") {
  for (const int span : {32, 64, 128}) {
    const Probe& probe =
        *find_probe("tma_load_2d_u8_swizzle" + std::to_string(span) + "x" + std::to_string(span));
    INFO(probe.name);
    const Words operands = probe_operands(probe, 4);
    const auto* bytes = reinterpret_cast<const unsigned char*>(operands.data());
    const int pitch = static_cast<int>(4 * probe.input_words());
    std::set<std::string> parts;
    for (int index = 0; index < probe.cases; ++index) {
      const Words expected = probe.expected(operands, index);
      const auto* image = reinterpret_cast<const unsigned char*>(expected.data());
      const int x = static_cast<int>(operands[static_cast<std::size_t>((index * 17 + 16) * 32)]);
      const int y =
          static_cast<int>(operands[static_cast<std::size_t>((index * 17 + 16) * 32 + 1)]);
      int differing = 0;
      for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < span; ++column) {
          const bool inside =
              x + column >= 0 && x + column < 200 && y + row >= 0 && y + row < probe.cases;
          const int wanted = inside ? bytes[(y + row) * pitch + x + column] : 0;
          const int at = row * span + 16 * chunk_of(span, row, column / 16) + column % 16;
          differing += image[at] == wanted ? 0 : 1;
          parts.insert(x + column < 0      ? "left"
                       : x + column >= 200 ? "right"
                       : y + row < 0       ? "above"
                       : inside            ? "inside"
                                           : "below");
        }
      }
      CHECK(differing == 0);
      CHECK(std::all_of(image + 16 * span, image + 2048, [](int b) { return b == 0xa5; }));
      CHECK(expected.back() == 1);
    }
    CHECK(parts.size() == 5);
  }
}

TEST_CASE("stores of boxes write the part inside the tensor and nothing else") {
  const Probe& probe = *find_probe("tma_store_3d_u8_swizzle128x128");
  const Words operands = probe_operands(probe, 4);
  std::set<int> written_bytes;
  for (int index = 0; index < probe.cases; ++index) {
    const std::size_t first = static_cast<std::size_t>(index) * probe.input_words();
    const auto* image = reinterpret_cast<const unsigned char*>(&operands[first]);
    const int x = static_cast<int>(operands[first + 16 * 32]);
    const int y = static_cast<int>(operands[first + 16 * 32 + 1]);
    const Words expected = probe.expected(operands, index);
    const auto* result = reinterpret_cast<const unsigned char*>(expected.data());
    int differing = 0;
    int written = 0;
    for (int row = 0; row < 8; ++row) {
      for (int column = 0; column < 256; ++column) {
        const bool stored =
            row < 7 && column < 200 && row >= y && row < y + 4 && column >= x && column < x + 128;
        const int box_row = row - y;
        const int box_column = column - x;
        const int wanted =
            stored ? image[box_row * 128 + 16 * chunk_of(128, box_row, box_column / 16) +
                           box_column % 16]
                   : 0xcd;
        differing += result[row * 256 + column] == wanted ? 0 : 1;
        written += stored ? 1 : 0;
      }
    }
    CHECK(differing == 0);
    written_bytes.insert(written);
  }
  CHECK(written_bytes.contains(0));  // a box entirely outside
  CHECK(written_bytes.size() > 8);
}

}  // namespace
}  // namespace sagegen::test
