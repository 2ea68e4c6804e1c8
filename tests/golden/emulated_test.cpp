// What verbs compute: small kernels run in the emulator, whose results the host computes again.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>

#include "sagegen/dsl/reduce.h"
#include "sagegen/dsl/tile.h"
#include "tests/golden/emulated.h"

namespace sagegen::golden {
namespace {

using namespace dsl;

// Words that look like nothing in particular, among them the corners of signed arithmetic.
std::vector<std::int32_t> words(int count) {
  std::vector<std::int32_t> result{0, 1, -1, std::numeric_limits<std::int32_t>::min(),
                                   std::numeric_limits<std::int32_t>::max()};
  std::uint32_t state = 12345;
  while (static_cast<int>(result.size()) < count) {
    state = state * 1664525u + 1013904223u;
    result.push_back(static_cast<std::int32_t>(state));
  }
  result.resize(static_cast<std::size_t>(count));
  return result;
}

std::vector<float> numbers(int count) {
  std::vector<float> result;
  for (const std::int32_t word : words(count)) {
    result.push_back(static_cast<float>(word % 4096) / 64.0f + 0.015625f);
  }
  return result;
}

// One word in, one word out per thread.
template <typename In, typename Out, typename Value, typename Result>
void each(const std::vector<In>& in, const std::function<Result(KernelBuilder&, Value)>& verb,
          const std::function<bool(In, Out)>& is_right) {
  const int threads = static_cast<int>(in.size());
  const auto out = run<Out>(in, in.size(), threads, [&](KernelBuilder& k, const Buffers& at) {
    const I32 byte = k.thread_idx() * 4;
    k.store(at.out + k.thread_idx() * static_cast<int>(sizeof(Out)),
            verb(k, k.load<Value>(at.in + byte)));
  });
  for (std::size_t i = 0; i < in.size(); ++i) {
    INFO(i << ": " << in[i] << " gives " << out[i]);
    CHECK(is_right(in[i], out[i]));
  }
}
using OfF32 = std::function<F32(KernelBuilder&, F32)>;
using OfI32 = std::function<I32(KernelBuilder&, I32)>;

bool close(double a, double b, double relative) {
  return a == b || std::abs(a - b) <= relative * std::abs(b);
}

TEST_CASE("roots and tanh") {
  std::vector<float> positive = numbers(64);
  for (float& x : positive) x = std::abs(x);
  each<float, float>(positive, OfF32([](KernelBuilder& k, F32 x) { return k.sqrt(x); }),
                     std::function([](float x, float y) { return y == std::sqrt(x); }));
  each<float, float>(
      positive, OfF32([](KernelBuilder& k, F32 x) { return k.rsqrt(x); }),
      std::function([](float x, float y) { return close(y, 1 / std::sqrt(double{x}), 0x1p-21); }));
  each<float, float>(
      numbers(64), OfF32([](KernelBuilder& k, F32 x) { return k.tanh(x); }),
      std::function([](float x, float y) { return close(y, std::tanh(double{x}), 0x1p-10); }));
}

TEST_CASE("conversions between integers and f32") {
  const std::vector<float> halves{0.5f, 1.5f, -0.5f, -1.5f, 2.75f, -2.75f, 1e9f, -1e9f};
  std::vector<float> values = numbers(32);
  std::copy(halves.begin(), halves.end(), values.begin());
  each<float, std::int32_t>(
      values, std::function<I32(KernelBuilder&, F32)>([](KernelBuilder& k, F32 x) {
        return k.truncate_to_s32(x);
      }),
      std::function([](float x, std::int32_t y) { return y == static_cast<std::int32_t>(x); }));
  each<float, std::int64_t>(
      values, std::function<I64(KernelBuilder&, F32)>([](KernelBuilder& k, F32 x) {
        return k.round_to_s64(x * 1048576.0f);
      }),
      std::function([](float x, std::int64_t y) { return y == std::llrint(x * 1048576.0f); }));
  each<std::int32_t, float>(words(32),
                            std::function<F32(KernelBuilder&, I32)>([](KernelBuilder& k, I32 x) {
                              return k.to_f32(k.to_i64(x) * 1000003);
                            }),
                            std::function([](std::int32_t x, float y) {
                              return y == static_cast<float>(std::int64_t{x} * 1000003);
                            }));
  each<std::int32_t, std::int64_t>(
      words(32), std::function<I64(KernelBuilder&, I32)>([](KernelBuilder& k, I32 x) {
        return k.to_i64_unsigned(x) - k.to_i64(x);
      }),
      std::function([](std::int32_t x, std::int64_t y) { return y == (x < 0 ? 1LL << 32 : 0); }));
}

TEST_CASE("signed and unsigned integers") {
  const auto check = [](const OfI32& verb, const std::function<std::int64_t(std::int32_t)>& host) {
    each<std::int32_t, std::int32_t>(words(64), verb,
                                     std::function([&](std::int32_t x, std::int32_t y) {
                                       return y == static_cast<std::int32_t>(host(x));
                                     }));
  };
  const auto u = [](std::int32_t x) { return static_cast<std::uint32_t>(x); };
  check([](KernelBuilder& k, I32 x) { return k.shift_right_signed(x, k.i32(7)); },
        [](std::int32_t x) { return x >> 7; });
  check([](KernelBuilder&, I32 x) { return x >> 7; }, [&](std::int32_t x) { return u(x) >> 7; });
  check([](KernelBuilder& k, I32 x) { return k.divide_signed(x, k.i32(-7)); },
        [](std::int32_t x) { return x / -7; });
  check([](KernelBuilder& k, I32 x) { return k.remainder_signed(x, k.i32(7)); },
        [](std::int32_t x) { return x % 7; });
  check([](KernelBuilder&, I32 x) { return x / 7; }, [&](std::int32_t x) { return u(x) / 7; });
  check([](KernelBuilder&, I32 x) { return x % 7; }, [&](std::int32_t x) { return u(x) % 7; });
  check([](KernelBuilder&, I32 x) { return ~x; }, [](std::int32_t x) { return ~x; });
  check([](KernelBuilder&, I32 x) { return -(x >> 1); },
        [&](std::int32_t x) { return -std::int64_t{u(x) >> 1}; });
  check([](KernelBuilder& k, I32 x) { return k.popcount(x); },
        [&](std::int32_t x) { return std::popcount(u(x)); });
  check([](KernelBuilder& k, I32 x) { return k.abs(x); },
        [](std::int32_t x) { return std::abs(std::int64_t{x}); });
}

TEST_CASE("64-bit integers") {
  const auto check = [](const std::function<I64(KernelBuilder&, I64)>& verb,
                        const std::function<std::int64_t(std::int64_t)>& host) {
    each<std::int32_t, std::int64_t>(
        words(32), std::function<I64(KernelBuilder&, I32)>([&](KernelBuilder& k, I32 x) {
          return verb(k, k.to_i64(x) * 65537);
        }),
        std::function(
            [&](std::int32_t x, std::int64_t y) { return y == host(std::int64_t{x} * 65537); }));
  };
  const auto u = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
  check([](KernelBuilder&, I64 x) { return 5 - x; }, [](std::int64_t x) { return 5 - x; });
  check([](KernelBuilder&, I64 x) { return x - 5; }, [](std::int64_t x) { return x - 5; });
  check([](KernelBuilder&, I64 x) { return -x; }, [](std::int64_t x) { return -x; });
  check([](KernelBuilder&, I64 x) { return x / 1000; },
        [&](std::int64_t x) { return static_cast<std::int64_t>(u(x) / 1000); });
  check([](KernelBuilder&, I64 x) { return (x % 64) | (x << 40) | (~x >> 33); },
        [&](std::int64_t x) {
          return static_cast<std::int64_t>((u(x) % 64) | (u(x) << 40) | (u(~x) >> 33));
        });
  check([](KernelBuilder&, I64 x) { return (x & 0xff00ff00ff) ^ x; },
        [](std::int64_t x) { return (x & 0xff00ff00ff) ^ x; });
  check([](KernelBuilder& k,
           I64 x) { return k.select(x < 0, k.i64(1), k.select(x >= 70000, k.i64(2), k.i64(3))); },
        [](std::int64_t x) { return x < 0        ? 1
                                    : x >= 70000 ? 2
                                                 : 3; });
}

TEST_CASE("accesses of one, two and eight bytes, in both memories") {
  const auto in = words(64);
  // Per thread: u8, s8, u16, s16 of its word's bytes 1 and 2-3, through shared memory, then 8 bytes.
  const auto out = run<std::int32_t>(in, 6 * 64, 64, [](KernelBuilder& k, const Buffers& at) {
    const SharedPtr copy = k.shared(64 * 16, 16) + k.thread_idx() * 16;
    const GlobalPtr from = at.in + k.thread_idx() * 4;
    const GlobalPtr to = at.out + k.thread_idx() * 24;
    k.store_8(copy, k.load_u8(from + 1));
    k.store_8(copy + 1, k.load_s8(from + 1));
    k.store_16(copy + 2, k.load_u16(from + 2));
    k.store(to, k.load_u8(copy));
    k.store(to + 4, k.load_s8(copy + 1));
    k.store(to + 8, k.load_u16(copy + 2));
    k.store(to + 12, k.load_s16(copy + 2));
    k.store(copy + 8, k.to_i64(k.load<I32>(from)));
    k.store(to + 16, k.load<I64>(copy + 8));
    const auto pair = k.load_v2(copy + 8);
    k.store_16(to, pair[0]);  // what is beside it stays
  });
  for (std::size_t i = 0; i < in.size(); ++i) {
    INFO(i);
    const auto word = static_cast<std::uint32_t>(in[i]);
    const std::int32_t* mine = &out[6 * i];
    CHECK(mine[0] == static_cast<std::int32_t>(word & 0xffff));
    CHECK(mine[1] == static_cast<std::int8_t>(word >> 8));
    CHECK(mine[2] == static_cast<std::int32_t>(word >> 16));
    CHECK(mine[3] == static_cast<std::int16_t>(word >> 16));
    CHECK(mine[4] == in[i]);
    CHECK(mine[5] == (in[i] < 0 ? -1 : 0));
  }
}

TEST_CASE("atomics of many threads, in both memories") {
  const auto in = words(96);
  const auto test = [&](bool in_shared) {
    INFO("shared " << in_shared);
    // add, min, max of all; exchange leaves one of them; compare_exchange counts who found 0: one.
    return run<std::int32_t>(in, 6, 96, [&](KernelBuilder& k, const Buffers& at) {
      const I32 mine = k.load<I32>(at.in + k.thread_idx() * 4);
      const auto all = [&](const auto& cells) {
        k.atomic_add(cells, mine & 0xffff);
        k.atomic_min(cells + 4, mine);
        k.atomic_max(cells + 8, mine);
        k.atomic_exchange(cells + 12, mine);
        const I32 found = k.atomic_compare_exchange(cells + 16, k.i32(0), k.thread_idx() + 1);
        k.if_(found == 0, [&] { k.atomic_add(cells + 20, k.f32(1.0f)); });
      };
      if (!in_shared) return all(at.out);
      const SharedPtr cells = k.shared(24, 8);
      k.if_(k.thread_idx() < 6, [&] { k.store(cells + k.thread_idx() * 4, k.i32(0)); });
      k.barrier();
      all(cells);
      k.barrier();
      k.if_(k.thread_idx() < 6,
            [&] { k.store(at.out + k.thread_idx() * 4, k.load<I32>(cells + k.thread_idx() * 4)); });
    });
  };
  for (const bool in_shared : {false, true}) {
    const auto out = test(in_shared);
    std::int32_t sum = 0;
    for (const std::int32_t word : in) sum += word & 0xffff;
    CHECK(out[0] == sum);
    CHECK(out[1] == *std::min_element(in.begin(), in.end()));
    CHECK(out[2] == *std::max_element(in.begin(), in.end()));
    CHECK(std::find(in.begin(), in.end(), out[3]) != in.end());
    CHECK(out[4] >= 1);
    CHECK(out[4] <= 96);
    CHECK(out[5] == 0x3f800000);  // 1.0f
  }
}

TEST_CASE("votes, shuffles and reductions of a warp") {
  const auto in = words(64);
  const auto out = run<std::int32_t>(in, 64 * 8, 64, [](KernelBuilder& k, const Buffers& at) {
    const I32 mine = k.load<I32>(at.in + k.thread_idx() * 4);
    const GlobalPtr to = at.out + k.thread_idx() * 32;
    const Pred odd = mine % 2 == 1;
    k.store(to, k.ballot(odd));
    k.store(to + 4, k.select(k.any(odd), k.i32(1), k.i32(0)));
    k.store(to + 8, k.select(k.all(k.lane_idx() < 40), k.i32(1), k.i32(0)));
    k.store(to + 12, k.shuffle(mine, k.lane_idx() + 3));
    k.store(to + 16, k.warp_sum(mine >> 8));
    k.store(to + 20, k.warp_max(mine));
    k.store(to + 24, warp_sum(k, k.to_f32(mine >> 20)));
    k.store(to + 28, warp_max(k, k.to_f32(mine >> 20)));
  });
  for (std::size_t i = 0; i < in.size(); ++i) {
    INFO(i);
    const std::span warp(&in[i / 32 * 32], 32);
    std::uint32_t ballot = 0;
    std::int32_t sum = 0;
    float real_sum = 0, real_max = 0;
    for (std::size_t lane = 0; lane < 32; ++lane) {
      const auto word = static_cast<std::uint32_t>(warp[lane]);
      ballot |= (word & 1) << lane;
      sum += static_cast<std::int32_t>(word >> 8);
      real_sum += static_cast<float>(word >> 20);
      real_max = std::max(real_max, static_cast<float>(word >> 20));
    }
    const std::int32_t* mine = &out[8 * i];
    CHECK(mine[0] == static_cast<std::int32_t>(ballot));
    CHECK(mine[1] == 1);
    CHECK(mine[2] == 1);
    CHECK(mine[3] == warp[(i + 3) % 32]);
    CHECK(mine[4] == sum);
    CHECK(mine[5] == *std::max_element(warp.begin(), warp.end()));
    CHECK(std::bit_cast<float>(mine[6]) == real_sum);  // integers: exact in any order
    CHECK(std::bit_cast<float>(mine[7]) == real_max);
  }
}

TEST_CASE("reductions of a block reach every thread, one after the other through the same names") {
  for (const int threads : {32, 64, 96, 160, 1024}) {
    INFO(threads);
    const auto in = words(threads);
    const auto count = static_cast<std::size_t>(threads);
    const auto out =
        run<std::int32_t>(in, 4 * count, threads, [](KernelBuilder& k, const Buffers& at) {
          const I32 mine = k.load<I32>(at.in + k.thread_idx() * 4) >> 20;
          const GlobalPtr to = at.out + k.thread_idx() * 16;
          k.store(to, block_sum(k, mine));
          k.store(to + 4, block_max(k, mine));
          k.store(to + 8, block_sum(k, k.to_f32(mine)));
          k.store(to + 12, block_max(k, -k.to_f32(mine)));
        });
    std::int32_t sum = 0, largest = 0, smallest = 1 << 20;
    for (const std::int32_t word : in) {
      const auto part = static_cast<std::int32_t>(static_cast<std::uint32_t>(word) >> 20);
      sum += part;
      largest = std::max(largest, part);
      smallest = std::min(smallest, part);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t* mine = &out[4 * i];
      CHECK(mine[0] == sum);
      CHECK(mine[1] == largest);
      CHECK(std::bit_cast<float>(mine[2]) == static_cast<float>(sum));
      CHECK(std::bit_cast<float>(mine[3]) == static_cast<float>(-smallest));
    }
  }
}

TEST_CASE("a while loop ends when its condition says so, for each thread by itself") {
  std::vector<std::int32_t> in(64);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::int32_t>(i) + 1;
  // Steps of the Collatz sequence to 1.
  const auto out = run<std::int32_t>(in, 64, 64, [](KernelBuilder& k, const Buffers& at) {
    const Var<I32> x = k.var(k.load<I32>(at.in + k.thread_idx() * 4));
    const Var<I32> steps = k.var(k.i32(0));
    const I32 behind = k.thread_idx() * 4;  // used in front of the loop and behind it
    k.while_([&] { return x.get() != 1; },
             [&] {
               k.if_else(
                   x.get() % 2 == 0, [&] { x = x.get() / 2; }, [&] { x = x.get() * 3 + 1; });
               steps = steps.get() + 1;
             });
    k.store(at.out + behind, steps.get());
  });
  for (std::size_t i = 0; i < in.size(); ++i) {
    int steps = 0;
    for (int x = in[i]; x != 1; ++steps) x = x % 2 == 0 ? x / 2 : 3 * x + 1;
    CHECK(out[i] == steps);
  }
}

TEST_CASE("named barriers: producers arrive, consumers wait, others go on") {
  const auto in = words(96);
  // Warp 0 writes and arrives, warp 1 waits and reads; warp 2 has a barrier of its own, with warp 1.
  const auto out = run<std::int32_t>(in, 96, 96, [](KernelBuilder& k, const Buffers& at) {
    const SharedPtr box = k.shared(256, 16);
    const I32 byte = k.lane_idx() * 4;
    const I32 mine = k.load<I32>(at.in + k.thread_idx() * 4);
    const GlobalPtr to = at.out + k.thread_idx() * 4;
    k.if_(k.warp_idx() == 0, [&] {
      k.store(box + byte, mine);
      k.barrier_arrive(1, 64);
      k.store(to, mine);
    });
    k.if_(k.warp_idx() == 1, [&] {
      k.barrier(1, 64);
      const I32 got = k.load<I32>(box + byte);
      k.store(box + 128 + byte, got ^ mine);
      k.barrier(2, 64);
      k.store(to, got);
    });
    k.if_(k.warp_idx() == 2, [&] {
      k.barrier(2, 64);
      k.store(to, k.load<I32>(box + 128 + byte));
    });
  });
  for (std::size_t lane = 0; lane < 32; ++lane) {
    CHECK(out[lane] == in[lane]);
    CHECK(out[32 + lane] == in[lane]);
    CHECK(out[64 + lane] == (in[lane] ^ in[32 + lane]));
  }
}

TEST_CASE("the lanes of a warp see each other's shared memory behind a warp barrier") {
  const auto in = words(32);
  const auto out = run<std::int32_t>(in, 32, 32, [](KernelBuilder& k, const Buffers& at) {
    const SharedPtr box = k.shared(128, 16);
    const I32 byte = k.lane_idx() * 4;
    k.store(box + byte, k.load<I32>(at.in + byte));
    k.warp_barrier();
    k.store(at.out + byte, k.load<I32>(box + (byte ^ 4)));
  });
  for (std::size_t lane = 0; lane < 32; ++lane) CHECK(out[lane] == in[lane ^ 1]);
}

// A (32 x 64) times B (64 x 32) through shared memory, tiles -> fragments -> mma, by two warps of 16 rows.
// Elements are small integers, so that every format and order of sums is exact.
constexpr int kM = 32, kN = 32;

std::uint16_t bits_of(DType type, int value) {
  if (type == DType::s8) return static_cast<std::uint8_t>(value);
  if (type == DType::s4) return static_cast<std::uint16_t>(value & 0xF);
  const auto word = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  const std::uint32_t sign = word >> 31;
  const int exponent = static_cast<int>(word >> 23 & 0xff) - 127;  // of a value that is not 0
  const std::uint32_t fraction = word & 0x7fffff;
  if (type == DType::bf16) return static_cast<std::uint16_t>(word >> 16);
  if (value == 0) return 0;
  if (type == DType::f16) {
    return static_cast<std::uint16_t>(sign << 15 | static_cast<std::uint32_t>(exponent + 15) << 10 |
                                      fraction >> 13);
  }
  return static_cast<std::uint16_t>(sign << 7 | static_cast<std::uint32_t>(exponent + 7) << 3 |
                                    fraction >> 20);  // e4m3
}

int element(int row, int column, int seed) { return (row * 7 + column * 3 + seed) % 9 - 4; }

// by_key: B lies with its rows (along k) in the tile's rows; otherwise its columns do. Of s4, two elements are a byte,
// the first of them its lower half. in_f16: so sums the tensor core.
void check_product(DType type, bool by_key, int depth = 64, bool in_f16 = false) {
  INFO(to_string(type) << (by_key ? ", B by k" : ", B by column") << ", depth " << depth);
  const auto row_bytes = [&](int elements) { return elements * bits(type) / 8; };
  const int b_rows = by_key ? depth : kN, b_columns = by_key ? kN : depth;
  std::vector<std::uint8_t> in;
  const auto append = [&](int rows, int columns, const auto& value) {
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < columns; ++column) {
        const std::uint16_t code = bits_of(type, value(row, column));
        if (type == DType::s4 && column % 2 == 1) {
          in.back() = static_cast<std::uint8_t>(in.back() | code << 4);
          continue;
        }
        in.push_back(static_cast<std::uint8_t>(code));
        if (bits(type) == 16) in.push_back(static_cast<std::uint8_t>(code >> 8));
      }
    }
  };
  append(kM, depth, [](int row, int column) { return element(row, column, 1); });
  append(b_rows, b_columns, [&](int row, int column) {
    return by_key ? element(row, column, 5) : element(column, row, 5);
  });

  const auto out = run<std::int32_t>(in, kM * kN, 64, [&](KernelBuilder& k, const Buffers& at) {
    const TileLayout a_layout{kM, row_bytes(depth), OperandA::kPanelBytes, type};
    const TileLayout b_layout = OperandB::layout(type, b_rows, row_bytes(b_columns));
    const SharedTile a{a_layout, k.shared(a_layout.bytes(), kBankBytes)};
    const SharedTile b{b_layout, k.shared(b_layout.bytes(), kBankBytes)};
    copy_tile_async(k, a, {at.in, k.i64(a_layout.row_bytes)}, k.thread_idx(), 64);
    TileSource b_source{at.in + a_layout.bytes(), k.i64(b_layout.row_bytes)};
    b_source.data = thread_source(k, b_layout, b_source, k.thread_idx());
    b_source.of_thread = true;
    copy_tile_async(k, b, b_source, k.thread_idx(), 64);
    k.cp_async_commit();
    k.cp_async_wait(0);
    k.barrier();

    const OperandA rows(k, a.rows_from(k.warp_idx() * 16));
    Accumulator sum(16, kN, k.i32(0));
    HalfAccumulator half_sum(k, 16, kN);
    const int steps = row_bytes(depth) / 32;
    for (int pair = 0; pair < kN / 16; ++pair) {
      for (int step = 0; step < steps; ++step) {
        const auto columns =
            by_key ? OperandV(k, type, b_layout).load(b, pair)[static_cast<std::size_t>(step)]
                   : OperandB(k, b_layout).load(b, pair, step);
        for (int half = 0; half < 2; ++half) {
          const MmaB& column = columns[static_cast<std::size_t>(half)];
          if (in_f16) {
            const Mma kind = type == DType::e4m3 ? Mma::e4m3 : Mma::f16;
            multiply_add(k, kind, {rows.load(0, step)}, column, half_sum, 2 * pair + half);
            continue;
          }
          MmaC& c = sum.block(0, 2 * pair + half);
          c = k.mma(rows.load(0, step), column, c);
        }
      }
    }
    if (in_f16) sum = half_sum.to_f32(k);
    const LanePosition lane(k.thread_idx());
    for (int row = 0; row < sum.lane_rows(); ++row) {
      for (int column = 0; column < sum.lane_columns(); ++column) {
        const I32 r = k.warp_idx() * 16 + lane.row + Accumulator::tile_row(row);
        const I32 c = lane.quad * 2 + Accumulator::tile_column(column);
        k.store(at.out + (r * kN + c) * 4, sum.at(row, column));
      }
    }
  });
  for (int row = 0; row < kM; ++row) {
    for (int column = 0; column < kN; ++column) {
      int expected = 0;
      for (int i = 0; i < depth; ++i) expected += element(row, i, 1) * element(i, column, 5);
      const std::int32_t got = out[static_cast<std::size_t>(row * kN + column)];
      INFO(row << ", " << column);
      if (type == DType::s8 || type == DType::s4) {
        CHECK(got == expected);
      } else {
        CHECK(std::bit_cast<float>(got) == static_cast<float>(expected));
      }
    }
  }
}

TEST_CASE("products of matrices from tiles, of every type that mma takes") {
  for (const DType type : {DType::s8, DType::e4m3, DType::f16, DType::bf16}) {
    check_product(type, /*by_key=*/false);
  }
  for (const DType type : {DType::f16, DType::bf16}) check_product(type, /*by_key=*/true);
  // Rows of 32 bytes, which are one panel of B, and of 64.
  check_product(DType::s8, /*by_key=*/false, 32);
  check_product(DType::s4, /*by_key=*/false, 64);
  check_product(DType::s4, /*by_key=*/false, 128);
  // Sums of small whole numbers are numbers of f16.
  for (const DType type : {DType::e4m3, DType::f16})
    check_product(type, /*by_key=*/false, 64, /*in_f16=*/true);
  check_product(DType::f16, /*by_key=*/true, 64, /*in_f16=*/true);
}

TEST_CASE("rows of a tile come from anywhere, and go anywhere") {
  constexpr int kRows = 32, kRowBytes = 64, kThere = 29, kThreads = 64;
  const std::vector<std::int32_t> in = words(kRows * kRowBytes / 4);
  const auto out =
      run<std::int32_t>(in, in.size(), kThreads, [&](KernelBuilder& k, const Buffers& at) {
        const TileLayout layout{kRows, kRowBytes, 32};
        const SharedTile tile{layout, k.shared(layout.bytes(), kBankBytes)};
        TileSource from{at.in, {}};
        from.row_offset = [&](I32 row) { return k.to_i64((row * 5 + 3) % kRows * kRowBytes); };
        copy_rows_async(k, tile, from, k.thread_idx(), kThreads, k.i32(kThere));
        k.cp_async_commit();
        k.cp_async_wait(0);
        k.barrier();
        store_tile(
            k, tile, k.thread_idx(), kThreads, at.out,
            [&](I32 row) { return k.to_i64((31 - row) * kRowBytes); }, k.i32(kRows));
      });
  for (int row = 0; row < kRows; ++row) {
    for (int word = 0; word < kRowBytes / 4; ++word) {
      const std::size_t from =
          static_cast<std::size_t>((row * 5 + 3) % kRows * kRowBytes / 4 + word);
      const std::size_t to = static_cast<std::size_t>((kRows - 1 - row) * kRowBytes / 4 + word);
      CHECK(out[to] == (row < kThere ? in[from] : 0));
    }
  }
}

}  // namespace
}  // namespace sagegen::golden
