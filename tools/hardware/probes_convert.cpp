// Probes of conversions: all inputs where those have 16 bits, every rounding boundary where they are f32.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>

#include "tools/hardware/operands.h"
#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {
namespace {

// The f32 values where the conversion to a format may change: halfway between neighbouring codes of either
// sign, and one f32 to each side of it. `exactly` adds the codes' own values, for directed rounding.
enum class Boundaries { ties, ties_and_values };
std::vector<std::uint32_t> boundaries(const Format& format, Boundaries which) {
  const auto largest = static_cast<std::uint32_t>((format.largest_field() + 1)
                                                  << format.fraction_bits);  // infinity, or 256
  std::vector<std::uint32_t> words;
  const auto add = [&](double value) {
    const auto word = std::bit_cast<std::uint32_t>(static_cast<float>(value));
    for (const std::uint32_t near : {word - 1, word, word + 1}) {
      words.push_back(near & 0x7fffffffu);
      words.push_back(near | 0x80000000u);
    }
  };
  const bool has_infinity = format.exponent_bits != 4;
  const std::uint32_t end =
      has_infinity ? largest : largest + 7;  // one behind the largest finite code
  for (std::uint32_t code = 0; code < end; ++code) {
    const double value = format.value(code);
    const double next = code + 1 < end
                            ? format.value(code + 1)
                            : 2 * value - format.value(code - 1);  // as if there were one more
    add((value + next) / 2);
    if (which == Boundaries::ties_and_values) {
      add(value);
    }
  }
  return words;
}

// `list` once over all words of all cases, then f32 operands of every kind.
struct FromList {
  std::shared_ptr<const std::vector<std::uint32_t>> list;

  explicit FromList(std::vector<std::uint32_t> words)
      : list(std::make_shared<const std::vector<std::uint32_t>>(std::move(words))) {}
  int cases(int inputs) const {
    const std::size_t words = static_cast<std::size_t>(inputs) * kLanes;
    return static_cast<int>(list->size() / words) + 32;
  }
  void operator()(int index, Random& random, Words& words) const {
    const std::size_t first = static_cast<std::size_t>(index) * words.size();
    for (std::size_t i = 0; i < words.size(); ++i) {
      words[i] = first + i < list->size() ? (*list)[first + i] : f32_operand(random);
    }
  }
};

Probe pair_conversion(const std::string& instruction, const char* body, const FromList& from) {
  std::string name = instruction;
  std::replace(name.begin(), name.end(), '.', '_');
  return simple(name, instruction + " around every rounding boundary", 2, 1, from.cases(2),
                fmt::format(fmt::runtime(body), instruction), from);
}

void add_fp8_conversions(std::vector<Probe>& probes, const Format& format) {
  const char* type = format.name;
  probes.push_back(on_device(
      simple(fmt::format("cvt_{}x2_f16x2_all", type),
             fmt::format("cvt.rn.satfinite.{}x2.f16x2 of all 65536 f16", type), 2, 1, kAllHalves,
             fmt::format("\tcvt.rn.satfinite.{0}x2.f16x2 %h0, %in0;\n"
                         "\tcvt.rn.satfinite.{0}x2.f16x2 %h1, %in1;\n"
                         "\tmov.b32 %out0, {{%h0, %h1}};\n",
                         type),
             all_halves),
      89, 81));
  constexpr const char* kToHalfWord = "\t{} %h0, %in0, %in1;\n\tcvt.u32.u16 %out0, %h0;\n";
  const FromList from(boundaries(format, Boundaries::ties_and_values));
  for (const char* relu : {"", ".relu"}) {
    probes.push_back(on_device(
        pair_conversion(fmt::format("cvt.rn.satfinite{}.{}x2.f32", relu, type), kToHalfWord, from),
        89, 81));
  }
  Probe back = simple(
      fmt::format("cvt_f16x2_{}x2_all", type),
      fmt::format("cvt.rn.f16x2.{}x2 of all 65536 pairs", type), 1, 2, 0x10000 / (2 * kLanes),
      fmt::format("\tmov.b32 {{%h0, %h1}}, %in0;\n"
                  "\tcvt.rn.f16x2.{0}x2 %out0, %h0;\n"
                  "\tcvt.rn.f16x2.{0}x2 %out1, %h1;\n",
                  type),
      [](int index, Random&, Words& words) {
        for (int lane = 0; lane < kLanes; ++lane) {
          const auto first = static_cast<std::uint32_t>(2 * (index * kLanes + lane));
          words[static_cast<std::size_t>(lane)] = first | ((first + 1) << 16);
        }
      });
  probes.push_back(on_device(std::move(back), 89, 81));
}

// To f32 of every 16-bit value, one in the lower half of each word.
Probe widening(const char* type) {
  return simple(fmt::format("cvt_f32_{}_all", type),
                fmt::format("cvt.f32.{} of all 65536 values", type), 1, 1, 0x10000 / kLanes,
                fmt::format("\tmov.b32 {{%h0, %h1}}, %in0;\n"
                            "\tcvt.f32.{} %out0, %h0;\n",
                            type),
                [](int index, Random&, Words& words) {
                  for (int lane = 0; lane < kLanes; ++lane) {
                    words[static_cast<std::size_t>(lane)] =
                        static_cast<std::uint32_t>(index * kLanes + lane);
                  }
                });
}

// Integers of every magnitude.
void fill_integers(int, Random& random, Words& words) {
  for (std::uint32_t& word : words) {
    word = static_cast<std::uint32_t>(static_cast<std::int32_t>(random.word()) >> random.below(32));
  }
}

}  // namespace

void add_conversion_probes(std::vector<Probe>& probes) {
  add_fp8_conversions(probes, kE4M3);
  add_fp8_conversions(probes, kE5M2);
  probes.push_back(widening("f16"));
  probes.push_back(on_device(widening("bf16"), 90, 78));

  constexpr const char* kToWord = "\t{} %out0, %in0, %in1;\n";
  for (const Format* format : {&kF16, &kBf16}) {
    const FromList from(boundaries(*format, Boundaries::ties));
    for (const char* rounding : {"rn", "rz"}) {
      probes.push_back(
          pair_conversion(fmt::format("cvt.{}.{}x2.f32", rounding, format->name), kToWord, from));
    }
  }
  // The scalar forms differ from the packed ones in nothing but their encoding.
  for (const char* instruction : {"cvt.rn.f16.f32", "cvt.rz.f16.f32", "cvt.rn.bf16.f32"}) {
    Probe probe = f32_arithmetic(instruction, 1);
    probe.body = fmt::format("\t{} %h0, %in0;\n\tcvt.u32.u16 %out0, %h0;\n", instruction);
    probes.push_back(std::move(probe));
  }
  for (const char* rounding : {"rni", "rzi", "rmi", "rpi"}) {
    probes.push_back(f32_arithmetic(fmt::format("cvt.{}.s32.f32", rounding), 1));
  }
  for (const char* rounding : {"rn", "rz"}) {
    for (const char* type : {"s32", "u32"}) {
      probes.push_back(f32_arithmetic(fmt::format("cvt.{}.f32.{}", rounding, type), 1));
      probes.back().fill = fill_integers;
    }
  }
}

}  // namespace sagegen::hardware
