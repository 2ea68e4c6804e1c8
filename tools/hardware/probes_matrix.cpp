// Probes of the tensor cores and of the instructions that move fragments.
#include <fmt/format.h>

#include "tools/hardware/operands.h"
#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {
namespace {

struct MmaProbe {
  Format a, b;
  int k = 16;
  Format c = kF32;

  int halves() const { return k * a.width() / 128; }  // registers along k
  int a_words() const { return 2 * halves(); }
  int b_words() const { return halves(); }
  int c_words() const { return c.width() / 8; }
};

// Fragments of mma.m16n8: lane 4g+t has rows g and g+8 of A, column g of B, and columns 2t and 2t+1
// of C (PTX ISA, matrix fragments for mma.m16n8k16 and m16n8k32).
void fill_mma(const MmaProbe& probe, int index, Random& random, Words& words) {
  Tile tile{.a = probe.a,
            .b = probe.b,
            .c = probe.c,
            .rows = 16,
            .columns = 8,
            .k = probe.k,
            .k_step = probe.k};
  fill_tile(static_cast<Fill>(index % kFills), static_cast<FillC>(index / kFills % kFillsC), random,
            tile);
  const int per_word = 32 / probe.a.width();
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane >> 2;
    const int t = lane & 3;
    for (int r = 0; r < probe.a_words(); ++r) {
      const int first = (g + 8 * (r & 1)) * probe.k + (4 * (r >> 1) + t) * per_word;
      words[r * kLanes + lane] = packed(tile.a_codes, first, probe.a);
    }
    for (int r = 0; r < probe.b_words(); ++r) {
      const int first = g * probe.k + (4 * r + t) * per_word;
      words[(probe.a_words() + r) * kLanes + lane] = packed(tile.b_codes, first, probe.b);
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

Probe integer_mma(const char* type, int k, const char* modifier) {
  const int halves = k * (type[1] - '0') / 128;  // registers along k
  Probe probe;
  probe.name = fmt::format("mma_m16n8k{}_{}_s32{}", k, type, *modifier != 0 ? "_satfinite" : "");
  probe.what = fmt::format("mma.sync m16n8k{}, {}, s32 accumulators", k, type);
  probe.target = "sm_80";
  probe.inputs = 3 * halves + 4;
  probe.outputs = 4;
  probe.cases = 96;
  probe.body =
      mma_body(fmt::format("s32.{}.{}.s32", type, type), k, 2 * halves, halves, 4, modifier);
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
  probes.push_back(integer_mma("s8", 32, ""));
  probes.push_back(integer_mma("s8", 32, ".satfinite"));
  probes.push_back(integer_mma("u8", 32, ""));
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
