// Probes of conversions: all inputs where those have 16 bits, every rounding boundary where they
// are f32.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <memory>

#include "tools/hardware/operands.h"
#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {
namespace {

// The f32 values where the conversion to a format may change: halfway between neighbouring codes of
// either sign, and one f32 to each side of it. `exactly` adds the codes' own values, for directed
// rounding.
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

// ---- what conversions must give
// -------------------------------------------------------------------------

enum class Round { nearest, toward_zero };
enum class Beyond { infinity, largest };  // what is too large becomes

// By the definition of the formats: a whole number of units of the last place.
std::uint32_t converted(const Format& format, double value, Round round, Beyond beyond) {
  if (std::isnan(value)) {
    return format.mask() >> 1;
  }
  const std::uint32_t infinity = ((1u << format.exponent_bits) - 1u) << format.fraction_bits;
  const bool has_infinity = format.exponent_bits != 4;
  const std::uint32_t largest = has_infinity ? infinity - 1 : (format.mask() >> 1) - 1;
  const std::uint32_t sign = std::signbit(value) ? 1u << (format.width() - 1) : 0u;
  const std::uint32_t over = beyond == Beyond::largest ? largest : infinity;
  if (std::isinf(value)) {
    return sign | over;
  }
  const double magnitude = std::fabs(value);
  const int exponent = std::max(magnitude > 0 ? std::ilogb(magnitude) : -1000, 1 - format.bias());
  const double units = std::ldexp(magnitude, format.fraction_bits - exponent);
  double whole = std::floor(units);
  const double rest = units - whole;
  if (round == Round::nearest && (rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2.0) == 1.0))) {
    whole += 1;
  }
  // A carry out of the fraction raises the exponent, also that of a subnormal.
  const double code = std::ldexp(exponent + format.bias() - 1, format.fraction_bits) + whole;
  if (code > largest) {
    return sign | (round == Round::nearest ? over : largest);
  }
  return sign | static_cast<std::uint32_t>(code);
}

double f32_value(std::uint32_t word) { return std::bit_cast<float>(word); }

// `result` of each thread's input words.
template <typename Result>
std::function<Words(const Words&, int)> per_thread(int inputs, Result result) {
  return [=](const Words& operands, int index) {
    Words words;
    for (int lane = 0; lane < kLanes; ++lane) {
      std::array<std::uint32_t, 2> in{};
      for (int i = 0; i < inputs; ++i) {
        in[static_cast<std::size_t>(i)] =
            operands[static_cast<std::size_t>((index * inputs + i) * kLanes + lane)];
      }
      words.push_back(result(in));
    }
    return words;
  };
}

// ---- probes
// -----------------------------------------------------------------------------------------------

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
  probes.back().expected = per_thread(2, [format](const auto& in) {
    std::uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t half = in[static_cast<std::size_t>(i / 2)] >> (16 * (i % 2)) & 0xffffu;
      const bool finite = (half & 0x7c00u) != 0x7c00u;
      const double value = finite                  ? kF16.value(half)
                           : (half & 0x3ffu) != 0u ? std::nan("")
                                                   : std::copysign(HUGE_VAL, kF16.value(half));
      word |= converted(format, value, Round::nearest, Beyond::largest) << (8 * i);
    }
    return word;
  });
  constexpr const char* kToHalfWord = "\t{} %h0, %in0, %in1;\n\tcvt.u32.u16 %out0, %h0;\n";
  const FromList from(boundaries(format, Boundaries::ties_and_values));
  for (const bool relu : {false, true}) {
    probes.push_back(on_device(
        pair_conversion(fmt::format("cvt.rn.satfinite{}.{}x2.f32", relu ? ".relu" : "", type),
                        kToHalfWord, from),
        89, 81));
    probes.back().expected = per_thread(2, [format, relu](const auto& in) {
      const auto one = [&](std::uint32_t word) {
        const double value = f32_value(word);
        return converted(format, relu && std::signbit(value) && !std::isnan(value) ? 0.0 : value,
                         Round::nearest, Beyond::largest);
      };
      return one(in[0]) << 8 | one(in[1]);
    });
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
    for (const Round round : {Round::nearest, Round::toward_zero}) {
      probes.push_back(pair_conversion(
          fmt::format("cvt.{}.{}x2.f32", round == Round::nearest ? "rn" : "rz", format->name),
          kToWord, from));
      probes.back().expected = per_thread(2, [format, round](const auto& in) {
        return converted(*format, f32_value(in[0]), round, Beyond::infinity) << 16 |
               converted(*format, f32_value(in[1]), round, Beyond::infinity);
      });
    }
  }
  // The scalar forms differ from the packed ones in nothing but their encoding.
  for (const char* instruction : {"cvt.rn.f16.f32", "cvt.rz.f16.f32", "cvt.rn.bf16.f32"}) {
    Probe probe = f32_arithmetic(instruction, 1);
    probe.body = fmt::format("\t{} %h0, %in0;\n\tcvt.u32.u16 %out0, %h0;\n", instruction);
    const Round round = instruction[5] == 'n' ? Round::nearest : Round::toward_zero;
    const Format& format = instruction[7] == 'f' ? kF16 : kBf16;
    probe.expected = per_thread(1, [format, round](const auto& in) {
      return converted(format, f32_value(in[0]), round, Beyond::infinity);
    });
    probes.push_back(std::move(probe));
  }
  for (const char* rounding : {"rni", "rzi", "rmi", "rpi"}) {
    probes.push_back(f32_arithmetic(fmt::format("cvt.{}.s32.f32", rounding), 1));
  }
  for (const Round round : {Round::nearest, Round::toward_zero}) {
    for (const bool is_signed : {true, false}) {
      probes.push_back(
          f32_arithmetic(fmt::format("cvt.{}.f32.{}", round == Round::nearest ? "rn" : "rz",
                                     is_signed ? "s32" : "u32"),
                         1));
      probes.back().fill = fill_integers;
      probes.back().expected = per_thread(1, [round, is_signed](const auto& in) {
        const double value = is_signed ? static_cast<double>(static_cast<std::int32_t>(in[0]))
                                       : static_cast<double>(in[0]);
        return converted(kF32, value, round, Beyond::infinity);
      });
    }
  }
}

}  // namespace sagegen::hardware
