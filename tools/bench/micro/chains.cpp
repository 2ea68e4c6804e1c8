#include "tools/bench/micro/chains.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "tools/reference/rounding.h"

namespace sagegen::micro {
namespace {

float as_float(std::uint64_t word) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(word));
}
std::int32_t as_int(std::uint64_t word) { return static_cast<std::int32_t>(word); }
std::uint64_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
std::uint64_t bits_of(double value) { return std::bit_cast<std::uint64_t>(value); }

// Some 32 bits for each chain and lane.
std::uint32_t scrambled(int chain, int lane) {
  std::uint32_t x = static_cast<std::uint32_t>(chain * kLanes + lane + 1) * 0x9e3779b9u;
  x = (x ^ (x >> 15)) * 0x85ebca6bu;
  return x ^ (x >> 13);
}

// A step that reads this chain and the next two.
template <typename Operation>
std::function<void(ChainState&, int, int)> neighbours(Operation operation) {
  return [operation](ChainState& s, int c, int step) {
    const std::size_t n = s.x.size();
    const auto at = static_cast<std::size_t>(c);
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto l = static_cast<std::size_t>(lane);
      s.x[at][l] =
          operation(s.x[at][l], s.x[(at + 1) % n][l], s.x[(at + 2) % n][l], s.a[l], s.b[l], step);
    }
  };
}

std::uint64_t permute_bytes(std::uint64_t low, std::uint64_t high, std::uint64_t selector) {
  const std::uint64_t both = (low & 0xffffffffu) | (high << 32);
  std::uint64_t result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= ((both >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
  }
  return result;
}

// Loads whose first word is the address of the next one. Cells of 16 bytes; the lanes of a warp
// read 32 neighbours, so that no banks collide. 31 rows of a warp, so that no number of steps in
// use leads back to the start.
constexpr int kCells = 31 * kLanes, kJump = 5 * kLanes;
Chains shared_loads() {
  return {.name = "lds128",
          .what = "ld.shared.v4.b32, each the address of the next",
          .unit = "lanes of 16 bytes",
          .sass_name = "LDS",
          .sass_opcode = 0x184,
          .text =
              [](int c, int, int) {
                return fmt::format("\tld.volatile.shared.v4.b32 {{%x{0}, %y, %y, %y}}, [%x{0}];\n",
                                   c);
              },
          .advance =
              [](ChainState& s, int c, int) {
                for (std::uint64_t& x : s.x[static_cast<std::size_t>(c)]) {
                  x = 16 * ((x / 16 + kJump) % kCells);
                }
              },
          .initial = [](int c,
                        int lane) { return static_cast<std::uint64_t>(16 * (c * kLanes + lane)); },
          .shared_bytes = 16 * kCells,
          .setup =
              [](int offset, int chains) {
                std::string text = fmt::format(
                    "\tadd.s32 %r0, %smem, {};\n"
                    "\tmov.b32 %r1, %thread;\n"
                    "\tmov.u32 %r2, %ntid.x;\n"
                    "$fill:\n"
                    "\tadd.s32 %r3, %r1, {};\n"
                    "\trem.u32 %r3, %r3, {};\n"
                    "\tmad.lo.s32 %r3, %r3, 16, %r0;\n"
                    "\tmad.lo.s32 %r4, %r1, 16, %r0;\n"
                    "\tst.shared.v4.b32 [%r4], {{%r3, %r1, %r1, %r1}};\n"
                    "\tadd.s32 %r1, %r1, %r2;\n"
                    "\tsetp.lt.u32 %p0, %r1, {};\n"
                    "\t@%p0 bra $fill;\n",
                    offset, kJump, kCells, kCells);
                for (int c = 0; c < chains; ++c)
                  text += fmt::format("\tadd.s32 %x{0}, %x{0}, %r0;\n", c);
                return text;
              },
          .finish =
              [](int offset, int chains) {
                std::string text = fmt::format("\tadd.s32 %r0, %smem, {};\n", offset);
                for (int c = 0; c < chains; ++c)
                  text += fmt::format("\tsub.s32 %x{0}, %x{0}, %r0;\n", c);
                return text;
              }};
}

// Where shuffles read from: three rings of 13, 11 and 8 lanes, which only 1144 steps turn back.
int next_lane(int lane) {
  constexpr int kEnds[] = {13, 24, 32};
  int start = 0;
  for (const int end : kEnds) {
    if (lane < end) return lane + 1 < end ? lane + 1 : start;
    start = end;
  }
  return lane;
}

std::vector<Chains> make_chains() {
  const auto small_float = [](int c, int lane) {
    return bits_of(static_cast<float>(c * 3 + lane));
  };
  const auto unit_float = [](int c, int lane) {
    return bits_of(static_cast<float>(scrambled(c, lane) % 1024u) / 1024.0f);
  };
  const auto any_bits = [](int c, int lane) -> std::uint64_t { return scrambled(c, lane); };
  const auto one = [](int, bool) { return bits_of(1.0f); };
  const auto any_operand = [](int lane, bool second) -> std::uint64_t {
    return scrambled(second ? 101 : 100, lane);
  };
  std::vector<Chains> list;
  list.push_back(
      {.name = "ex2",
       .what = "ex2.approx.ftz.f32 of the negated value: runs into the fixed point 0.6412",
       .unit = "lanes",
       .sass_name = "MUFU",
       .sass_opcode = 0x108,
       .text =
           [](int c, int, int) {
             return fmt::format("\tneg.f32 %y, %x{0};\n\tex2.approx.ftz.f32 %x{0}, %y;\n", c);
           },
       .advance = neighbours([](auto x, auto, auto, auto, auto, int) {
         return bits_of(static_cast<float>(std::exp2(-static_cast<double>(as_float(x)))));
       }),
       .initial = unit_float,
       // 2 of the instruction itself (PTX ISA); earlier errors shrink by less than 0.7 a step.
       .ulps = 8});
  list.push_back(
      {.name = "i2f",
       .what = "cvt.rn.f32.s32 of the bits of the value before",
       .unit = "lanes",
       .sass_name = "I2FP",
       .sass_opcode = 0x045,
       .text = [](int c, int, int) { return fmt::format("\tcvt.rn.f32.s32 %x{0}, %x{0};\n", c); },
       .advance = neighbours([](auto x, auto, auto, auto, auto, int) {
         return bits_of(static_cast<float>(as_int(x)));
       }),
       .initial = any_bits});
  list.push_back(
      {.name = "cvt_e4m3x2",
       .what = "cvt.rn.satfinite.e4m3x2.f32, two packed into a word without a PRMT",
       .unit = "instruction lanes (two values each)",
       .steps = 32,  // ptxas adds a PRMT for each chain and iteration
       .operations = 2,
       .sass_name = "F2FP",
       .sass_opcode = 0x03e,
       .text =
           [](int c, int, int chains) {
             return fmt::format(
                 "\tcvt.rn.satfinite.e4m3x2.f32 %h0, %x{0}, %a;\n"
                 "\tcvt.rn.satfinite.e4m3x2.f32 %h1, %b, %x{1};\n"
                 "\tmov.b32 %x{0}, {{%h0, %h1}};\n",
                 c, (c + 1) % chains);
           },
       .advance = neighbours([](auto x, auto next, auto, auto a, auto b, int) -> std::uint64_t {
         const auto code = [](std::uint64_t word) -> std::uint32_t {
           return reference::e4m3_bits(
               reference::round_satfinite(as_float(word), reference::kE4m3));
         };
         return code(a) | code(x) << 8 | code(next) << 16 | code(b) << 24;
       }),
       .initial = unit_float,
       .operand =
           [](int lane, bool second) {
             return bits_of(second ? -static_cast<float>(lane) / 8.0f : static_cast<float>(lane));
           }});
  list.push_back({.name = "fmnmx",
                  .what = "max.f32 and min.f32 of two chains",
                  .unit = "lanes",
                  .sass_name = "FMNMX",
                  .sass_opcode = 0x009,
                  .text =
                      [](int c, int step, int chains) {
                        return fmt::format("\t{0}.f32 %x{1}, %x{1}, %x{2};\n",
                                           step % 2 == 0 ? "max" : "min", c, (c + 1) % chains);
                      },
                  .advance = neighbours([](auto x, auto y, auto, auto, auto, int step) {
                    const float p = as_float(x), q = as_float(y);
                    return bits_of(step % 2 == 0 ? std::max(p, q) : std::min(p, q));
                  }),
                  .initial = unit_float});
  list.push_back({.name = "vimnmx3",
                  .what = "max.s32 of max.s32 and min.s32 of min.s32: three inputs",
                  .unit = "lanes",
                  .sass_name = "VIMNMX3",
                  .sass_opcode = 0x00f,
                  .text =
                      [](int c, int step, int chains) {
                        return fmt::format(
                            "\t{0}.s32 %y, %x{1}, %x{2};\n\t{0}.s32 %x{1}, %y, %x{3};\n",
                            step % 2 == 0 ? "max" : "min", c, (c + 1) % chains, (c + 2) % chains);
                      },
                  .advance = neighbours([](auto x, auto y, auto z, auto, auto, int step) {
                    const std::int32_t p = as_int(x), q = as_int(y), r = as_int(z);
                    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(
                        step % 2 == 0 ? std::max({p, q, r}) : std::min({p, q, r})));
                  }),
                  .initial = any_bits});
  list.push_back(
      {.name = "ffma",
       .what = "fma.rn.f32 that counts: x * 1 + 1 with operands from memory",
       .unit = "lanes",
       .sass_name = "FFMA",
       .sass_opcode = 0x023,
       .text = [](int c, int,
                  int) { return fmt::format("\tfma.rn.f32 %x{0}, %x{0}, %a, %b;\n", c); },
       .advance = neighbours([](auto x, auto, auto, auto a, auto b, int) {
         return bits_of(as_float(x) * as_float(a) + as_float(b));  // exact: small integers
       }),
       .initial = small_float,
       .operand = one});
  list.push_back(
      {.name = "fadd",
       .what = "add.rn.f32 that counts",
       .unit = "lanes",
       .sass_name = "FADD",
       .sass_opcode = 0x021,
       .text = [](int c, int, int) { return fmt::format("\tadd.rn.f32 %x{0}, %x{0}, %a;\n", c); },
       .advance = neighbours([](auto x, auto, auto, auto a, auto, int) {
         return bits_of(as_float(x) + as_float(a));
       }),
       .initial = small_float,
       .operand = one});
  list.push_back(
      {.name = "dfma",
       .what = "fma.rn.f64 that counts",
       .unit = "lanes",
       .bits = 64,
       .sass_name = "DFMA",
       .sass_opcode = 0x02b,
       .text = [](int c, int,
                  int) { return fmt::format("\tfma.rn.f64 %x{0}, %x{0}, %a, %b;\n", c); },
       .advance = neighbours([](auto x, auto, auto, auto a, auto b, int) {
         return bits_of(std::bit_cast<double>(x) * std::bit_cast<double>(a) +
                        std::bit_cast<double>(b));
       }),
       .initial = [](int c, int lane) { return bits_of(static_cast<double>(c * 3 + lane)); },
       .operand = [](int, bool) { return bits_of(1.0); }});
  list.push_back(
      {.name = "lop3",
       .what = "lop3.b32: exclusive or of three chains",
       .unit = "lanes",
       .sass_name = "LOP3",
       .sass_opcode = 0x012,
       .text =
           [](int c, int, int chains) {
             return fmt::format("\tlop3.b32 %x{0}, %x{0}, %x{1}, %x{2}, 0x96;\n", c,
                                (c + 1) % chains, (c + 2) % chains);
           },
       .advance = neighbours([](auto x, auto y, auto z, auto, auto, int) { return x ^ y ^ z; }),
       .initial = any_bits});
  list.push_back({.name = "prmt",
                  .what = "prmt.b32 of two chains with a selector from memory",
                  .unit = "lanes",
                  .sass_name = "PRMT",
                  .sass_opcode = 0x016,
                  .text =
                      [](int c, int, int chains) {
                        return fmt::format("\tprmt.b32 %x{0}, %x{0}, %x{1}, %a;\n", c,
                                           (c + 1) % chains);
                      },
                  .advance = neighbours([](auto x, auto y, auto, auto a, auto, int) {
                    return permute_bytes(x, y, a);
                  }),
                  .initial = any_bits,
                  .operand = [](int lane, bool) -> std::uint64_t {
                    return lane % 2 == 0 ? 0x2436u : 0x5103u;
                  }});
  list.push_back({.name = "shfl",
                  .what = "shfl.sync.idx.b32 from another lane",
                  .unit = "lanes",
                  .sass_name = "SHFL",
                  .sass_opcode = 0x189,
                  .text =
                      [](int c, int, int) {
                        return fmt::format(
                            "\tshfl.sync.idx.b32 %x{0}, %x{0}, %a, 31, 0xffffffff;\n", c);
                      },
                  .advance =
                      [](ChainState& s, int c, int) {
                        auto& x = s.x[static_cast<std::size_t>(c)];
                        const auto before = x;
                        for (int lane = 0; lane < kLanes; ++lane) {
                          x[static_cast<std::size_t>(lane)] =
                              before[static_cast<std::size_t>(next_lane(lane))];
                        }
                      },
                  .initial = any_bits,
                  .operand = [](int lane, bool) -> std::uint64_t {
                    return static_cast<std::uint64_t>(next_lane(lane));
                  }});
  list.push_back(shared_loads());
  for (Chains& chains : list) {
    if (!chains.operand) chains.operand = any_operand;
  }
  return list;
}

int words_of(const Chains& chains) { return chains.bits / 32; }

int f32_ulps(std::uint32_t x, std::uint32_t y) {  // of values of one sign
  return std::abs(static_cast<std::int32_t>(x) - static_cast<std::int32_t>(y));
}

}  // namespace

const std::vector<Chains>& all_chains() {
  static const std::vector<Chains> list = make_chains();
  return list;
}

const Chains& find_chains(const std::string& name) {
  for (const Chains& chains : all_chains()) {
    if (chains.name == name) return chains;
  }
  throw std::logic_error("no chains are named " + name);
}

ChainState initial_state(const Chains& chains) {
  ChainState state;
  state.x.resize(static_cast<std::size_t>(chains.chains));
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto l = static_cast<std::size_t>(lane);
    for (int c = 0; c < chains.chains; ++c) {
      state.x[static_cast<std::size_t>(c)][l] = chains.initial(c, lane);
    }
    state.a[l] = chains.operand(lane, false);
    state.b[l] = chains.operand(lane, true);
  }
  return state;
}

void advance(const Chains& chains, ChainState& state, std::uint32_t iterations) {
  for (std::uint32_t i = 0; i < iterations; ++i) {
    for (int step = 0; step < chains.steps; ++step) {
      for (int c = 0; c < chains.chains; ++c) chains.advance(state, c, step);
    }
  }
}

Words chain_input(const Chains& chains) {
  const ChainState state = initial_state(chains);
  Words words;
  const auto append = [&](const std::array<std::uint64_t, kLanes>& values) {
    for (const std::uint64_t value : values) {
      words.push_back(static_cast<std::uint32_t>(value));
      if (chains.bits == 64) words.push_back(static_cast<std::uint32_t>(value >> 32));
    }
  };
  for (const auto& x : state.x) append(x);
  append(state.a);
  append(state.b);
  return words;
}

std::string chain_registers(const Chains& chains) {
  return fmt::format("\t.reg .b16 %h<2>;\n\t.reg .b{0} %y, %a, %b;\n\t.reg .b{0} %x<{1}>;\n",
                     chains.bits, chains.chains);
}

std::string load_chains(const Chains& chains, int input_offset, int shared_offset) {
  const int bytes = chains.bits / 8;
  std::string text = fmt::format(
      "\tmul.wide.u32 %rd0, %lane, {};\n"
      "\tadd.s64 %rd0, %rd0, %in;\n",
      bytes);
  std::vector<std::string> loaded;
  const auto load = [&](const std::string& reg, int value) {
    loaded.push_back(reg);
    text += fmt::format("\tld.global.b{} {}, [%rd0+{}];\n", chains.bits, reg,
                        input_offset + value * kLanes * bytes);
  };
  for (int c = 0; c < chains.chains; ++c) load(fmt::format("%x{}", c), c);
  load("%a", chains.chains);
  load("%b", chains.chains + 1);
  text += wait_for_loads(loaded, chains.bits);
  if (chains.setup) text += chains.setup(shared_offset, chains.chains);
  return text;
}

std::string chain_steps(const Chains& chains) {
  std::string text;
  for (int step = 0; step < chains.steps; ++step) {
    for (int c = 0; c < chains.chains; ++c) text += chains.text(c, step, chains.chains);
  }
  return text;
}

std::string store_chains(const Chains& chains, int shared_offset) {
  std::string text;
  if (chains.finish) text += chains.finish(shared_offset, chains.chains);
  for (int c = 0; c < chains.chains; ++c) {
    text += fmt::format("\tst.global.b{} [%rd0+{}], %x{};\n", chains.bits,
                        c * kLanes * chains.bits / 8, c);
  }
  return text;
}

std::size_t chain_words(const Chains& chains) {
  return static_cast<std::size_t>(chains.chains * kLanes * words_of(chains));
}

std::string compare_chains(const Chains& chains, const ChainState& state, const std::uint32_t* out,
                           const std::string& where) {
  for (int c = 0; c < chains.chains; ++c) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::uint64_t expected =
          state.x[static_cast<std::size_t>(c)][static_cast<std::size_t>(lane)];
      const std::uint32_t* at = out + (c * kLanes + lane) * words_of(chains);
      const std::uint64_t found =
          at[0] | (chains.bits == 64 ? static_cast<std::uint64_t>(at[1]) << 32 : 0);
      const bool right = chains.ulps == 0
                             ? found == expected
                             : f32_ulps(at[0], static_cast<std::uint32_t>(expected)) <= chains.ulps;
      if (!right) {
        return fmt::format("{}, chain {}, lane {}: {:x}, expected {:x}{}", where, c, lane, found,
                           expected,
                           chains.ulps == 0 ? "" : fmt::format(" within {} ulps", chains.ulps));
      }
    }
  }
  return {};
}

}  // namespace sagegen::micro
