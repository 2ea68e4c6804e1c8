// Probes of the tensor cores and of the instructions that move fragments.
#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {
namespace {

// A floating-point format of operands or accumulators.
struct Format {
  const char* name;
  int exponent_bits, fraction_bits;
  bool has_infinity;

  int width() const { return 1 + exponent_bits + fraction_bits; }
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int largest_field() const { return (1 << exponent_bits) - 2; }  // of codes that are always finite
  double value(std::uint32_t code) const {
    const auto field = static_cast<int>((code >> fraction_bits) & ((1u << exponent_bits) - 1u));
    const double fraction = code & ((1u << fraction_bits) - 1u);
    const double hidden = field == 0 ? 0.0 : std::ldexp(1.0, fraction_bits);
    const double magnitude =
        std::ldexp(fraction + hidden, (field == 0 ? 1 : field) - bias() - fraction_bits);
    return ((code >> (width() - 1)) & 1u) != 0 ? -magnitude : magnitude;
  }
};
constexpr Format kF16{"f16", 5, 10, true};
constexpr Format kBf16{"bf16", 8, 7, true};
constexpr Format kE4M3{"e4m3", 4, 3, false};
constexpr Format kE5M2{"e5m2", 5, 2, true};
constexpr Format kF32{"f32", 8, 23, true};

// A finite code whose exponent field is in [low, high].
std::uint32_t finite_code(const Format& format, int low, int high, Random& random) {
  low = std::max(0, std::min(low, format.largest_field()));
  high = std::max(low, std::min(high, format.largest_field()));
  const auto field = static_cast<std::uint32_t>(low + random.below(high - low + 1));
  const std::uint32_t sign = random.word() & 1u;
  return (sign << (format.width() - 1)) | (field << format.fraction_bits) |
         (random.word() & ((1u << format.fraction_bits) - 1u));
}

// Kinds of operands, and of accumulators in relation to the sum of the products.
enum class Fill { moderate, spread, cancelling, huge_and_tiny, subnormal, specials, any_bits };
constexpr int kFills = 7;
enum class FillC { zero, similar, larger, smaller, opposite, any_bits };
constexpr int kFillsC = 6;

std::uint32_t operand_code(const Format& format, Fill fill, bool large, Random& random) {
  const int one = format.bias();
  switch (fill) {
    case Fill::spread:
      return finite_code(format, 0, 1 << format.exponent_bits, random);
    case Fill::huge_and_tiny:
      return large ? finite_code(format, one + 4, one + 6, random)
                   : finite_code(format, one - 6, one - 3, random);
    case Fill::subnormal:
      return random.below(8) == 0 ? finite_code(format, one - 2, one + 2, random)
                                  : finite_code(format, 0, random.below(4) == 0 ? 1 : 0, random);
    case Fill::specials:
      if (random.below(64) == 0) {  // zero, NaN or infinity (256 in e4m3)
        const std::uint32_t ones = ((1u << format.exponent_bits) - 1u) << format.fraction_bits;
        const std::uint32_t codes[] = {0u, ones | ((1u << format.fraction_bits) - 1u), ones, ones};
        return codes[random.below(4)] | ((random.word() & 1u) << (format.width() - 1));
      }
      break;
    case Fill::any_bits:
      return random.word() & ((1u << format.width()) - 1u);
    case Fill::moderate:
    case Fill::cancelling:
      break;
  }
  return finite_code(format, one - 3, one + 3, random);
}

struct MmaProbe {
  Format a, b;
  int k = 16;
  bool f16_accumulator = false;

  int per_word() const { return 32 / a.width(); }
  int halves() const { return k * a.width() / 128; }  // registers along k
  int a_words() const { return 2 * halves(); }
  int b_words() const { return halves(); }
  int c_words() const { return f16_accumulator ? 2 : 4; }
  const Format& c() const { return f16_accumulator ? kF16 : kF32; }
};

std::uint32_t element(std::uint32_t word, const Format& format, int e) {
  return (word >> (format.width() * e)) & ((1u << format.width()) - 1u);
}

// A's lane 4g+t and B's lane 4g+t hold the same elements of k in the registers of the same half; this is
// all that the operands need to know of the layout.
double exact_sum(const MmaProbe& probe, const Words& words, int row, int column) {
  double sum = 0;
  for (int h = 0; h < probe.halves(); ++h) {
    for (int t = 0; t < 4; ++t) {
      const int a_word = 2 * h + (row >> 3);
      const std::uint32_t a = words[a_word * kLanes + 4 * (row & 7) + t];
      const std::uint32_t b = words[(probe.a_words() + h) * kLanes + 4 * column + t];
      for (int e = 0; e < probe.per_word(); ++e) {
        sum += probe.a.value(element(a, probe.a, e)) * probe.b.value(element(b, probe.b, e));
      }
    }
  }
  return sum;
}

// The accumulator code for a sum: rounding does not matter, only that it is the same everywhere.
std::uint32_t near_code(const Format& format, double value) {
  if (format.fraction_bits == 23) {
    return std::bit_cast<std::uint32_t>(static_cast<float>(value));
  }
  const std::uint32_t sign = std::signbit(value) ? 1u << (format.width() - 1) : 0u;
  const double magnitude = std::fabs(value);
  if (magnitude < std::ldexp(1.0, 1 - format.bias())) {
    return sign;
  }
  const int exponent = std::min(std::ilogb(magnitude), format.bias());
  const double fraction =
      std::min(std::ldexp(magnitude, -exponent) - 1.0, 1.0 - std::ldexp(1.0, -12));
  return sign | (static_cast<std::uint32_t>(exponent + format.bias()) << format.fraction_bits) |
         static_cast<std::uint32_t>(std::ldexp(fraction, format.fraction_bits));
}

std::uint32_t accumulator_code(const MmaProbe& probe, FillC fill, double sum, Random& random) {
  const Format& format = probe.c();
  const int one = format.bias();
  const int scale = std::isfinite(sum) && sum != 0 ? std::ilogb(sum) : 0;
  switch (fill) {
    case FillC::zero:
      return random.below(8) == 0 ? 1u << (format.width() - 1) : 0u;
    case FillC::similar:
      return finite_code(format, one + scale - 2, one + scale + 2, random);
    case FillC::larger:
      return finite_code(format, one + scale + 8, one + scale + 30, random);
    case FillC::smaller:
      return finite_code(format, one + scale - 40, one + scale - 8, random);
    case FillC::opposite:
      return std::isfinite(sum) ? near_code(format, -sum) : 0u;
    case FillC::any_bits:
      break;
  }
  return format.width() == 32 ? random.word() : random.word() & ((1u << format.width()) - 1u);
}

void fill_mma(const MmaProbe& probe, int index, Random& random, Words& words) {
  const auto fill = static_cast<Fill>(index % kFills);
  const auto fill_c = static_cast<FillC>(index / kFills % kFillsC);
  const int large_h = random.below(probe.halves());
  const int large_t = random.below(4);
  const int large_e = random.below(probe.per_word());
  auto fill_words = [&](const Format& format, int first, int per_half) {
    for (int h = 0; h < probe.halves(); ++h) {
      for (int i = 0; i < per_half * kLanes; ++i) {
        const int lane = i % kLanes;
        std::uint32_t word = 0;
        for (int e = 0; e < probe.per_word(); ++e) {
          const bool large = h == large_h && (lane & 3) == large_t && e == large_e;
          word |= operand_code(format, fill, large, random) << (format.width() * e);
        }
        words[(first + h * per_half) * kLanes + i] = word;
      }
    }
  };
  fill_words(probe.a, 0, 2);
  fill_words(probe.b, probe.a_words(), 1);
  if (fill == Fill::cancelling) {
    // Element e repeats element e ^ 1 of the same word, with B negated; a few of A differ in the last bit.
    auto pair_up = [&](const Format& format, int first, int count, std::uint32_t flip, bool nudge) {
      const std::uint32_t mask = (1u << format.width()) - 1u;
      for (int i = first * kLanes; i < (first + count) * kLanes; ++i) {
        for (int e = 0; e < probe.per_word(); e += 2) {
          const std::uint32_t low = element(words[i], format, e);
          const std::uint32_t high = low ^ flip ^ (nudge && random.below(8) == 0 ? 1u : 0u);
          words[i] &= ~(mask << (format.width() * (e + 1)));
          words[i] |= high << (format.width() * (e + 1));
        }
      }
    };
    pair_up(probe.a, 0, probe.a_words(), 0, true);
    pair_up(probe.b, probe.a_words(), probe.b_words(), 1u << (probe.b.width() - 1), false);
  }
  const int first_c = probe.a_words() + probe.b_words();
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      const std::uint32_t code =
          accumulator_code(probe, fill_c, exact_sum(probe, words, row, column), random);
      const int lane = 4 * (row & 7) + column / 2;
      if (probe.f16_accumulator) {
        words[(first_c + (row >> 3)) * kLanes + lane] |= code << (16 * (column & 1));
      } else {
        words[(first_c + 2 * (row >> 3) + (column & 1)) * kLanes + lane] = code;
      }
    }
  }
}

// "{%in0,%in1}"
std::string registers(const char* name, int first, int count) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) {
    text += fmt::format("{}{}{}", i == 0 ? "" : ", ", name, first + i);
  }
  return text + "}";
}

std::string mma_body(const std::string& types, int k, int a, int b, int c,
                     const char* modifier = "") {
  return fmt::format("\tmma.sync.aligned.m16n8k{}.row.col{}.{} {}, {}, {}, {};\n", k, modifier,
                     types, registers("%out", 0, c), registers("%in", 0, a), registers("%in", a, b),
                     registers("%in", a + b, c));
}

Probe float_mma(const MmaProbe& probe, int compute_capability, int ptx_version) {
  const char* c = probe.f16_accumulator ? "f16" : "f32";
  Probe result;
  result.name = fmt::format("mma_m16n8k{}_{}_{}_{}", probe.k, probe.a.name, probe.b.name, c);
  result.what = fmt::format("mma.sync m16n8k{}, {} x {}, {} accumulators", probe.k, probe.a.name,
                            probe.b.name, c);
  result.compute_capability = compute_capability;
  result.target = fmt::format("sm_{}", compute_capability);
  result.ptx_version = ptx_version;
  result.inputs = probe.a_words() + probe.b_words() + probe.c_words();
  result.outputs = probe.c_words();
  result.cases = kFills * kFillsC * 12;
  result.body = mma_body(fmt::format("{}.{}.{}.{}", c, probe.a.name, probe.b.name, c), probe.k,
                         probe.a_words(), probe.b_words(), probe.c_words());
  result.fill = [probe](int index, Random& random, Words& words) {
    fill_mma(probe, index, random, words);
  };
  return result;
}

Probe integer_mma(const char* type, int k, const char* modifier) {
  Probe probe;
  probe.name = fmt::format("mma_m16n8k{}_{}_s32{}", k, type, *modifier != 0 ? "_satfinite" : "");
  probe.what = fmt::format("mma.sync m16n8k{}, {}, s32 accumulators", k, type);
  probe.target = "sm_80";
  probe.inputs = 10;
  probe.outputs = 4;
  probe.cases = 96;
  probe.body = mma_body(fmt::format("s32.{}.{}.s32", type, type), k, 4, 2, 4, modifier);
  probe.fill = [](int index, Random& random, Words& words) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      words[i] = random.word();
      if (i >= 6 * kLanes && index % 2 == 1) {  // sums that pass either end of s32
        words[i] = 0x7fffff00u + (words[i] & 0x1ffu);
      }
      if (i < 6 * kLanes && index % 16 == 15) {
        words[i] = (words[i] & 1u) != 0 ? 0x80808080u : 0x7f7f7f7fu;
      }
    }
  };
  return probe;
}

void random_words(int, Random& random, Words& words) {
  for (std::uint32_t& word : words) {
    word = random.word();
  }
}

// Four words of data per lane go to shared memory; the row that a lane points to comes from the last input.
Probe ldmatrix(int count, bool transposed) {
  Probe probe;
  probe.name = fmt::format("ldmatrix_x{}{}", count, transposed ? "_trans" : "");
  probe.what = fmt::format("ldmatrix.m8n8.x{}{}.b16", count, transposed ? ".trans" : "");
  probe.target = "sm_80";
  probe.inputs = 5;
  probe.outputs = count;
  probe.cases = 32;
  probe.shared_bytes = 512;
  probe.body = fmt::format(
      "\tmad.lo.s32 %r6, %lane, 16, %shared;\n"
      "\tst.shared.v4.b32 [%r6], {{%in0, %in1, %in2, %in3}};\n"
      "\tbar.warp.sync 0xffffffff;\n"
      "\tmad.lo.s32 %r7, %in4, 16, %shared;\n"
      "\tldmatrix.sync.aligned.m8n8.x{}{}.shared.b16 {}, [%r7];\n",
      count, transposed ? ".trans" : "", registers("%out", 0, count));
  probe.fill = [](int index, Random& random, Words& words) {
    random_words(index, random, words);
    for (int lane = 0; lane < kLanes; ++lane) {
      words[4 * kLanes + lane] = index == 0 ? static_cast<std::uint32_t>(lane)
                                            : static_cast<std::uint32_t>(random.below(kLanes));
    }
  };
  return probe;
}

Probe stmatrix(int count, bool transposed) {
  Probe probe;
  probe.name = fmt::format("stmatrix_x{}{}", count, transposed ? "_trans" : "");
  probe.what = fmt::format("stmatrix.m8n8.x{}{}.b16", count, transposed ? ".trans" : "");
  probe.compute_capability = 90;
  probe.target = "sm_90";
  probe.inputs = 5;
  probe.outputs = 4;
  probe.cases = 16;
  probe.shared_bytes = 512;
  probe.body = fmt::format(
      "\tmad.lo.s32 %r6, %lane, 16, %shared;\n"
      "\tst.shared.v4.b32 [%r6], {{%in0, %in1, %in2, %in3}};\n"
      "\tbar.warp.sync 0xffffffff;\n"
      "\tmad.lo.s32 %r7, %in4, 16, %shared;\n"
      "\tstmatrix.sync.aligned.m8n8.x{}{}.shared.b16 [%r7], {};\n"
      "\tbar.warp.sync 0xffffffff;\n"
      "\tld.shared.v4.b32 {{%out0, %out1, %out2, %out3}}, [%r6];\n",
      count, transposed ? ".trans" : "", registers("%in", 0, count));
  probe.fill = [](int index, Random& random, Words& words) {
    random_words(index, random, words);
    // A rotation of the rows: no two lanes write the same one.
    for (int lane = 0; lane < kLanes; ++lane) {
      words[4 * kLanes + lane] = static_cast<std::uint32_t>((lane + 3 * index) % kLanes);
    }
  };
  return probe;
}

// A copy of `size` bytes, 0 to 16, whose rest is filled with zeros. The case's first 512 bytes of operands
// are the source, 16 of them per lane.
Probe copy_with_zero_fill() {
  Probe probe;
  probe.name = "cp_async_zero_fill";
  probe.what = "cp.async.cg 16 with a source size of 0 to 16 bytes";
  probe.target = "sm_80";
  probe.inputs = 5;
  probe.outputs = 4;
  probe.cases = 16;
  probe.shared_bytes = 512;
  probe.body =
      "\tmul.wide.u32 %rd10, %lane, 16;\n"
      "\tadd.s64 %rd11, %rd2, %rd5;\n"
      "\tadd.s64 %rd11, %rd11, %rd10;\n"
      "\tmad.lo.s32 %r6, %lane, 16, %shared;\n"
      "\tcp.async.cg.shared.global [%r6], [%rd11], 16, %in4;\n"
      "\tcp.async.commit_group;\n"
      "\tcp.async.wait_group 0;\n"
      "\tld.shared.v4.b32 {%out0, %out1, %out2, %out3}, [%r6];\n";
  probe.fill = [](int index, Random& random, Words& words) {
    random_words(index, random, words);
    for (int lane = 0; lane < kLanes; ++lane) {
      words[4 * kLanes + lane] = static_cast<std::uint32_t>((lane + index) % 17);
    }
  };
  return probe;
}

Probe movmatrix() {
  Probe probe;
  probe.name = "movmatrix_trans";
  probe.what = "movmatrix.m8n8.trans.b16";
  probe.target = "sm_80";
  probe.inputs = probe.outputs = 1;
  probe.cases = 16;
  probe.body = "\tmovmatrix.sync.aligned.m8n8.trans.b16 %out0, %in0;\n";
  probe.fill = random_words;
  return probe;
}

// Results of wgmma on four cases at once: a block is one warpgroup. A comes from registers; B, 8 columns by
// 32 bytes of k, is what the block's first warp stores: two core matrices of 8 rows by 16 bytes, 128 bytes
// apart along k, no swizzle.
Probe wgmma(const Format* format, bool f16_accumulator) {
  const MmaProbe layout{.a = format != nullptr ? *format : kE4M3,
                        .b = format != nullptr ? *format : kE4M3,
                        .k = format != nullptr ? 256 / format->width() : 32,
                        .f16_accumulator = f16_accumulator};
  const char* type = format != nullptr ? format->name : "s8";
  const char* d = format == nullptr ? "s32" : f16_accumulator ? "f16" : "f32";
  const bool sixteen = format != nullptr && format->width() == 16;
  const int c = layout.c_words();
  Probe probe;
  probe.name = fmt::format("wgmma_m64n8k{}_{}_{}", layout.k, type, d);
  probe.what = fmt::format("wgmma.mma_async m64n8k{}, {}, {} accumulators, A in registers",
                           layout.k, type, d);
  probe.compute_capability = 90;
  probe.target = "sm_90a";
  probe.inputs = 6 + c;
  probe.outputs = c;
  probe.cases = format != nullptr ? kFills * kFillsC * 12 : 96;
  probe.shared_bytes = 256;
  std::string moves;
  for (int i = 0; i < c; ++i) {
    moves += fmt::format("\tmov.b32 %out{}, %in{};\n", i, 6 + i);
  }
  probe.body =
      moves +
      // Lane 4g+t holds k 4t.. (as bytes) of column g: 16 bytes of a row in the four lanes of its quad.
      "\tmul.lo.u32 %r6, %lane, 4;\n"
      "\tadd.u32 %r6, %r5, %r6;\n"
      "\tsetp.ne.u32 %p1, %r2, 0;\n"
      "\t@%p1 bra $stored;\n"
      "\tst.shared.b32 [%r6], %in4;\n"
      "\tst.shared.b32 [%r6+128], %in5;\n"
      "$stored:\n"
      "\tfence.proxy.async;\n"
      "\tbar.sync 0;\n"
      // Descriptor: address, leading offset 128 (next 16 bytes of k), stride 256 (next 8 columns), in 16 B.
      "\tshr.u32 %r7, %r5, 4;\n"
      "\tand.b32 %r7, %r7, 0x3fff;\n"
      "\tor.b32 %r7, %r7, 0x80000;\n"
      "\tmov.u32 %r8, 0x10;\n"
      "\tmov.b64 %rd10, {%r7, %r8};\n"
      "\twgmma.fence.sync.aligned;\n" +
      fmt::format(
          "\twgmma.mma_async.sync.aligned.m64n8k{}.{}.{}.{} {}, {{%in0, %in1, %in2, %in3}}, %rd10, "
          "1{};\n",
          layout.k, d, type, type, registers("%out", 0, c),
          format == nullptr ? ""
          : sixteen         ? ", 1, 1, 0"
                            : ", 1, 1") +
      "\twgmma.commit_group.sync.aligned;\n"
      "\twgmma.wait_group.sync.aligned 0;\n";
  if (format == nullptr) {
    probe.fill = random_words;
  } else {
    probe.fill = [layout](int index, Random& random, Words& words) {
      fill_mma(layout, index, random, words);
    };
  }
  return probe;
}

}  // namespace

void add_matrix_probes(std::vector<Probe>& probes) {
  probes.push_back(integer_mma("s8", 32, ""));
  probes.push_back(integer_mma("s8", 32, ".satfinite"));
  probes.push_back(integer_mma("u8", 32, ""));
  probes.push_back(integer_mma("s4", 64, ""));
  probes.push_back(integer_mma("u4", 64, ""));
  for (const bool f16 : {false, true}) {
    probes.push_back(float_mma({.a = kF16, .b = kF16, .k = 16, .f16_accumulator = f16}, 80, 70));
    probes.push_back(float_mma({.a = kF16, .b = kF16, .k = 8, .f16_accumulator = f16}, 80, 70));
  }
  probes.push_back(float_mma({.a = kBf16, .b = kBf16, .k = 16}, 80, 70));
  for (const bool f16 : {false, true}) {
    probes.push_back(float_mma({.a = kE4M3, .b = kE4M3, .k = 32, .f16_accumulator = f16}, 89, 87));
    probes.push_back(float_mma({.a = kE5M2, .b = kE5M2, .k = 32, .f16_accumulator = f16}, 89, 87));
  }
  probes.push_back(float_mma({.a = kE4M3, .b = kE5M2, .k = 32}, 89, 84));
  probes.push_back(float_mma({.a = kE4M3, .b = kE4M3, .k = 16}, 89, 87));
  for (const int count : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      probes.push_back(ldmatrix(count, transposed));
    }
  }
  probes.push_back(copy_with_zero_fill());
  probes.push_back(stmatrix(4, false));
  probes.push_back(stmatrix(2, true));
  probes.push_back(movmatrix());
  probes.push_back(wgmma(nullptr, false));
  probes.push_back(wgmma(&kE4M3, false));
  probes.push_back(wgmma(&kE4M3, true));
  probes.push_back(wgmma(&kF16, false));
  probes.push_back(wgmma(&kBf16, false));
}

}  // namespace sagegen::hardware
