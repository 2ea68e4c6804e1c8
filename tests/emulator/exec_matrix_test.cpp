// wmma, and mma of doubles: fragments in memory against plain matrix products, arithmetic against that of
// mma.sync, checks and refusals.

#include <fmt/format.h>

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/emulator/exec_fixture.h"
#include "tests/emulator/mma_reference.h"

namespace sagegen::emulator::test {
namespace {

using Catch::Matchers::Contains;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

std::string list(const char* name, int first, int count) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) text += fmt::format("{}{}{}", i > 0 ? ", " : "", name, first + i);
  return text + "}";
}

struct Tile {
  const char* name;
  int m, n, k;
};
constexpr Tile kSixteen[] = {
    {"m16n16k16", 16, 16, 16}, {"m32n8k16", 32, 8, 16}, {"m8n32k16", 8, 32, 16}};

struct Element {
  const char* name;
  int bits;
};

// A wmma from memory to memory. Registers as the PTX ISA counts them.
struct Product {
  Tile tile;
  Element type;
  const char* sum;             // type of C and D
  int a, b, c;                 // registers
  std::string operation = {};  // ".xor.popc"
  std::string suffix = {};     // ".satfinite"

  bool doubles() const { return type.bits == 64; }
  int sum_bits() const { return doubles() ? 64 : sum == std::string("f16") ? 16 : 32; }
};

std::vector<Product> products() {
  std::vector<Product> all;
  for (const Tile& tile : kSixteen) {
    const int a = tile.m / 8, b = tile.n / 8;
    all.push_back({tile, {"f16", 16}, "f32", 8, 8, 8});
    all.push_back({tile, {"f16", 16}, "f16", 8, 8, 4});
    all.push_back({tile, {"bf16", 16}, "f32", 2 * a, 2 * b, 8});
    all.push_back({tile, {"s8", 8}, "s32", a, b, 8});
    all.push_back({tile, {"u8", 8}, "s32", a, b, 8, "", ".satfinite"});
  }
  all.push_back({{"m16n16k8", 16, 16, 8}, {"tf32", 32}, "f32", 4, 4, 8});
  all.push_back({{"m8n8k4", 8, 8, 4}, {"f64", 64}, "f64", 1, 1, 2});
  all.push_back({{"m8n8k4", 8, 8, 4}, {"f64", 64}, "f64", 1, 1, 2, "", ".rz"});
  all.push_back({{"m8n8k32", 8, 8, 32}, {"s4", 4}, "s32", 1, 1, 2});
  all.push_back({{"m8n8k32", 8, 8, 32}, {"u4", 4}, "s32", 1, 1, 2});
  all.push_back({{"m8n8k128", 8, 8, 128}, {"b1", 1}, "s32", 1, 1, 2, ".xor.popc"});
  all.push_back({{"m8n8k128", 8, 8, 128}, {"b1", 1}, "s32", 1, 1, 2, ".and.popc"});
  return all;
}

u64 code_of(const std::string& type, int value) {
  if (type == "f16") return f32_to_f16(static_cast<float>(value));
  if (type == "bf16") return f32_to_bf16(static_cast<float>(value));
  if (type == "f32" || type == "tf32") return bits_of(static_cast<float>(value));
  if (type == "f64") return bits_of(static_cast<double>(value));
  return static_cast<u64>(value);
}

// A matrix in memory: `lines` rows or columns, `stride` elements apart.
struct Memory {
  int bits, stride;
  std::vector<std::uint8_t> bytes;

  Memory(int element_bits, int lines, int elements)
      : bits(element_bits),
        stride(elements),
        bytes(static_cast<std::size_t>(lines * elements * element_bits / 8), 0) {}
  void put(int line, int at, u64 code) {
    for (int bit = 0; bit < bits; ++bit) {
      const int place = (line * stride + at) * bits + bit;
      if ((code >> bit & 1) != 0) bytes[place / 8] |= static_cast<std::uint8_t>(1 << place % 8);
    }
  }
  u64 get(int line, int at) const {
    u64 code = 0;
    for (int bit = 0; bit < bits; ++bit) {
      const int place = (line * stride + at) * bits + bit;
      code |= static_cast<u64>(bytes[place / 8] >> (place % 8) & 1) << bit;
    }
    return code;
  }
};

struct Layouts {
  bool a_column, b_column, c_column, d_column;
  bool strides;  // larger than the matrix, and given
};

const char* name_of_layout(bool column) { return column ? "col" : "row"; }

// Registers %r for operands, %f for sums, %fd for doubles; addresses in %rd1 to %rd4.
std::string text_of(const Product& p, const Layouts& l, const std::string& between = "") {
  const char* name = p.doubles() ? "%fd" : "%r";
  const std::string a = list(name, 0, p.a), b = list(name, 8, p.b);
  const std::string c = list(name, 16, p.c), d = list(name, 24, p.c);
  const auto stride = [&](int elements) {
    return l.strides ? fmt::format(", {}", elements) : std::string();
  };
  std::string type = p.type.name;
  std::string types =
      type == "f16" ? fmt::format("{0}.{0}", p.sum) : fmt::format("{0}.{1}.{1}.{0}", p.sum, type);
  const int extra = 128 / p.type.bits;  // 16 bytes
  return fmt::format(
             ".version 8.4\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p0, "
             ".param "
             ".u64 p1, .param .u64 p2, .param .u64 p3)\n{{\n.reg .b32 %r<32>; .reg .f64 %fd<32>; "
             ".reg "
             ".b64 %rd<8>;\nld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1]; ld.param.u64 %rd3, "
             "[p2]; ld.param.u64 %rd4, [p3];\n") +
         fmt::format("wmma.load.a.sync.aligned.{}.{}.global.{} {}, [%rd1]{};\n",
                     name_of_layout(l.a_column), p.tile.name, type, a,
                     stride((l.a_column ? p.tile.m : p.tile.k) + extra)) +
         fmt::format("wmma.load.b.sync.aligned.{}.{}.{} {}, [%rd2]{};\n",
                     name_of_layout(l.b_column), p.tile.name, type, b,
                     stride((l.b_column ? p.tile.k : p.tile.n) + extra)) +
         fmt::format("wmma.load.c.sync.aligned.{}.{}.global.{} {}, [%rd3]{};\n",
                     name_of_layout(l.c_column), p.tile.name, p.sum, c,
                     stride((l.c_column ? p.tile.m : p.tile.n) + 128 / p.sum_bits())) +
         fmt::format("wmma.mma{}.sync.aligned.{}.{}.{}.{}{} {}, {}, {}, {};\n", p.operation,
                     name_of_layout(l.a_column), name_of_layout(l.b_column), p.tile.name, types,
                     p.suffix, d, a, b, c) +
         between +
         fmt::format("wmma.store.d.sync.aligned.{}.{}.global.{} [%rd4], {}{};\nret;\n}}\n",
                     name_of_layout(l.d_column), p.tile.name, p.sum, d,
                     stride((l.d_column ? p.tile.m : p.tile.n) + 128 / p.sum_bits()));
}

struct Matrices {
  std::vector<int> a, b, c;  // row-major
};

int expected(const Product& p, const Matrices& m, int row, int column) {
  int sum = m.c[row * p.tile.n + column];
  for (int k = 0; k < p.tile.k; ++k) {
    const int a = m.a[row * p.tile.k + k], b = m.b[k * p.tile.n + column];
    sum += p.operation == ".xor.popc" ? a ^ b : a * b;
  }
  return sum;
}

void check_product(const Product& p, const Layouts& l, std::mt19937& random) {
  INFO(p.tile.name << " " << p.type.name << " " << p.sum << " " << l.a_column << l.b_column
                   << l.c_column << l.d_column << l.strides);
  const bool is_signed = p.type.name[0] != 'u' && p.type.bits != 1;
  Matrices values;
  const auto small = [&](int count, std::vector<int>& out) {
    for (int i = 0; i < count; ++i) {
      out.push_back(p.type.bits == 1 ? static_cast<int>(random() % 2)
                                     : static_cast<int>(random() % 7) - (is_signed ? 3 : 0));
    }
  };
  small(p.tile.m * p.tile.k, values.a);
  small(p.tile.k * p.tile.n, values.b);
  for (int i = 0; i < p.tile.m * p.tile.n; ++i)
    values.c.push_back(static_cast<int>(random() % 201) - 100);

  const auto memory = [&](int rows, int columns, int bits, bool by_column) {
    const int lines = by_column ? columns : rows, length = by_column ? rows : columns;
    return Memory(bits, lines, length + (l.strides ? 128 / bits : 0));
  };
  const auto fill = [&](Memory& to, const std::vector<int>& from, int columns, bool by_column,
                        const char* type) {
    for (int i = 0; i < static_cast<int>(from.size()); ++i) {
      const int row = i / columns, column = i % columns;
      to.put(by_column ? column : row, by_column ? row : column, code_of(type, from[i]));
    }
  };
  Memory a = memory(p.tile.m, p.tile.k, p.type.bits, l.a_column);
  Memory b = memory(p.tile.k, p.tile.n, p.type.bits, l.b_column);
  Memory c = memory(p.tile.m, p.tile.n, p.sum_bits(), l.c_column);
  Memory d = memory(p.tile.m, p.tile.n, p.sum_bits(), l.d_column);
  std::fill(d.bytes.begin(), d.bytes.end(), std::uint8_t{0xa5});
  fill(a, values.a, p.tile.k, l.a_column, p.type.name);
  fill(b, values.b, p.tile.n, l.b_column, p.type.name);
  fill(c, values.c, p.tile.n, l.c_column, p.sum);

  for (const Profile profile : {Profile::sm_80, Profile::sm_90, Profile::ideal}) {
    Bench bench(profile);
    bench.module_text(text_of(p, l));
    Address out = bench.upload(d.bytes);
    LaunchReport report = bench.run(
        1, 32, {bench.upload(a.bytes), bench.upload(b.bytes), bench.upload(c.bytes), out});
    INFO(messages(report));
    REQUIRE(report.findings.empty());
    Memory result = d;
    result.bytes = bench.download<std::uint8_t>(out, d.bytes.size());
    for (int row = 0; row < p.tile.m; ++row) {
      for (int column = 0; column < p.tile.n; ++column) {
        INFO(row << " " << column);
        const u64 mask = p.sum_bits() == 64 ? ~u64{0} : (u64{1} << p.sum_bits()) - 1;
        REQUIRE(result.get(l.d_column ? column : row, l.d_column ? row : column) ==
                (code_of(p.sum, expected(p, values, row, column)) & mask));
      }
    }
    // Nothing between the rows or columns was written.
    const int lines = l.d_column ? p.tile.n : p.tile.m, length = l.d_column ? p.tile.m : p.tile.n;
    for (int line = 0; line < lines; ++line) {
      for (int at = length; at < d.stride; ++at) REQUIRE(result.get(line, at) == d.get(line, at));
    }
  }
}

TEST_CASE("wmma is a matrix product, every type, shape and layout") {
  std::mt19937 random(3);
  for (const Product& p : products()) {
    const bool narrow = p.type.bits < 8;  // row by column only
    for (int layout = 0; layout < 16; ++layout) {
      const Layouts l{.a_column = (layout & 1) != 0,
                      .b_column = (layout & 2) != 0,
                      .c_column = (layout & 4) != 0,
                      .d_column = (layout & 8) != 0,
                      .strides = layout % 3 != 0};
      if (narrow && (l.a_column || !l.b_column)) continue;
      check_product(p, l, random);
    }
  }
}

TEST_CASE(
    "every element of a fragment is one of the matrix, so operations on all of them are too") {
  for (const Tile& tile : kSixteen) {
    std::string twice;
    for (int i = 0; i < 8; ++i) twice += fmt::format("add.rn.f32 %r{0}, %r{0}, %r{0};\n", 24 + i);
    const Product p{tile, {"f16", 16}, "f32", 8, 8, 8};
    Bench bench;
    bench.module_text(text_of(p, {false, true, false, false, false}, twice));
    std::vector<std::uint16_t> a(tile.m * 16, 0), b(tile.n * 16, 0);
    std::vector<float> c(tile.m * tile.n);
    for (std::size_t i = 0; i < c.size(); ++i) c[i] = static_cast<float>(i);
    Address out = bench.memory.allocate(c.size() * 4);
    LaunchReport report =
        bench.run(1, 32, {bench.upload(a), bench.upload(b), bench.upload(c), out});
    REQUIRE(report.findings.empty());
    const auto d = bench.download<float>(out, c.size());
    for (std::size_t i = 0; i < c.size(); ++i) REQUIRE(d[i] == 2 * c[i]);
  }
}

// The sums of a tile are those of mma.sync m16n8k16, of which the assembler makes two; the transposed tile
// sums the same products.
TEST_CASE("wmma sums as the device's mma.sync does") {
  std::mt19937_64 random(5);
  for (const Profile profile : {Profile::sm_80, Profile::sm_90, Profile::sm_120}) {
    for (const Tile& tile : kSixteen) {
      for (const bool half : {false, true}) {
        const MmaShape shape{
            .a = MmaType::f16, .b = MmaType::f16, .k = 16, .f16_accumulator = half};
        const auto device = sagegen::test::device_sum(profile, shape);
        REQUIRE(device.has_value());
        const Product p{tile, {"f16", 16}, half ? "f16" : "f32", 8, 8, half ? 4 : 8};
        const int sum_bytes = half ? 2 : 4;
        for (const auto fill :
             {sagegen::test::Fill::spread, sagegen::test::Fill::cancelling,
              sagegen::test::Fill::huge_and_tiny, sagegen::test::Fill::specials}) {
          std::vector<std::uint16_t> a(tile.m * 16), b(tile.n * 16);
          std::vector<std::uint8_t> c(static_cast<std::size_t>(tile.m * tile.n * sum_bytes));
          // Blocks of 16 x 8 outputs; m8n32 takes them transposed.
          const bool transposed = tile.m == 8;
          const int rows = transposed ? tile.n : tile.m, columns = transposed ? tile.m : tile.n;
          std::vector<sagegen::test::MmaRegisters> blocks;
          for (int at_row = 0; at_row < rows; at_row += 16) {
            for (int at_column = 0; at_column < columns; at_column += 8) {
              auto r = sagegen::test::random_registers(shape, fill, sagegen::test::FillC::similar,
                                                       random);
              for (int k = 0; k < 16; ++k) {
                for (int i = 0; i < 16; ++i) {
                  auto& line = transposed ? b : a;
                  // The blocks beside and below share these rows and columns.
                  if (at_column == 0) {
                    line[(at_row + i) * 16 + k] =
                        static_cast<std::uint16_t>(sagegen::test::get_a(r, shape, i, k));
                  }
                  sagegen::test::set_a(r, shape, i, k, line[(at_row + i) * 16 + k]);
                }
                for (int i = 0; i < 8; ++i) {
                  auto& line = transposed ? a : b;
                  if (at_row == 0) {
                    line[(at_column + i) * 16 + k] =
                        static_cast<std::uint16_t>(sagegen::test::get_b(r, shape, k, i));
                  }
                  sagegen::test::set_b(r, shape, k, i, line[(at_column + i) * 16 + k]);
                }
              }
              for (int i = 0; i < 16; ++i) {
                for (int j = 0; j < 8; ++j) {
                  const u32 code = sagegen::test::get_c(r, shape, i, j);
                  const int row = transposed ? at_column + j : at_row + i;
                  const int column = transposed ? at_row + i : at_column + j;
                  std::memcpy(&c[static_cast<std::size_t>((row * tile.n + column) * sum_bytes)],
                              &code, static_cast<std::size_t>(sum_bytes));
                }
              }
              blocks.push_back(r);
            }
          }
          Bench bench(profile);
          bench.module_text(text_of(p, {false, true, false, false, false}));
          Address out = bench.memory.allocate(c.size());
          LaunchReport report =
              bench.run(1, 32, {bench.upload(a), bench.upload(b), bench.upload(c), out});
          INFO(messages(report));
          REQUIRE(report.findings.empty());
          const auto d = bench.download<std::uint8_t>(out, c.size());
          std::size_t block = 0;
          for (int at_row = 0; at_row < rows; at_row += 16) {
            for (int at_column = 0; at_column < columns; at_column += 8, ++block) {
              for (int i = 0; i < 16; ++i) {
                for (int j = 0; j < 8; ++j) {
                  const int row = transposed ? at_column + j : at_row + i;
                  const int column = transposed ? at_row + i : at_column + j;
                  u32 got = 0;
                  std::memcpy(&got,
                              &d[static_cast<std::size_t>((row * tile.n + column) * sum_bytes)],
                              static_cast<std::size_t>(sum_bytes));
                  REQUIRE(got ==
                          sagegen::test::reference_output(*device, shape, blocks[block], i, j));
                }
              }
            }
          }
        }
      }
    }
  }
}

// ptxas widens f16 accumulators before, or rounds f32 results after, the instruction with f32 sums.
TEST_CASE("wmma with C and D of different types") {
  std::mt19937 random(7);
  for (const Tile& tile : kSixteen) {
    const auto n = static_cast<std::size_t>(tile.m * tile.n);
    std::vector<std::uint16_t> a(static_cast<std::size_t>(tile.m * 16)),
        b(static_cast<std::size_t>(tile.n * 16)), halves(n);
    for (auto* codes : {&a, &b, &halves}) {  // finite, all exponents; some NaN and infinities in C
      for (auto& code : *codes) {
        code = static_cast<std::uint16_t>(random());
        if (codes != &halves && (code & 0x7c00) == 0x7c00) code ^= 0x4000;
      }
    }
    std::vector<float> wide(n);
    for (std::size_t i = 0; i < n; ++i) wide[i] = f16_to_f32(halves[i]);
    Bench bench(Profile::sm_80);
    const auto run = [&](const std::string& d, const std::string& c, Address in, Address out) {
      const int d_count = d == "f16" ? 4 : 8, c_count = c == "f16" ? 4 : 8;
      const std::string to = list("%r", 24, d_count), from = list("%r", 16, c_count);
      bench.kernel(fmt::format(".reg .b32 %r<32>;\n"
                               "wmma.load.a.sync.aligned.row.{0}.f16 {1}, [%d20];\n"
                               "wmma.load.b.sync.aligned.col.{0}.f16 {2}, [%d21];\n"
                               "wmma.load.c.sync.aligned.row.{0}.{4} {6}, [%d22];\n"
                               "wmma.mma.sync.aligned.row.col.{0}.{3}.{4} {5}, {1}, {2}, {6};\n"
                               "wmma.store.d.sync.aligned.row.{0}.{3} [%d23], {5};\n",
                               tile.name, list("%r", 0, 8), list("%r", 8, 8), d, c, to, from),
                   4);
      LaunchReport report = bench.run(1, 32, {bench.upload(a), bench.upload(b), in, out});
      INFO(messages(report));
      REQUIRE(report.findings.empty());
    };
    const Address in16 = bench.upload(halves), in32 = bench.upload(wide);
    const Address plain = bench.memory.allocate(n * 4), widened = bench.memory.allocate(n * 4),
                  rounded = bench.memory.allocate(n * 2);
    run("f32", "f32", in32, plain);
    run("f32", "f16", in16, widened);
    run("f16", "f32", in32, rounded);
    const auto sums = bench.download<u32>(plain, n);
    CHECK(bench.download<u32>(widened, n) == sums);
    const auto small = bench.download<std::uint16_t>(rounded, n);
    for (std::size_t i = 0; i < n; ++i) {
      REQUIRE(small[i] == f32_to_f16(std::bit_cast<float>(sums[i])));
    }
  }
}

TEST_CASE("mma of doubles takes its fragments from 64-bit registers, in every rounding") {
  struct Shape {
    const char* text;
    int m, k, a, b, c;
  };
  for (const Shape& s : {Shape{"m8n8k4", 8, 4, 1, 1, 2}, Shape{"m16n8k4", 16, 4, 2, 1, 4},
                         Shape{"m16n8k8", 16, 8, 4, 2, 4}, Shape{"m16n8k16", 16, 16, 8, 4, 4}}) {
    for (const auto& [suffix, rounding] : {std::pair{"", MmaRounding::nearest},
                                           {".rn", MmaRounding::nearest},
                                           {".rz", MmaRounding::zero},
                                           {".rm", MmaRounding::down},
                                           {".rp", MmaRounding::up}}) {
      INFO(s.text << suffix);
      std::mt19937_64 random(9);
      const int inputs = s.a + s.b + s.c;
      std::vector<double> in(static_cast<std::size_t>(inputs * 32));
      for (double& x : in) x = std::ldexp(static_cast<double>(random() >> 11), -53) - 0.5;
      MmaDoubles r{};
      std::string body =
          ".reg .f64 %fd<32>; mov.u32 %w1, %tid.x; mul.wide.u32 %d1, %w1, 8; add.u64 "
          "%d2, %d20, %d1; add.u64 %d3, %d21, %d1;\n";
      for (int i = 0; i < inputs; ++i)
        body += fmt::format("ld.global.f64 %fd{}, [%d2+{}];\n", i, 256 * i);
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < s.a; ++i) r.a[i][lane] = in[i * 32 + lane];
        for (int i = 0; i < s.b; ++i) r.b[i][lane] = in[(s.a + i) * 32 + lane];
        for (int i = 0; i < s.c; ++i) r.c[i][lane] = in[(s.a + s.b + i) * 32 + lane];
      }
      // The assembler takes the rounding before the types and behind them.
      body +=
          fmt::format("mma.sync.aligned.{}.row.col{}.f64.f64.f64.f64{} {}, {}, {}, {};\n", s.text,
                      s.m == 8 ? suffix : "", s.m == 8 ? "" : suffix, list("%fd", 20, s.c),
                      list("%fd", 0, s.a), list("%fd", s.a, s.b), list("%fd", s.a + s.b, s.c));
      for (int i = 0; i < s.c; ++i)
        body += fmt::format("st.global.f64 [%d3+{}], %fd{};\n", 256 * i, 20 + i);
      const MmaShape shape{
          .a = MmaType::f64, .b = MmaType::f64, .k = s.k, .m = s.m, .rounding = rounding};
      mma_double_function(Profile::sm_90, shape)(shape, r);
      Bench bench(Profile::sm_90);
      bench.kernel(body, 2);
      Address out = bench.memory.allocate(static_cast<std::size_t>(s.c) * 256);
      LaunchReport report = bench.run(1, 32, {bench.upload(in), out});
      INFO(messages(report));
      REQUIRE(report.findings.empty());
      const auto d = bench.download<double>(out, static_cast<std::size_t>(s.c) * 32);
      for (int i = 0; i < s.c; ++i) {
        for (int lane = 0; lane < 32; ++lane) REQUIRE(d[i * 32 + lane] == r.d[i][lane]);
      }
      // The larger shapes need sm_90.
      Bench old(Profile::sm_89);
      if (s.m == 8) {
        CHECK_NOTHROW(old.kernel(body, 2));
      } else {
        CHECK_THROWS_WITH(old.kernel(body, 2), Contains("has no such instruction"));
      }
    }
  }
}

// ---- checks ------------------------------------------------------------------------------------

const char* const kRegisters = ".reg .b32 %r<32>;\n";

std::string finding_of(const std::string& body, unsigned threads = 32) {
  Bench bench;
  bench.kernel(kRegisters + body, 1, ".shared .align 32 .b8 s[2048];");
  LaunchReport report = bench.run(1, threads, {bench.upload(std::vector<std::uint8_t>(1024, 1))});
  INFO(messages(report));
  return only_check(report);
}

TEST_CASE("findings of wmma") {
  const std::string a = list("%r", 0, 8), c = list("%r", 16, 8);
  const std::string load = "wmma.load.a.sync.aligned.row.m16n16k16.f16 " + a;
  CHECK(finding_of(load + ", [%d20];") == "");
  CHECK(finding_of(load + ", [%d20], 24;") == "");
  CHECK(finding_of(load + ", [%d20+16];") == "misaligned");
  CHECK(finding_of(load + ", [%d20], 20;") == "misaligned");
  CHECK(finding_of(load + ", [%d20+544];") == "out-of-bounds");
  CHECK(finding_of(load + ", [%d20], 40;") == "out-of-bounds");
  CHECK(finding_of("mov.u32 %w1, %tid.x; mul.wide.u32 %d1, %w1, 32; add.u64 %d1, %d1, %d20;" +
                   load + ", [%d1];") == "divergent-collective");
  CHECK(finding_of("mov.u32 %w1, %tid.x; mad.lo.u32 %w1, %w1, 8, 16;" + load + ", [%d20], %w1;") ==
        "divergent-collective");
  CHECK(finding_of(load + ", [%d20], %w9;") == "uninitialized");
  CHECK(finding_of("setp.eq.u32 %p1, %w8, 0;") == "");
  CHECK(finding_of("mov.u32 %w1, %tid.x; setp.lt.u32 %p1, %w1, 9; @%p1 " + load + ", [%d20];") ==
        "divergent-collective");
  // Shared memory of the other warp's, without a barrier.
  CHECK(
      finding_of("mov.u32 %w1, %tid.x; shl.b32 %w2, %w1, 2; mov.b32 %w3, s; add.u32 %w4, %w2, %w3;"
                 "st.shared.b32 [%w4], %w1;"
                 "wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 " +
                     a + ", [s], 8;",
                 64) == "race");
}

TEST_CASE("undefined elements make their rows and columns of D undefined, no more") {
  for (const Tile& tile : kSixteen) {
    INFO(tile.name);
    // A, B and C lie in shared memory, all but one element of each written.
    const int a = tile.m * 16, b = tile.n * 16, c = tile.m * tile.n;
    const int bad_row = tile.m - 3, bad_column = tile.n - 2;
    const auto write = [](int at, int count, int bytes, int except) {
      std::string text;
      for (int i = 0; i < count; ++i) {
        if (i != except)
          text += fmt::format("st.shared.b{} [s+{}], {};\n", 8 * bytes, at + i * bytes,
                              bytes == 2 ? "%h1" : "%w1");
      }
      return text;
    };
    const std::string body =
        kRegisters + std::string("mov.b32 %w1, 0; mov.b16 %h1, 0; mov.u32 %w2, %tid.x;\n") +
        write(0, a, 2, bad_row * 16 + 7) + write(2 * a, b, 2, bad_column * 16 + 9) +
        write(2 * a + 2 * b, c, 4, 0) + "bar.sync 0;\n" +
        fmt::format("wmma.load.a.sync.aligned.row.{}.shared.f16 {}, [s];\n", tile.name,
                    list("%r", 0, 8)) +
        fmt::format("wmma.load.b.sync.aligned.col.{}.shared.f16 {}, [s+{}];\n", tile.name,
                    list("%r", 8, 8), 2 * a) +
        fmt::format("wmma.load.c.sync.aligned.row.{}.shared.f32 {}, [s+{}];\n", tile.name,
                    list("%r", 16, 8), 2 * (a + b)) +
        fmt::format("wmma.mma.sync.aligned.row.col.{0}.f32.f32 {1}, {2}, {3}, {1};\n", tile.name,
                    list("%r", 16, 8), list("%r", 0, 8), list("%r", 8, 8)) +
        fmt::format("wmma.store.d.sync.aligned.row.{}.shared.f32 [s], {};\nbar.sync 0;\n",
                    tile.name, list("%r", 16, 8)) +
        "ld.shared.b32 %w3, [s+ELEMENT];\nsetp.eq.u32 %p1, %w3, 5;\n@%p1 bra N; N:\n";
    const auto undefined = [&](int row, int column) {
      std::string text = body;
      text.replace(text.find("ELEMENT"), 7, std::to_string(4 * (row * tile.n + column)));
      Bench bench;
      bench.kernel(text, 1, ".shared .align 32 .b8 s[4096];");
      // One thread of a warp stores the same as the others.
      LaunchReport report = bench.run(1, 32, {bench.memory.allocate(16)});
      INFO(messages(report));
      const std::string check = only_check(report);
      REQUIRE((check.empty() || check == "uninitialized"));
      return !check.empty();
    };
    CHECK(undefined(0, 0));  // C
    CHECK_FALSE(undefined(0, 1));
    CHECK_FALSE(undefined(1, 0));
    CHECK(undefined(bad_row, 0));
    CHECK(undefined(bad_row, tile.n - 1));
    CHECK(undefined(0, bad_column));
    CHECK(undefined(tile.m - 1, bad_column));
    CHECK_FALSE(undefined(bad_row + 1, bad_column - 1));
    CHECK_FALSE(undefined(bad_row - 1, bad_column + 1));
  }
}

TEST_CASE("matrix instructions that the assembler refuses are refused") {
  const auto refused = [](const std::string& body, const std::string& words) {
    Bench bench;
    INFO(body);
    CHECK_THROWS_WITH(bench.kernel(".reg .b32 %r<32>; .reg .f64 %fd<16>;\n" + body, 1),
                      Contains(words));
  };
  const std::string eight = list("%r", 0, 8), four = list("%r", 0, 4), two = list("%r", 0, 2);
  const std::string one = "{%r0}", sum = list("%r", 16, 8);
  const auto mma = [](const std::string& text, const std::string& d, const std::string& a,
                      const std::string& b) {
    return text + " " + d + ", " + a + ", " + b + ", " + d + ";";
  };
  const std::string none = "no such combination";
  for (const char* text : {"wmma.mma.sync.aligned.row.col.m16n16k16.s32.s8.u8.s32",
                           "wmma.mma.sync.aligned.row.col.m16n16k8.f32.f32",
                           "wmma.mma.sync.aligned.row.col.m8n8k32.s32.s8.s8.s32",
                           "wmma.mma.sync.aligned.col.col.m8n8k32.s32.s4.s4.s32",
                           "wmma.mma.sync.aligned.row.row.m8n8k128.s32.b1.b1.s32",
                           "wmma.mma.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32",
                           "wmma.mma.xor.popc.sync.aligned.row.col.m8n8k32.s32.s4.s4.s32",
                           "wmma.mma.sync.aligned.row.col.m16n16k16.f32.bf16.bf16.f32.satfinite",
                           "wmma.mma.sync.aligned.row.col.m16n16k16.rn.f32.bf16.bf16.f32"}) {
    refused(mma(text, sum, eight, eight), none);
  }
  for (const char* text : {"wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32.satfinite",
                           "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f16.f16.f32"}) {
    refused(mma(text, sum, eight, eight), "no further modifier");
  }
  refused(mma("wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32", sum, four, eight),
          "a vector of 8");
  refused(mma("wmma.mma.sync.row.col.m16n16k16.f32.f32", sum, eight, eight), "expected .aligned");
  refused("wmma.load.a.sync.aligned.col.m8n8k32.s4 {%r0}, [%d20];", none);
  refused("wmma.load.b.sync.aligned.row.m8n8k128.b1 {%r0}, [%d20];", none);
  refused("wmma.load.a.sync.aligned.row.m16n16k16.tf32 {%r0,%r1,%r2,%r3}, [%d20];", none);
  refused("wmma.load.c.sync.aligned.row.m16n16k8.f16 {%r0,%r1,%r2,%r3}, [%d20];", none);
  refused("wmma.load.a.sync.aligned.row.m16n16k16.f16 " + eight + ", [%d20], %d1;",
          "32-bit register");
  refused("wmma.load.a.sync.aligned.row.m16n16k16.volatile.f16 " + eight + ", [%d20];",
          ".volatile");
  refused("wmma.load.d.sync.aligned.row.m16n16k16.f16 " + eight + ", [%d20];", ".a, .b or .c");
  refused("wmma.store.c.sync.aligned.row.m16n16k16.f16 [%d20], " + four + ";", ".d");
  refused("wmma.fill.a;", ".load, .store or .mma");

  for (const char* text : {"mma.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32",
                           "mma.sync.aligned.m16n8k8.row.col.f32.tf32.f16.f32",
                           "mma.sync.aligned.m16n8k8.row.col.f16.tf32.tf32.f16",
                           "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32",
                           "mma.sync.aligned.m16n8k256.row.col.s32.b1.s8.s32.xor.popc",
                           "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32.xor.popc",
                           "mma.sync.aligned.m16n8k256.row.col.satfinite.s32.b1.b1.s32.xor.popc",
                           "mma.sync.aligned.m8n8k32.row.col.s32.s8.s8.s32",
                           "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32",
                           "mma.sync.aligned.m16n8k8.row.col.rn.f32.tf32.tf32.f32",
                           "mma.sync.aligned.m16n8k64.row.col.f64.f64.f64.f64",
                           "mma.sync.aligned.m8n8k16.row.col.f64.f64.f64.f64",
                           "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f32",
                           "mma.sync.aligned.m16n8k128.row.col.f32.b1.b1.f32.and.popc"}) {
    refused(mma(text, four, four, two), none);
  }
  refused(mma("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.or.popc", four, four, two),
          "unknown modifier .or");
  refused(mma("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor", four, four, two), ".popc");
}

}  // namespace
}  // namespace sagegen::emulator::test
