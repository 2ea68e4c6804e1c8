// Probes of wgmma in the layouts that attention on Hopper uses. A case is one warpgroup: its A is
// 64 rows, its B `n` rows (columns of the product) of as many bytes of k as the swizzle spans, 32
// of them per instruction.
//
// Layouts: PTX ISA, "asynchronous warpgroup level matrix instructions": register fragments, shared
// memory matrix layout (K-major), swizzling modes and the matrix descriptor.
#include <fmt/format.h>

#include "tools/hardware/operands.h"
#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {
namespace {

constexpr int kThreads = 4 * kLanes;
constexpr int kRows = 64;       // of A and D
constexpr int kStepBytes = 32;  // of k, one instruction

enum class AFrom { registers, shared };
enum class Swizzle { none = 0, span_32 = 1, span_64 = 2, span_128 = 3 };

struct WgmmaProbe {
  const Format* format = nullptr;  // of A and B; null: s8
  Format d = kF32;                 // s32 for s8
  int n = 8;
  AFrom a = AFrom::registers;
  Swizzle swizzle = Swizzle::none;
  // Before the s8 chain, one e5m2 instruction writes 1.5 * 2^23 into every accumulator: its bits
  // plus an integer sum are the float 12582912 + sum, with no conversion.
  bool preset = false;

  const char* type() const { return format != nullptr ? format->name : "s8"; }
  const char* d_type() const { return format != nullptr ? d.name : "s32"; }
  int row_bytes() const {
    return swizzle == Swizzle::none ? kStepBytes : 16 << static_cast<int>(swizzle);
  }
  int steps() const { return row_bytes() / kStepBytes; }
  int a_words() const { return kRows * row_bytes() / 4 / kThreads; }  // per thread, wherever A is
  int b_words() const { return (n * row_bytes() / 4 + kThreads - 1) / kThreads; }
  int d_words() const { return n / 2 * d.width() / 32; }
  int c_words() const { return preset ? 0 : d_words(); }
  int inputs() const { return a_words() + b_words() + c_words() + 1; }

  // Parts of shared memory, at multiples of 1024.
  static int area(int bytes) { return (bytes + 1023) / 1024 * 1024; }
  int b_area() const { return area(b_words() * 4 * kThreads); }
  int a_area() const { return a == AFrom::shared ? area(kRows * row_bytes()) : 0; }
  int preset_area() const { return preset ? kThreads * kStepBytes : 0; }
};

// ---- the kernel
// -----------------------------------------------------------------------------------

// Words of a matrix, in rows of `row_bytes`, to its place in shared memory: %in[first + i] of
// thread t is word 128 i + t.
std::string store_rows(const WgmmaProbe& probe, int first, int words, int area) {
  std::string text;
  for (int i = 0; i < words; ++i) {
    text += fmt::format("\tmad.lo.u32 %r7, %lane, 4, {};\n", 4 * kThreads * i);
    if (probe.swizzle == Swizzle::none) {
      // Core matrices of 8 rows by 16 bytes: byte b of row r at 256 (r / 8) + 128 (b / 16) + 16 (r
      // % 8) + b % 16.
      text +=
          "\tand.b32 %r8, %r7, 0x10;\n"
          "\tshl.b32 %r8, %r8, 3;\n"
          "\tand.b32 %r9, %r7, 0xe0;\n"
          "\tshr.u32 %r9, %r9, 1;\n"
          "\tand.b32 %r7, %r7, 0xffffff0f;\n"
          "\tor.b32 %r7, %r7, %r8;\n"
          "\tor.b32 %r7, %r7, %r9;\n";
    } else {
      text += fmt::format(
          "\tshr.u32 %r8, %r7, 3;\n"
          "\tand.b32 %r8, %r8, {:#x};\n"
          "\txor.b32 %r7, %r7, %r8;\n",
          probe.row_bytes() - 16);
    }
    text += fmt::format(
        "\tadd.u32 %r7, %r7, %shared;\n"
        "\tst.shared.b32 [%r7+{}], %in{};\n",
        area, first + i);
  }
  return text;
}

// A matrix descriptor in `reg`. Offsets are in units of 16 bytes: from one 16-byte column of k to
// the next (read without swizzle only), and from one group of 8 rows to the next.
std::string descriptor(const char* reg, int area, Swizzle swizzle, int row_bytes) {
  const unsigned leading = swizzle == Swizzle::none ? 128 / 16 : 1;
  const unsigned stride = static_cast<unsigned>(8 * row_bytes / 16);
  const unsigned mode = swizzle == Swizzle::none ? 0u : 4u - static_cast<unsigned>(swizzle);
  return fmt::format(
      "\tadd.u32 %r7, %shared, {};\n"
      "\tshr.u32 %r7, %r7, 4;\n"
      "\tand.b32 %r7, %r7, 0x3fff;\n"
      "\tor.b32 %r7, %r7, {:#x};\n"
      "\tmov.u32 %r8, {:#x};\n"
      "\tmov.b64 {}, {{%r7, %r8}};\n",
      area, leading << 16, stride | (mode << 30), reg);
}

// A of the preset in registers and B in shared memory: only k = 0 counts, 2^12 times 1.5 * 2^11.
std::string preset_operands(const WgmmaProbe& probe) {
  return fmt::format(
             "\tand.b32 %r7, %lane, 3;\n"
             "\tsetp.eq.u32 %p1, %r7, 0;\n"
             "\tselp.b32 %r10, 0x6c, 0, %p1;\n"
             "\tmov.u32 %r11, 0;\n"
             "\tmov.u32 %r12, 0x6a;\n"
             "\tshr.u32 %r7, %lane, 3;\n"
             "\tand.b32 %r8, %lane, 7;\n"
             "\tmad.lo.u32 %r7, %r7, 256, %shared;\n"
             "\tmad.lo.u32 %r7, %r8, 16, %r7;\n"
             "\tst.shared.v4.b32 [%r7+{0}], {{%r12, %r11, %r11, %r11}};\n"
             "\tst.shared.v4.b32 [%r7+{1}], {{%r11, %r11, %r11, %r11}};\n",
             probe.b_area() + probe.a_area(), probe.b_area() + probe.a_area() + 128) +
         descriptor("%rd12", probe.b_area() + probe.a_area(), Swizzle::none, kStepBytes);
}

std::string wgmma_body(const WgmmaProbe& probe) {
  const int first_b = probe.a_words();
  const int first_c = first_b + probe.b_words();
  const std::string d = registers("%out", 0, probe.d_words());
  const int k = kStepBytes * 8 / (probe.format != nullptr ? probe.format->width() : 8);
  std::string text;
  for (int i = 0; i < probe.d_words(); ++i) {
    text += probe.preset ? fmt::format("\tmov.b32 %out{}, 0;\n", i)
                         : fmt::format("\tmov.b32 %out{}, %in{};\n", i, first_c + i);
  }
  text += store_rows(probe, first_b, probe.b_words(), 0);
  if (probe.a == AFrom::shared) {
    text += store_rows(probe, 0, probe.a_words(), probe.b_area());
    text += descriptor("%rd11", probe.b_area(), probe.swizzle, probe.row_bytes());
  }
  if (probe.preset) {
    text += preset_operands(probe);
  }
  text += descriptor("%rd10", 0, probe.swizzle, probe.row_bytes());
  text +=
      "\tsetp.ne.u32 %p5, %lane, %lane;\n"
      "\tfence.proxy.async;\n"
      "\tbar.sync 0;\n"
      "\twgmma.fence.sync.aligned;\n";
  if (probe.preset) {
    text += fmt::format(
        "\twgmma.mma_async.sync.aligned.m64n{}k32.f32.e5m2.e5m2 {}, {{%r10, %r10, %r11, %r11}}, "
        "%rd12, %p5, 1, 1;\n",
        probe.n, d);
  }
  // Integers have no signs of A and B to give, 16-bit floats also have transposes.
  const char* modifiers = probe.format == nullptr       ? ""
                          : probe.format->width() == 8  ? ", 1, 1"
                          : probe.a == AFrom::registers ? ", 1, 1, 0"
                                                        : ", 1, 1, 0, 0";
  for (int step = 0; step < probe.steps(); ++step) {
    text += fmt::format(
        "\tand.b32 %r7, %in{}, {};\n"
        "\tsetp.ne.u32 %p1, %r7, 0;\n"
        "\tadd.s64 %rd13, %rd10, {};\n"
        "\tadd.s64 %rd14, {}, {};\n",
        probe.inputs() - 1, 1 << step, 2 * step, probe.a == AFrom::shared ? "%rd11" : "%rd10",
        2 * step);
    text +=
        fmt::format("\twgmma.mma_async.sync.aligned.m64n{}k{}.{}.{}.{} {}, {}, %rd13, %p1{};\n",
                    probe.n, k, probe.d_type(), probe.type(), probe.type(), d,
                    probe.a == AFrom::shared ? "%rd14" : registers("%in", 4 * step, 4), modifiers);
  }
  return text +
         "\twgmma.commit_group.sync.aligned;\n"
         "\twgmma.wait_group.sync.aligned 0;\n";
}

// ---- operands
// ---------------------------------------------------------------------------------------

// The last word of every thread: bit s says whether step s adds to the accumulators or starts anew.
void fill_scale_d(const WgmmaProbe& probe, int index, Words& words) {
  const std::uint32_t all = (1u << probe.steps()) - 1u;
  std::uint32_t bits = all;
  if (index % 4 == 1) {
    bits = all & ~1u;  // what the accumulators held does not matter
  } else if (index % 4 == 3) {
    bits = all & ~(1u << (probe.steps() / 2));
  }
  if (probe.preset) {
    bits = all;
  }
  for (int thread = 0; thread < kThreads; ++thread) {
    words[static_cast<std::size_t>((probe.inputs() - 1) * kThreads + thread)] = bits;
  }
}

void fill_integers(const WgmmaProbe& probe, int index, Random& random, Words& words) {
  random_words(index, random, words);
  const auto first_c = static_cast<std::size_t>((probe.a_words() + probe.b_words()) * kThreads);
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i >= first_c && index % 3 == 1) {  // sums that pass either end of s32
      words[i] = 0x7fffff00u + (words[i] & 0x1ffu);
    } else if (i < first_c && index % 8 == 7) {
      words[i] = (words[i] & 1u) != 0 ? 0x80808080u : 0x7f7f7f7fu;
    }
  }
  fill_scale_d(probe, index, words);
}

void fill_floats(const WgmmaProbe& probe, int index, Random& random, Words& words) {
  const Format& format = *probe.format;
  const int per_word = 32 / format.width();
  const int row_words = probe.row_bytes() / 4;
  Tile tile{.a = format,
            .b = format,
            .c = probe.d,
            .rows = kRows,
            .columns = probe.n,
            .k = row_words * per_word,
            .k_step = kStepBytes / 4 * per_word};
  fill_tile(static_cast<Fill>(index % kFills), static_cast<FillC>(index / kFills % kFillsC), random,
            tile);
  auto word = [&](int i, int thread) -> std::uint32_t& {
    return words[static_cast<std::size_t>(i * kThreads + thread)];
  };
  for (int thread = 0; thread < kThreads; ++thread) {
    const int g = (thread & 31) >> 2;
    const int t = thread & 3;
    const int row = 16 * (thread >> 5) + g;
    for (int i = 0; i < probe.a_words(); ++i) {
      // In registers: four per step, the fragment of mma.m16n8. In shared memory: rows of words.
      const int r = i % 4;
      const int first =
          probe.a == AFrom::registers
              ? (row + 8 * (r & 1)) * tile.k + i / 4 * tile.k_step + (4 * (r >> 1) + t) * per_word
              : (i * kThreads + thread) * per_word;
      word(i, thread) = packed(tile.a_codes, first, format);
    }
    for (int i = 0; i < probe.b_words(); ++i) {
      const int q = i * kThreads + thread;
      if (q < probe.n * row_words) {
        word(probe.a_words() + i, thread) = packed(tile.b_codes, q * per_word, format);
      }
    }
    // Columns 8j + 2t, 8j + 2t + 1 of rows `row` and `row` + 8.
    const int per_pair = 2 * probe.d.width() / 32;
    for (int i = 0; i < probe.c_words(); ++i) {
      const int pair = i / per_pair;
      const int first = (row + 8 * (pair & 1)) * probe.n + 8 * (pair >> 1) + 2 * t + i % per_pair;
      word(probe.a_words() + probe.b_words() + i, thread) = packed(tile.c_codes, first, probe.d);
    }
  }
  fill_scale_d(probe, index, words);
}

// ---- s8 results, which are exact
// ----------------------------------------------------------------------

std::int32_t byte_of(const std::vector<std::uint32_t>& rows, std::size_t index) {
  return static_cast<std::int8_t>(rows[index / 4] >> (8 * (index % 4)));
}

Words integer_results(const WgmmaProbe& probe, const Words& operands, int index) {
  const auto at = [&](int word, int thread) {
    return operands[static_cast<std::size_t>((index * probe.inputs() + word) * kThreads + thread)];
  };
  const int row_words = probe.row_bytes() / 4;
  std::vector<std::uint32_t> a(static_cast<std::size_t>(kRows * row_words));
  std::vector<std::uint32_t> b(static_cast<std::size_t>(probe.b_words() * kThreads));
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int i = 0; i < probe.a_words(); ++i) {
      const int row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i % 2);
      const int in_registers = row * row_words + 8 * (i / 4) + 4 * (i / 2 % 2) + thread % 4;
      const int q = probe.a == AFrom::registers ? in_registers : i * kThreads + thread;
      a[static_cast<std::size_t>(q)] = at(i, thread);
    }
    for (int i = 0; i < probe.b_words(); ++i) {
      b[static_cast<std::size_t>(i * kThreads + thread)] = at(probe.a_words() + i, thread);
    }
  }
  Words results;
  for (int i = 0; i < probe.d_words(); ++i) {
    for (int thread = 0; thread < kThreads; ++thread) {
      const int row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
      const int column = 8 * (i / 4) + 2 * (thread % 4) + i % 2;
      std::uint32_t sum =
          probe.preset ? 0x4b400000u : at(probe.a_words() + probe.b_words() + i, thread);
      for (int step = 0; step < probe.steps(); ++step) {
        if ((at(probe.inputs() - 1, thread) >> step & 1u) == 0) {
          sum = 0;
        }
        for (int k = step * kStepBytes; k < (step + 1) * kStepBytes; ++k) {
          const std::int32_t product =
              byte_of(a, static_cast<std::size_t>(row * probe.row_bytes() + k)) *
              byte_of(b, static_cast<std::size_t>(column * probe.row_bytes() + k));
          sum += static_cast<std::uint32_t>(product);
        }
      }
      results.push_back(sum);
    }
  }
  return results;
}

Probe wgmma(const WgmmaProbe& layout, int cases) {
  constexpr const char* kSwizzles[] = {"plain", "swizzle32", "swizzle64", "swizzle128"};
  const char* swizzle = kSwizzles[static_cast<int>(layout.swizzle)];
  const bool shared = layout.a == AFrom::shared;
  Probe probe;
  probe.name = fmt::format("wgmma_{}_{}_n{}_{}_{}{}", layout.type(), layout.d_type(), layout.n,
                           shared ? "ss" : "rs", swizzle, layout.preset ? "_preset" : "");
  probe.what = fmt::format(
      "wgmma.mma_async m64n{}, {} of {}, {} in a row, A in {}, {}{}", layout.n, layout.d_type(),
      layout.type(), layout.steps(), shared ? "shared memory" : "registers", swizzle,
      layout.preset ? ", after an e5m2 one that presets the accumulators" : "");
  probe.compute_capability = 90;
  probe.target = "sm_90a";
  probe.warps = 4;
  probe.inputs = layout.inputs();
  probe.outputs = layout.d_words();
  probe.cases = cases;
  probe.shared_bytes = layout.b_area() + layout.a_area() + layout.preset_area();
  probe.body = wgmma_body(layout);
  probe.fill = [layout](int index, Random& random, Words& words) {
    if (layout.format == nullptr) {
      fill_integers(layout, index, random, words);
    } else {
      fill_floats(layout, index, random, words);
    }
  };
  if (layout.format == nullptr) {
    probe.expected = [layout](const Words& operands, int index) {
      return integer_results(layout, operands, index);
    };
  }
  return probe;
}

}  // namespace

void add_wgmma_probes(std::vector<Probe>& probes) {
  // Arithmetic: every pair of fills, four times.
  constexpr int kArithmeticCases = kFills * kFillsC * 4;
  for (const Format* format : {&kE4M3, &kE5M2, &kF16}) {
    for (const Format& d : {kF32, kF16}) {
      probes.push_back(wgmma({.format = format, .d = d}, kArithmeticCases));
    }
  }
  probes.push_back(wgmma({.format = &kBf16}, kArithmeticCases));
  probes.push_back(wgmma({}, 32));
  // Layouts: A and B of every swizzle, and the shapes of attention.
  for (const Swizzle swizzle : {Swizzle::none, Swizzle::span_32, Swizzle::span_64}) {
    probes.push_back(wgmma({.n = 64, .a = AFrom::shared, .swizzle = swizzle}, 8));
  }
  for (const int n : {64, 128, 256}) {
    for (const AFrom a : {AFrom::shared, AFrom::registers}) {
      probes.push_back(wgmma({.n = n, .a = a, .swizzle = Swizzle::span_128}, 1024 / n));
    }
  }
  for (const int n : {64, 128, 136, 256}) {
    probes.push_back(wgmma({.format = &kE4M3, .n = n, .swizzle = Swizzle::span_128}, 1024 / n));
  }
  probes.push_back(
      wgmma({.format = &kE4M3, .n = 64, .a = AFrom::shared, .swizzle = Swizzle::span_128}, 16));
  probes.push_back(
      wgmma({.format = &kF16, .n = 64, .a = AFrom::shared, .swizzle = Swizzle::span_128}, 16));
  for (const int n : {64, 128}) {
    probes.push_back(
        wgmma({.n = n, .a = AFrom::shared, .swizzle = Swizzle::span_128, .preset = true}, 4));
  }
}

}  // namespace sagegen::hardware
