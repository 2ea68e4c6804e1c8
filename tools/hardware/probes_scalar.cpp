// Probes of special functions, f32 and f16 arithmetic and data exchange between lanes, and what all
// scalar probes share.
#include <fmt/format.h>

#include <bit>

#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {

// f32 operands worth asking about: uniform bits, moderate values, and the edges of the format.
std::uint32_t f32_operand(Random& random) {
  constexpr std::uint32_t kEdges[] = {0x00000000, 0x80000000, 0x00000001, 0x807fffff, 0x00800000,
                                      0x80800000, 0x3f800000, 0xbf800000, 0x7f7fffff, 0xff7fffff,
                                      0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001,
                                      0x7fffffff, 0x4effffff, 0x4f000000, 0xcf000000, 0xcf000001,
                                      0x4b800000, 0x3f000000, 0x3fc00000, 0xbf000000};
  switch (random.below(8)) {
    case 0:
      return kEdges[random.below(static_cast<int>(std::size(kEdges)))];
    case 1:
    case 2:
      return random.word();
    default:  // exponents around 1
      return (random.word() & 0x807fffffu) |
             (static_cast<std::uint32_t>(127 - 12 + random.below(24)) << 23);
  }
}

void f32_operands(int, Random& random, Words& words) {
  for (std::uint32_t& word : words) {
    word = f32_operand(random);
  }
}

// Every 16-bit value once: 2 words, so 4 values, per lane; case, lane, word and half count through
// them.
void all_halves(int index, Random&, Words& words) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto first = static_cast<std::uint32_t>((index * kLanes + lane) * 4);
    words[lane] = first | ((first + 1) << 16);
    words[kLanes + lane] = (first + 2) | ((first + 3) << 16);
  }
}

Probe simple(const std::string& name, const std::string& what, int inputs, int outputs, int cases,
             std::string body, std::function<void(int, Random&, Words&)> fill) {
  Probe probe;
  probe.name = name;
  probe.what = what;
  probe.target = "sm_80";
  probe.inputs = inputs;
  probe.outputs = outputs;
  probe.cases = cases;
  probe.body = std::move(body);
  probe.fill = std::move(fill);
  return probe;
}

Probe on_device(Probe probe, int compute_capability, int ptx_version) {
  probe.compute_capability = compute_capability;
  probe.target = fmt::format("sm_{}", compute_capability);
  probe.ptx_version = ptx_version;
  return probe;
}

// One instruction of f32 words to one word: "add.rn.f32".
Probe f32_arithmetic(const std::string& instruction, int inputs) {
  std::string name = instruction;
  for (char& c : name) {
    c = c == '.' ? '_' : c;
  }
  std::string body = fmt::format("\t{} %out0", instruction);
  for (int i = 0; i < inputs; ++i) {
    body += fmt::format(", %in{}", i);
  }
  return simple(name, instruction, inputs, 1, 128, body + ";\n", f32_operands);
}

namespace {

Probe special_function(const std::string& instruction, Tolerance tolerance,
                       std::function<void(int, Random&, Words&)> fill) {
  Probe probe = f32_arithmetic(instruction, 1);
  probe.cases = 512;
  probe.fill = std::move(fill);
  probe.tolerance = tolerance;
  return probe;
}

// Arguments of ex2: softmax's range, the whole range, and edges.
void ex2_operands(int index, Random& random, Words& words) {
  for (std::uint32_t& word : words) {
    const float unit = static_cast<float>(random.word() >> 8) * 0x1p-24f;
    float value = 0;
    switch (index % 4) {
      case 0:
        value = -unit;
        break;
      case 1:
        value = -32.0f * unit;
        break;
      case 2:
        value = 300.0f * unit - 155.0f;
        break;
      default:
        word = f32_operand(random);
        continue;
    }
    word = std::bit_cast<std::uint32_t>(value);
  }
}

// Positive arguments of every exponent, some near 1, and edges.
void positive_operands(int index, Random& random, Words& words) {
  for (std::uint32_t& word : words) {
    switch (index % 4) {
      case 0:
        word = random.word() & 0x7fffffffu;
        break;
      case 1:
        word = 0x3f800000u + (random.word() & 0x7fffffu) - 0x400000u;
        break;
      case 2:
        word = 0x40000000u + (random.word() & 0x3ffffffu);
        break;
      default:
        word = f32_operand(random);
        break;
    }
  }
}

// 2^bits arguments evenly over [0, 1), mapped by `argument`.
Probe dense(Probe probe, int bits, float (*argument)(float)) {
  probe.name += "_dense";
  probe.cases = (1 << bits) / kLanes;
  probe.fill = [bits, argument](int index, Random& random, Words& words) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int step = ((index * kLanes + lane) << (23 - bits)) + random.below(1 << (23 - bits));
      words[static_cast<std::size_t>(lane)] =
          std::bit_cast<std::uint32_t>(argument(static_cast<float>(step) * 0x1p-23f));
    }
  };
  return probe;
}

Probe shuffle(const char* mode) {
  // in0: value, in1: the lane operand, in2: clamp and segment mask, one value for the warp.
  Probe probe = simple(fmt::format("shfl_{}", mode),
                       fmt::format("shfl.sync.{}.b32 with its predicate", mode), 3, 2, 48,
                       fmt::format("\tshfl.sync.{}.b32 %out0|%p1, %in0, %in1, %in2, 0xffffffff;\n"
                                   "\tselp.b32 %out1, 1, 0, %p1;\n",
                                   mode),
                       nullptr);
  probe.fill = [](int index, Random& random, Words& words) {
    constexpr std::uint32_t kSegments[] = {0x00, 0x10, 0x18, 0x1c, 0x1e, 0x1f};
    const std::uint32_t clamp = index % 3 == 0   ? 0x1fu
                                : index % 3 == 1 ? 0u
                                                 : random.word() & 0x1fu;
    const std::uint32_t control = (kSegments[random.below(6)] << 8) | clamp;
    const std::uint32_t same = random.word() & 0x1fu;
    for (int lane = 0; lane < kLanes; ++lane) {
      words[lane] = random.word();
      words[kLanes + lane] = index % 2 == 0 ? same : random.word() & 0x1fu;
      words[2 * kLanes + lane] = control;
    }
  };
  return probe;
}

void add_special_functions(std::vector<Probe>& probes) {
  // Bounds of the PTX ISA, against a correctly rounded value: half an ulp more than around the
  // exact one.
  const Tolerance ex2{.kind = Tolerance::Kind::f32_ulps, .ulps = 2};
  const Tolerance lg2{.kind = Tolerance::Kind::f32_ulps, .ulps = 4, .absolute = 0x1.8p-22};
  const Tolerance one{.kind = Tolerance::Kind::f32_ulps, .ulps = 1};
  const Tolerance two{.kind = Tolerance::Kind::f32_ulps, .ulps = 2};
  probes.push_back(special_function("ex2.approx.ftz.f32", ex2, ex2_operands));
  probes.push_back(special_function("ex2.approx.f32", ex2, ex2_operands));
  probes.push_back(dense(special_function("ex2.approx.ftz.f32", ex2, nullptr), 20,
                         [](float unit) { return -unit; }));
  probes.push_back(special_function("lg2.approx.ftz.f32", lg2, positive_operands));
  probes.push_back(special_function("lg2.approx.f32", lg2, positive_operands));
  probes.push_back(special_function("rcp.approx.ftz.f32", one, positive_operands));
  probes.push_back(special_function("rcp.approx.f32", one, positive_operands));
  probes.push_back(dense(special_function("rcp.approx.ftz.f32", one, nullptr), 17,
                         [](float unit) { return 1.0f + unit; }));
  probes.push_back(special_function("rsqrt.approx.ftz.f32", two, positive_operands));
  probes.push_back(special_function("sqrt.approx.ftz.f32", two, positive_operands));
  // Packed forms: relative errors of 2^-9.9 and 2^-7, in units of the last place.
  probes.push_back(simple("ex2_approx_f16x2", "ex2.approx.f16x2", 2, 2, 512,
                          "\tex2.approx.f16x2 %out0, %in0;\n\tex2.approx.f16x2 %out1, %in1;\n",
                          all_halves));
  probes.back().tolerance = {.kind = Tolerance::Kind::f16x2_ulps, .ulps = 3};
  probes.push_back(on_device(
      simple("ex2_approx_ftz_bf16x2", "ex2.approx.ftz.bf16x2", 2, 2, 512,
             "\tex2.approx.ftz.bf16x2 %out0, %in0;\n\tex2.approx.ftz.bf16x2 %out1, %in1;\n",
             all_halves),
      90, 78));
  probes.back().tolerance = {.kind = Tolerance::Kind::bf16x2_ulps, .ulps = 3};
}

}  // namespace

void add_scalar_probes(std::vector<Probe>& probes) {
  add_special_functions(probes);
  for (const char* instruction :
       {"add.rn.f32", "sub.rn.f32", "mul.rn.f32", "min.f32", "max.f32", "add.rn.ftz.f32",
        "mul.rn.ftz.f32", "max.ftz.f32", "max.NaN.f32", "div.rn.f32"}) {
    probes.push_back(f32_arithmetic(instruction, 2));
  }
  for (const char* instruction : {"abs.f32", "neg.f32", "rcp.rn.f32"}) {
    probes.push_back(f32_arithmetic(instruction, 1));
  }
  // Mixed operands, which LLVM uses where a device has them.
  for (const char* operation : {"add", "sub"}) {
    probes.push_back(on_device(
        simple(
            fmt::format("{}_rn_f32_f16", operation), fmt::format("{}.rn.f32.f16", operation), 2, 1,
            128,
            fmt::format("\tcvt.u16.u32 %h0, %in0;\n\t{}.rn.f32.f16 %out0, %h0, %in1;\n", operation),
            f32_operands),
        100, 86));
  }
  for (const char* comparison : {"gt", "lt", "ge", "leu", "num"}) {
    probes.push_back(simple(
        fmt::format("setp_{}_f32", comparison), fmt::format("setp.{}.f32", comparison), 2, 1, 128,
        fmt::format("\tsetp.{}.f32 %p1, %in0, %in1;\n\tselp.b32 %out0, 1, 0, %p1;\n", comparison),
        f32_operands));
  }
  probes.push_back(on_device(simple("min_relu_s32", "min.relu.s32", 2, 1, 16,
                                    "\tmin.relu.s32 %out0, %in0, %in1;\n", random_words),
                             90, 80));
  probes.push_back(f32_arithmetic("fma.rn.f32", 3));
  probes.push_back(f32_arithmetic("fma.rn.ftz.f32", 3));
  probes.push_back(f32_arithmetic("fma.rp.f32", 3));
  probes.push_back(f32_arithmetic("fma.rm.f32", 3));
  for (const char* instruction : {"add.rn.f16x2", "mul.rn.f16x2", "min.f16x2", "max.f16x2"}) {
    probes.push_back(f32_arithmetic(instruction, 2));
    probes.back().fill = random_words;
  }
  probes.push_back(f32_arithmetic("fma.rn.f16x2", 3));
  probes.back().fill = random_words;
  probes.push_back(simple("prmt_b32", "prmt.b32", 3, 1, 64, "\tprmt.b32 %out0, %in0, %in1, %in2;\n",
                          random_words));
  probes.push_back(simple("lop3_b32_e8", "lop3.b32 with table 0xe8", 3, 1, 16,
                          "\tlop3.b32 %out0, %in0, %in1, %in2, 0xe8;\n", random_words));
  probes.push_back(simple("dp4a_s32_s32", "dp4a.s32.s32", 3, 1, 64,
                          "\tdp4a.s32.s32 %out0, %in0, %in1, %in2;\n", random_words));
  for (const char* mode : {"bfly", "idx", "up", "down"}) {
    probes.push_back(shuffle(mode));
  }
  probes.push_back(simple("vote_ballot", "vote.sync.ballot.b32", 1, 1, 16,
                          "\tsetp.lt.s32 %p1, %in0, 0;\n"
                          "\tvote.sync.ballot.b32 %out0, %p1, 0xffffffff;\n",
                          random_words));
  probes.push_back(simple("redux_add_s32", "redux.sync.add.s32", 1, 1, 16,
                          "\tredux.sync.add.s32 %out0, %in0, 0xffffffff;\n", random_words));
}

const std::vector<Probe>& all_probes() {
  static const std::vector<Probe> probes = [] {
    std::vector<Probe> list;
    add_matrix_probes(list);
    add_wgmma_probes(list);
    add_bulk_copy_probes(list);
    add_conversion_probes(list);
    add_scalar_probes(list);
    return list;
  }();
  return probes;
}

}  // namespace sagegen::hardware
