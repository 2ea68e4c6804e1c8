// Probes of the tensor cores and of the instructions that move fragments.
#include <fmt/format.h>

#include <algorithm>

#include "tools/hardware/operands.h"
#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {
namespace {

struct MmaProbe {
  Format a, b;
  int k = 16;
  Format c = kF32;

  int bits() const { return a.width() == kTf32.width() ? 32 : a.width(); }  // of an operand
  int halves() const { return k * bits() / 128; }                           // registers along k
  int a_words() const { return 2 * halves(); }
  int b_words() const { return halves(); }
  int c_words() const { return c.width() / 8; }
};

// The codes of a lane in one register. Below a tf32 lie 13 bits that must not count: half of them are zero.
std::uint32_t operand_word(const std::vector<std::uint32_t>& codes, int first, const Format& format,
                           Random& random) {
  if (format.width() != kTf32.width()) {
    return packed(codes, first, format);
  }
  const std::uint32_t below = random.word();
  return codes[static_cast<std::size_t>(first)] << 13 | ((below >> 31) != 0 ? below & 0x1fffu : 0u);
}

// Fragments of mma.m16n8: lane 4g+t has rows g and g+8 of A, column g of B, and columns 2t and 2t+1
// of C (PTX ISA, matrix fragments for mma.m16n8k16 and m16n8k32).
void put_tile(const MmaProbe& probe, const Tile& tile, Random& random, Words& words) {
  const int per_word = 32 / probe.bits();
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane >> 2;
    const int t = lane & 3;
    for (int r = 0; r < probe.a_words(); ++r) {
      const int first = (g + 8 * (r & 1)) * probe.k + (4 * (r >> 1) + t) * per_word;
      words[r * kLanes + lane] = operand_word(tile.a_codes, first, probe.a, random);
    }
    for (int r = 0; r < probe.b_words(); ++r) {
      const int first = g * probe.k + (4 * r + t) * per_word;
      words[(probe.a_words() + r) * kLanes + lane] =
          operand_word(tile.b_codes, first, probe.b, random);
    }
    for (int r = 0; r < 2; ++r) {  // rows g and g + 8
      const int first = (g + 8 * r) * 8 + 2 * t;
      const int per_pair = probe.c_words() / 2;
      for (int i = 0; i < per_pair; ++i) {
        words[(probe.a_words() + probe.b_words() + r * per_pair + i) * kLanes + lane] =
            packed(tile.c_codes, first + i, probe.c);
      }
    }
  }
}

Tile tile_of(const MmaProbe& probe) {
  return {.a = probe.a,
          .b = probe.b,
          .c = probe.c,
          .rows = 16,
          .columns = 8,
          .k = probe.k,
          .k_step = probe.k};
}

void fill_mma(const MmaProbe& probe, int index, Random& random, Words& words) {
  Tile tile = tile_of(probe);
  fill_tile(static_cast<Fill>(index % kFills), static_cast<FillC>(index / kFills % kFillsC), random,
            tile);
  put_tile(probe, tile, random, words);
}

// ---- what the published models leave open ----------------------------------------------------------

Tile empty_tile(const MmaProbe& probe) {
  Tile tile = tile_of(probe);
  tile.a_codes.assign(static_cast<std::size_t>(16 * probe.k), 0);
  tile.b_codes.assign(static_cast<std::size_t>(8 * probe.k), 0);
  tile.c_codes.assign(16 * 8, 0);
  return tile;
}

// A code with its exponent field in [low, high].
std::uint32_t code_between(const Format& format, int low, int high, Random& random) {
  const auto field = static_cast<std::uint32_t>(low + random.below(high - low + 1));
  const std::uint32_t sign = random.word() & 1u;
  return sign << (format.width() - 1) | field << format.fraction_bits |
         (random.word() & ((1u << format.fraction_bits) - 1u));
}

// Sums of f16 accumulators that are not zero and too small for f16: does a negative one become -0? Each
// output is one product of at most some 2^-24, beside a C of either zero, a C that another product cancels
// (in the same half of k, or the other), or a small C.
void fill_zero_sign(const MmaProbe& probe, int index, Random& random, Words& words) {
  Tile tile = empty_tile(probe);
  const int at = random.below(probe.k);
  const int other = (index / 4) % 2 == 0 ? at ^ 1 : at ^ (probe.k / 2);
  const std::uint32_t one = static_cast<std::uint32_t>(kF16.bias()) << kF16.fraction_bits;
  for (int column = 0; column < 8; ++column) {
    const auto row = static_cast<std::size_t>(column * probe.k);
    tile.b_codes[row + static_cast<std::size_t>(at)] =
        code_between(kF16, 0, kF16.bias() - 1, random);
    tile.b_codes[row + static_cast<std::size_t>(other)] = one;
  }
  for (int row = 0; row < 16; ++row) {
    const auto first = static_cast<std::size_t>(row * probe.k);
    const std::uint32_t sign = (random.word() & 1u) << 15;
    tile.a_codes[first + static_cast<std::size_t>(at)] = sign | (1u + random.word() % 3u);
    const std::uint32_t c = random.word() & 0x83ffu;
    for (int column = 0; column < 8; ++column) {
      std::uint32_t& code = tile.c_codes[static_cast<std::size_t>(8 * row + column)];
      code = index % 4 == 0   ? 0u
             : index % 4 == 1 ? 0x8000u
             : index % 4 == 2 ? c
                              : random.word() & 0x8003u;
    }
    if (index % 4 == 2) {
      tile.a_codes[first + static_cast<std::size_t>(other)] = c ^ 0x8000u;
    }
  }
  put_tile(probe, tile, random, words);
}

// A zero of either sign beside a partner of 2^100 or more: does their product, which is zero, count when
// terms are aligned, with the exponent of an f32's zero (-126) plus the partner's? The other products have
// exponents -44 to -16, below most of these; C is zero, like them, or larger.
void fill_zero_beside_huge(const MmaProbe& probe, int index, Random& random, Words& words) {
  Tile tile = empty_tile(probe);
  const Format& format = probe.a;
  const int one = format.bias();
  const auto at = static_cast<std::size_t>(random.below(probe.k));
  const auto fill = [&](std::vector<std::uint32_t>& codes, int lines, bool zero) {
    for (int line = 0; line < lines; ++line) {
      const std::size_t first = static_cast<std::size_t>(line * probe.k);
      for (std::size_t k = 0; k < static_cast<std::size_t>(probe.k); ++k) {
        codes[first + k] = code_between(format, one - 22, one - 8, random);
      }
      codes[first + at] = zero ? (random.word() & 1u) << (format.width() - 1)
                               : code_between(format, one + 100, format.largest_field(), random);
    }
  };
  fill(tile.a_codes, 16, index % 2 == 0);
  fill(tile.b_codes, 8, index % 2 == 1);
  for (std::uint32_t& code : tile.c_codes) {
    switch (index / 2 % 3) {
      case 0:
        code = random.word() & 0x80000000u;
        break;
      case 1:
        code = code_between(probe.c, kF32.bias() - 40, kF32.bias() - 20, random);
        break;
      default:
        code = code_between(probe.c, kF32.bias() - 20, kF32.bias() + 5, random);
    }
  }
  put_tile(probe, tile, random, words);
}

}  // namespace

std::string registers(const char* name, int first, int count) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) {
    text += fmt::format("{}{}{}", i == 0 ? "" : ", ", name, first + i);
  }
  return text + "}";
}

void random_words(int, Random& random, Words& words) {
  for (std::uint32_t& word : words) {
    word = random.word();
  }
}

namespace {

std::string mma_body(const std::string& types, int k, int a, int b, int c,
                     const char* modifier = "") {
  return fmt::format("\tmma.sync.aligned.m16n8k{}.row.col{}.{} {}, {}, {}, {};\n", k, modifier,
                     types, registers("%out", 0, c), registers("%in", 0, a), registers("%in", a, b),
                     registers("%in", a + b, c));
}

Probe float_mma(const MmaProbe& probe, int compute_capability, int ptx_version) {
  const char* c = probe.c.name;
  Probe result;
  result.name = fmt::format("mma_m16n8k{}_{}_{}_{}", probe.k, probe.a.name, probe.b.name, c);
  result.what = fmt::format("mma.sync m16n8k{}, {} x {}, {} accumulators", probe.k, probe.a.name,
                            probe.b.name, c);
  result.compute_capability = compute_capability;
  result.target = fmt::format("sm_{}", compute_capability);
  result.ptx_version = ptx_version;
  result.inputs = probe.a_words() + probe.b_words() + probe.c_words();
  result.outputs = probe.c_words();
  result.cases = kFills * kFillsC * 8;
  result.body = mma_body(fmt::format("{}.{}.{}.{}", c, probe.a.name, probe.b.name, c), probe.k,
                         probe.a_words(), probe.b_words(), probe.c_words());
  result.fill = [probe](int index, Random& random, Words& words) {
    fill_mma(probe, index, random, words);
  };
  return result;
}

// Another way to fill the operands of a probe, under a name of its own.
Probe unsettled(const MmaProbe& mma, const char* name, const char* what,
                void (*fill)(const MmaProbe&, int, Random&, Words&)) {
  Probe probe = float_mma(mma, 80, 70);
  probe.name += name;
  probe.what += what;
  probe.cases = 96;
  probe.fill = [mma, fill](int index, Random& random, Words& words) {
    fill(mma, index, random, words);
  };
  return probe;
}

Probe binary_mma(const char* operation) {
  Probe probe;
  probe.name = fmt::format("mma_m16n8k256_b1_{}", operation);
  probe.what = fmt::format("mma.sync m16n8k256, single bits, {}.popc", operation);
  probe.target = "sm_80";
  probe.inputs = 10;
  probe.outputs = 4;
  probe.cases = 16;
  probe.body =
      fmt::format("\tmma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.{}.popc {}, {}, {}, {};\n",
                  operation, registers("%out", 0, 4), registers("%in", 0, 4),
                  registers("%in", 4, 2), registers("%in", 6, 4));
  probe.fill = random_words;
  return probe;
}

// Doubles lie in two words of a thread. In which order a sum takes its products is what cases with
// exponents close together tell.
Probe double_mma(int m, int k, int compute_capability) {
  const int a = m * k / 32, b = k / 4, c = m / 4;
  Probe probe;
  probe.name = fmt::format("mma_m{}n8k{}_f64", m, k);
  probe.what = fmt::format("mma.sync m{}n8k{}, f64", m, k);
  probe.compute_capability = compute_capability;
  probe.target = fmt::format("sm_{}", compute_capability);
  probe.inputs = 2 * (a + b + c);
  probe.outputs = 2 * c;
  probe.cases = 64;
  probe.body = fmt::format("\t{{\n\t.reg .f64 %fd<{}>;\n", a + b + 2 * c);
  for (int i = 0; i < a + b + c; ++i) {
    probe.body += fmt::format("\tmov.b64 %fd{}, {};\n", i, registers("%in", 2 * i, 2));
  }
  probe.body += fmt::format("\tmma.sync.aligned.m{}n8k{}.row.col.f64.f64.f64.f64 {}, {}, {}, {};\n",
                            m, k, registers("%fd", a + b + c, c), registers("%fd", 0, a),
                            registers("%fd", a, b), registers("%fd", a + b, c));
  for (int i = 0; i < c; ++i) {
    probe.body += fmt::format("\tmov.b64 {}, %fd{};\n", registers("%out", 2 * i, 2), a + b + c + i);
  }
  probe.body += "\t}\n";
  probe.fill = [](int index, Random& random, Words& words) {
    constexpr int kSpread[] = {2, 30, 1000};  // around 1, in binades
    for (std::size_t i = 0; i < words.size(); i += 2 * kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        std::uint64_t bits = random.next();
        if (index % 4 < 3) {
          const int spread = kSpread[index % 4];
          const int field = 1023 - spread / 2 + random.below(spread + 1);
          bits = (bits & 0x800f'ffff'ffff'ffffu) | static_cast<std::uint64_t>(field) << 52;
        }
        const std::size_t at = i + static_cast<std::size_t>(lane);
        words[at] = static_cast<std::uint32_t>(bits);
        words[at + kLanes] = static_cast<std::uint32_t>(bits >> 32);
      }
    }
  };
  return probe;
}

// A, B and C of 16 x 16 follow one another in the case's operands; D goes through shared memory, since
// its layout in registers is the device's affair.
Probe wmma() {
  Probe probe;
  probe.name = "wmma_m16n16k16_f16_f32";
  probe.what = "wmma.load, wmma.mma m16n16k16 f16 with f32 accumulators, wmma.store";
  probe.target = "sm_80";
  probe.inputs = 16;
  probe.outputs = 8;
  probe.cases = kFills * kFillsC;
  probe.shared_bytes = 1024;
  const std::string a = registers("%a", 0, 8), b = registers("%b", 0, 8), c = registers("%c", 0, 8);
  probe.body = fmt::format(
      "\t{{\n"
      "\t.reg .b32 %a<8>;\n"
      "\t.reg .b32 %b<8>;\n"
      "\t.reg .f32 %c<8>;\n"
      "\twmma.load.a.sync.aligned.row.m16n16k16.global.f16 {0}, [%case_in], 16;\n"
      "\twmma.load.b.sync.aligned.col.m16n16k16.global.f16 {1}, [%case_in+512], 16;\n"
      "\twmma.load.c.sync.aligned.row.m16n16k16.global.f32 {2}, [%case_in+1024], 16;\n"
      "\twmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {2}, {0}, {1}, {2};\n"
      "\twmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%shared], {2}, 16;\n"
      "\tbar.warp.sync 0xffffffff;\n"
      "\tmad.lo.s32 %r6, %lane, 32, %shared;\n"
      "\tld.shared.v4.b32 {3}, [%r6];\n"
      "\tld.shared.v4.b32 {4}, [%r6+16];\n"
      "\t}}\n",
      a, b, c, registers("%out", 0, 4), registers("%out", 4, 4));
  probe.fill = [](int index, Random& random, Words& words) {
    Tile tile{.a = kF16, .b = kF16, .c = kF32, .rows = 16, .columns = 16, .k = 16, .k_step = 16};
    fill_tile(static_cast<Fill>(index % kFills), static_cast<FillC>(index / kFills % kFillsC),
              random, tile);
    for (int i = 0; i < 128; ++i) {
      words[static_cast<std::size_t>(i)] = packed(tile.a_codes, 2 * i, kF16);
      words[static_cast<std::size_t>(128 + i)] = packed(tile.b_codes, 2 * i, kF16);
    }
    std::copy(tile.c_codes.begin(), tile.c_codes.end(), words.begin() + 256);
  };
  return probe;
}

// b_type: of B, where it is another one than that of A.
Probe integer_mma(const char* type, int k, const char* modifier, const char* b_type = nullptr) {
  const std::string types =
      b_type == nullptr ? std::string(type) : fmt::format("{}_{}", type, b_type);
  const int halves = k * (type[1] - '0') / 128;  // registers along k
  Probe probe;
  probe.name = fmt::format("mma_m16n8k{}_{}_s32{}", k, types, *modifier != 0 ? "_satfinite" : "");
  probe.what = fmt::format("mma.sync m16n8k{}, {}, s32 accumulators", k, types);
  probe.target = "sm_80";
  probe.inputs = 3 * halves + 4;
  probe.outputs = 4;
  probe.cases = 96;
  probe.body = mma_body(fmt::format("s32.{}.{}.s32", type, b_type == nullptr ? type : b_type), k,
                        2 * halves, halves, 4, modifier);
  const std::size_t first_c = 3 * static_cast<std::size_t>(halves) * kLanes;
  probe.fill = [first_c](int index, Random& random, Words& words) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      words[i] = random.word();
      if (i >= first_c && index % 2 == 1) {  // sums that pass either end of s32
        words[i] = 0x7fffff00u + (words[i] & 0x1ffu);
      }
      if (i < first_c && index % 16 == 15) {
        words[i] = (words[i] & 1u) != 0 ? 0x80808080u : 0x7f7f7f7fu;
      }
    }
  };
  return probe;
}

// Four words of data per lane go to shared memory; the row that a lane points to comes from the
// last input.
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

// A copy of `size` bytes, 0 to 16, whose rest is filled with zeros. The case's first 512 bytes of
// operands are the source, 16 of them per lane.
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
      "\tadd.s64 %rd11, %case_in, %rd10;\n"
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

}  // namespace

void add_matrix_probes(std::vector<Probe>& probes) {
  // Recorded first: tests/hardware/README.md says what depends on them.
  probes.push_back(unsettled({.a = kF16, .b = kF16, .c = kF16}, "_zero_sign",
                             ", sums below the least f16", fill_zero_sign));
  for (const MmaProbe& mma :
       {MmaProbe{.a = kBf16, .b = kBf16}, MmaProbe{.a = kTf32, .b = kTf32, .k = 8}}) {
    probes.push_back(unsettled(mma, "_zero_beside_huge", ", zeros beside partners of 2^100 or more",
                               fill_zero_beside_huge));
  }
  probes.push_back(integer_mma("s8", 32, ""));
  probes.push_back(integer_mma("s8", 32, ".satfinite"));
  probes.push_back(integer_mma("u8", 32, ""));
  probes.push_back(integer_mma("s8", 32, "", "u8"));
  probes.push_back(integer_mma("s8", 16, ""));
  probes.push_back(integer_mma("s4", 64, ""));
  probes.push_back(integer_mma("s4", 64, ".satfinite"));
  probes.push_back(integer_mma("s4", 32, ""));
  probes.push_back(integer_mma("u4", 64, ""));
  for (const Format& c : {kF32, kF16}) {
    probes.push_back(float_mma({.a = kF16, .b = kF16, .k = 16, .c = c}, 80, 70));
    probes.push_back(float_mma({.a = kF16, .b = kF16, .k = 8, .c = c}, 80, 70));
  }
  probes.push_back(float_mma({.a = kBf16, .b = kBf16, .k = 16}, 80, 70));
  for (const Format& c : {kF32, kF16}) {
    probes.push_back(float_mma({.a = kE4M3, .b = kE4M3, .k = 32, .c = c}, 89, 87));
    probes.push_back(float_mma({.a = kE5M2, .b = kE5M2, .k = 32, .c = c}, 89, 87));
  }
  probes.push_back(float_mma({.a = kE4M3, .b = kE5M2, .k = 32}, 89, 84));
  probes.push_back(float_mma({.a = kE4M3, .b = kE4M3, .k = 16}, 89, 87));
  probes.push_back(float_mma({.a = kTf32, .b = kTf32, .k = 8}, 80, 70));
  probes.push_back(float_mma({.a = kTf32, .b = kTf32, .k = 4}, 80, 70));
  probes.push_back(binary_mma("xor"));
  probes.push_back(binary_mma("and"));
  probes.push_back(double_mma(8, 4, 80));
  probes.push_back(double_mma(16, 16, 90));
  probes.push_back(wmma());
  for (const int count : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      probes.push_back(ldmatrix(count, transposed));
    }
  }
  probes.push_back(copy_with_zero_fill());
  for (const int count : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      probes.push_back(stmatrix(count, transposed));
    }
  }
  probes.push_back(movmatrix());
}

}  // namespace sagegen::hardware
