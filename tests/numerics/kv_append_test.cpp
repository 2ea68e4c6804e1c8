// New keys and values in the pages of a low-bit cache (templates/kv_append): every byte of a pool against a model of what is
// promised, what the formats lose, and what is refused.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "templates/kv_append/params.h"
#include "templates/kv_append/plan.h"
#include "tests/emulator/ptx_edit.h"
#include "tests/numerics/kv_append_model.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace append = sagegen::kv_append;
using append::Addressing;
using append::Rope;
using append::Spec;
using Catch::Matchers::Contains;
using emulator::test::PtxEdit;

namespace {

constexpr std::array kBits{2, 4, 8, 16};

struct Case {
  Spec spec = {};
  std::int64_t tokens = 19, heads = 2;
  int page_tokens = 16;
  KvPageLayout layout = KvPageLayout::hnd;
  std::int64_t gap = 0;     // elements behind each row of K
  std::int64_t rotary = 0;  // 0: all channels
  int sm = 80;              // that executes it
  rt::EmulatorOptions emulator = {};
  std::function<void(PtxEdit&)> edit = {};  // of the kernel's PTX

  Kernel kernel() const { return Kernel(append::family(), spec, Target{.sm = sm == 90 ? 80 : sm}); }
  KvFormat format() const {
    return {.head_dim = spec.head_dim,
            .io = spec.io,
            .k_bits = spec.k_bits,
            .v_bits = spec.v_bits,
            .page_tokens = page_tokens,
            .layout = layout};
  }
  std::int64_t rotated() const { return rotary == 0 ? spec.head_dim : rotary; }
  std::string text() const {
    return fmt::format("{}, {} tokens, {} heads, pages of {} {}, gap {}, rotary {}, seed {}",
                       kernel().key(), tokens, heads, page_tokens, to_string(layout), gap, rotary,
                       emulator.seed);
  }
};

// What a call is given, in the order [token, head, channel]; places: page * page_tokens + place, or -1.
struct Input {
  std::vector<std::uint16_t> k, v;
  std::vector<std::int64_t> places;
  std::int64_t pages = 0;
  std::vector<std::int32_t> append_indptr, page_indptr, page_indices, last_page_len;
  std::vector<std::int64_t> positions;
  std::vector<float> cos, sin, mean;
};

Artifact emitted(const Kernel& kernel) {
  static std::map<std::string, Artifact> made;
  Artifact& artifact = made[kernel.key()];
  if (artifact.code.empty()) artifact = emit(kernel);
  return artifact;
}

rt::Device device_of(const Case& c) {
  int ordinal = 0;
  while (to_string(static_cast<rt::EmulatorProfile>(ordinal)) != "sm_" + std::to_string(c.sm))
    ++ordinal;
  return {rt::make_emulator(c.emulator), ordinal};
}

// ---- inputs ----------------------------------------------------------------------------------------

// Rows of all kinds, in turn: what each has of channels.
using Channel = std::function<double(std::mt19937_64&, int channel)>;
const std::vector<Channel>& kinds_of_rows() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  static const auto normal = [](std::mt19937_64& random) {
    return std::normal_distribution<double>()(random);
  };
  static const std::vector<Channel> kinds{
      [](auto& random, int) { return normal(random); },
      [](auto& random, int c) { return normal(random) * (c % 31 == 3 ? 20 : 1); },
      [](auto& random, int) { return 100 + normal(random); },  // a zero point above 0
      [](auto& random, int) { return -3 + 0.01 * normal(random); },
      [](auto&, int) { return 0.0; },
      [](auto&, int c) { return c % 3 == 0 ? -0.0 : 0.0; },
      [](auto&, int) { return 0.7373; },
      [](auto&, int) { return -1e-6; },
      [](auto& random, int) { return 1e-7 * normal(random); },  // scales that f16 does not have
      [](auto& random, int) { return 3e-5 * normal(random); },  // nor as normal numbers
      [](auto& random, int) { return 1e-39 * normal(random); },
      [](auto& random, int c) { return c == 5 ? std::nan("") : normal(random); },
      [](auto&, int) { return std::nan(""); },
      [](auto& random, int c) { return c == 2 ? kInfinity : normal(random); },
      [](auto& random, int c) { return c == 7   ? -kInfinity
                                       : c == 8 ? kInfinity
                                                : normal(random); },
      [](auto&, int) { return kInfinity; },
      [](auto&, int c) { return c % 2 == 0 ? -65504.0 : 65504.0; },
      [](auto& random, int) { return 1e30 * normal(random); },
      [](auto&, int c) { return 0.5 * (c % 16); },  // codes of 4 bits half-way, but for the scale
      [](auto& random, int c) { return c == 0 ? 7.0 : 0.001 * normal(random); },
  };
  return kinds;
}

bool is_finite_kind(std::size_t kind) { return kind < 11 || kind >= 18; }

std::vector<std::uint16_t> rows_of(const Case& c, bool only_finite, std::mt19937_64& random) {
  std::vector<std::uint16_t> bits;
  for (std::int64_t row = 0; row < c.tokens * c.heads; ++row) {
    std::size_t kind = random() % kinds_of_rows().size();
    while (only_finite && !is_finite_kind(kind)) kind = random() % kinds_of_rows().size();
    for (int channel = 0; channel < c.spec.head_dim; ++channel)
      bits.push_back(test::kv_bits_of(c.spec.io, kinds_of_rows()[kind](random, channel)));
  }
  return bits;
}

// Sequences, of which some get no token, with pages anywhere in the pool.
void place_in_sequences(const Case& c, Input& input, std::mt19937_64& random) {
  constexpr std::int64_t kSequences = 4;
  std::vector<std::int64_t> appended(kSequences);
  for (std::int64_t token = 0; token + 1 < c.tokens; ++token)  // the last one is of no sequence
    ++appended[std::array{0, 2, 2, 3}[random() % 4]];
  input.append_indptr = {0};
  input.page_indptr = {0};
  std::vector<std::int64_t> lengths;
  for (const std::int64_t added : appended) {
    const std::int64_t length = added + static_cast<std::int64_t>(random() % 40);
    const std::int64_t pages = (length + c.page_tokens - 1) / c.page_tokens;
    lengths.push_back(length);
    input.append_indptr.push_back(static_cast<std::int32_t>(input.append_indptr.back() + added));
    input.page_indptr.push_back(static_cast<std::int32_t>(input.page_indptr.back() + pages));
    input.last_page_len.push_back(
        pages == 0 ? 0 : static_cast<std::int32_t>(length - (pages - 1) * c.page_tokens));
  }
  input.pages = input.page_indptr.back() + 2;
  std::vector<std::int32_t> pages(static_cast<std::size_t>(input.pages));
  std::iota(pages.begin(), pages.end(), 0);
  std::ranges::shuffle(pages, random);
  input.page_indices.assign(pages.begin(), pages.begin() + input.page_indptr.back());
  for (std::size_t s = 0; s < kSequences; ++s) {
    for (std::int64_t i = 0; i < appended[s]; ++i) {
      const std::int64_t position = lengths[s] - appended[s] + i;
      const auto entry = static_cast<std::size_t>(input.page_indptr[s] + position / c.page_tokens);
      input.places.push_back(std::int64_t{input.page_indices[entry]} * c.page_tokens +
                             position % c.page_tokens);
    }
  }
  input.places.push_back(-1);
}

void place_in_slots(const Case& c, Input& input, std::mt19937_64& random) {
  input.pages = (c.tokens + c.page_tokens - 1) / c.page_tokens + 1;
  std::vector<std::int64_t> slots(static_cast<std::size_t>(input.pages * c.page_tokens));
  std::iota(slots.begin(), slots.end(), std::int64_t{0});
  std::ranges::shuffle(slots, random);
  input.places.assign(slots.begin(), slots.begin() + c.tokens);
  for (std::size_t i = 4; i < input.places.size(); i += 7) input.places[i] = -1;
}

Input input_for(const Case& c, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Input input;
  // NaN that arithmetic makes has no bits of its own: where they are stored as 16 bits there are none.
  const bool finite = !kv_quantized(c.spec.k_bits) && append::transforms_k(c.spec);
  input.k = rows_of(c, finite, random);
  input.v = rows_of(c, false, random);
  if (c.spec.addressing == Addressing::slots)
    place_in_slots(c, input, random);
  else
    place_in_sequences(c, input, random);
  constexpr std::int64_t kPositions = 50;
  for (std::int64_t i = 0; i < c.tokens; ++i)
    input.positions.push_back(static_cast<std::int64_t>(random() % kPositions));
  const std::int64_t angles = c.spec.rope == Rope::none ? 0 : c.rotated() / 2;
  for (std::int64_t i = 0; i < kPositions * angles; ++i) {
    const double angle =
        static_cast<double>(i / angles) *
        std::pow(100.0, -static_cast<double>(i % angles) / static_cast<double>(angles));
    input.cos.push_back(static_cast<float>(std::cos(angle)));
    input.sin.push_back(static_cast<float>(std::sin(angle)));
  }
  for (std::int64_t i = 0; i < c.heads * c.spec.head_dim; ++i) input.mean.push_back(normal(random));
  return input;
}

// ---- a call ----------------------------------------------------------------------------------------

template <typename T>
rt::Buffer upload(const rt::Device& device, const std::vector<T>& values) {
  rt::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

struct Tensor {
  rt::Buffer memory;
  rt::TensorView view;
};

// Rows [token, head] with a gap behind each.
Tensor place(const rt::Device& device, const Case& c, const std::vector<std::uint16_t>& rows,
             std::int64_t gap) {
  const std::int64_t width = c.spec.head_dim + gap;
  std::vector<std::uint16_t> placed(static_cast<std::size_t>(c.tokens * c.heads * width), 0x7FFF);
  for (std::int64_t row = 0; row < c.tokens * c.heads; ++row) {
    std::copy_n(rows.begin() + row * c.spec.head_dim, c.spec.head_dim,
                placed.begin() + row * width);
  }
  Tensor tensor{.memory = upload(device, placed), .view = {}};
  tensor.view = rt::nhd(tensor.memory.data(), c.heads, c.tokens, static_cast<int>(width));
  return tensor;
}

std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

std::size_t pool_bytes(const Case& c, const Input& input) {
  return static_cast<std::size_t>(input.pages *
                                  kv_strides(c.format(), static_cast<int>(c.heads)).page);
}

// The pool behind a call on it.
std::vector<std::byte> appended(const Case& c, const Input& input,
                                const std::vector<std::byte>& before) {
  const rt::Device device = device_of(c);
  const append::Plan plan(device, c.kernel(), [&c](const Kernel& kernel) {
    Artifact artifact = emitted(kernel);
    if (!c.edit) return artifact;
    PtxEdit text(artifact.code);
    c.edit(text);
    artifact.code = text.text();
    return artifact;
  });
  const Tensor k = place(device, c, input.k, c.gap), v = place(device, c, input.v, 0);
  rt::Buffer pool = upload(device, before);
  const rt::Buffer slots = upload(device, input.places),
                   append_indptr = upload(device, input.append_indptr),
                   page_indptr = upload(device, input.page_indptr),
                   page_indices = upload(device, input.page_indices),
                   last_page_len = upload(device, input.last_page_len),
                   positions = upload(device, input.positions), cos = upload(device, input.cos),
                   sin = upload(device, input.sin), mean = upload(device, input.mean);
  append::Arguments arguments{.k = k.view,
                              .v = v.view,
                              .pool = {.data = pool.data(),
                                       .pages = input.pages,
                                       .page_tokens = c.page_tokens,
                                       .layout = c.layout}};
  if (c.spec.addressing == Addressing::slots) {
    arguments.slots = slots.data();
  } else {
    arguments.pages = {.sequences = static_cast<std::int64_t>(input.last_page_len.size()),
                       .append_indptr = append_indptr.data(),
                       .page_indptr = page_indptr.data(),
                       .page_indices = page_indices.data(),
                       .last_page_len = last_page_len.data(),
                       .page_entries = static_cast<std::int64_t>(input.page_indices.size())};
  }
  if (c.spec.rope != Rope::none) {
    arguments.rope = {.positions = positions.data(),
                      .cos = cos.data(),
                      .sin = sin.data(),
                      .table_rows = static_cast<std::int64_t>(input.cos.size()) / (c.rotated() / 2),
                      .rotary = c.rotary};
  }
  if (c.spec.smooth_k) arguments.k_mean = mean.data();
  const rt::Stream stream(device);
  plan.run({.tokens = c.tokens, .kv_heads = c.heads}, arguments, stream.handle());
  stream.synchronize();
  std::vector<std::byte> after(pool.bytes());
  pool.download(after);
  return after;
}

// Of a place and a head.
std::span<std::byte> block_at(const Case& c, std::vector<std::byte>& pool, std::int64_t place,
                              std::int64_t head) {
  const KvStrides strides = kv_strides(c.format(), static_cast<int>(c.heads));
  const std::int64_t at = place / c.page_tokens * strides.page + head * strides.head +
                          place % c.page_tokens / kKvBlockTokens * strides.block;
  return std::span(pool).subspan(static_cast<std::size_t>(at),
                                 static_cast<std::size_t>(append::block_of(c.spec).bytes()));
}

test::KvAngles angles_of(const Case& c, const Input& input, std::int64_t token) {
  if (c.spec.rope == Rope::none) return {};
  const auto half = static_cast<std::size_t>(c.rotated() / 2);
  const auto row =
      static_cast<std::size_t>(input.positions[static_cast<std::size_t>(token)]) * half;
  return {std::span(input.cos).subspan(row, half), std::span(input.sin).subspan(row, half)};
}

template <typename T>
std::span<const T> row_at(const Case& c, const std::vector<T>& rows, std::int64_t row) {
  const auto width = static_cast<std::size_t>(c.spec.head_dim);
  return std::span<const T>(rows).subspan(static_cast<std::size_t>(row) * width, width);
}

std::vector<std::byte> modelled(const Case& c, const Input& input, std::vector<std::byte> pool) {
  for (std::int64_t token = 0; token < c.tokens; ++token) {
    const std::int64_t place = input.places[static_cast<std::size_t>(token)];
    if (place < 0) continue;
    for (std::int64_t head = 0; head < c.heads; ++head) {
      const std::int64_t row = token * c.heads + head;
      test::store_token(c.spec, block_at(c, pool, place, head),
                        static_cast<int>(place % kKvBlockTokens), row_at(c, input.k, row),
                        row_at(c, input.v, row), angles_of(c, input, token),
                        row_at(c, input.mean, head));
    }
  }
  return pool;
}

// Bytes that differ, with where the first of them is.
std::string difference(const std::vector<std::byte>& got, const std::vector<std::byte>& expected) {
  if (got == expected) return "";
  std::size_t count = 0, first = got.size();
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i]) continue;
    first = std::min(first, i);
    ++count;
  }
  return fmt::format("{} of {} bytes, the first is byte {}: {:#x}, not {:#x}", count, got.size(),
                     first, std::to_integer<int>(got[first]),
                     std::to_integer<int>(expected[first]));
}

void check(const Case& c, std::uint64_t seed) {
  INFO(c.text() << ", inputs " << seed);
  const Input input = input_for(c, seed);
  const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), seed);
  CHECK(difference(appended(c, input, before), modelled(c, input, before)) == "");
}

}  // namespace

namespace {

// All pairs of bits with all kinds of pages, or each pair with some of them.
void check_pairs(std::uint64_t seed, bool all_pages) {
  const std::array<int, 4> page_sizes{16, 48, 64, 528};
  for (const int head_dim : {64, 128}) {
    for (const int k_bits : kBits) {
      for (const int v_bits : kBits) {
        for (std::size_t way = 0; way < 4 * page_sizes.size(); ++way) {
          ++seed;
          if (!all_pages && seed % 8 != 0) continue;
          Case c{.spec = {.head_dim = head_dim,
                          .io = seed % 3 == 0 ? DType::bf16 : DType::f16,
                          .k_bits = k_bits,
                          .v_bits = v_bits,
                          .addressing = way % 2 == 0 ? Addressing::slots : Addressing::pages}};
          c.tokens = 7 + static_cast<std::int64_t>(seed % 13);
          c.heads = 1 + static_cast<std::int64_t>(seed % 3);
          c.page_tokens = page_sizes[way / 4];
          c.layout = way / 2 % 2 == 0 ? KvPageLayout::hnd : KvPageLayout::nhd;
          c.gap = seed % 5 == 0 ? 8 : 0;
          c.sm = std::array{80, 89, 90, 120}[seed / 8 % 4];
          c.emulator = {.schedule = rt::SchedulePolicy::random, .seed = seed};
          check(c, seed);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("every byte of a pool is what it is to be: all pairs of bits", "[fast]") {
  check_pairs(Catch::rngSeed() + 8, false);
}
TEST_CASE("every byte of a pool is what it is to be: all pairs of bits, pages and places",
          "[full]") {
  check_pairs(Catch::rngSeed(), true);
}

TEST_CASE("every byte is what it is to be: transforms of K", "[full]") {
  std::uint64_t seed = Catch::rngSeed() + 1000;
  for (const int head_dim : {64, 80, 128, 256}) {
    for (const int k_bits : kBits) {
      for (const Rope rope : {Rope::none, Rope::neox, Rope::interleaved}) {
        for (const bool smooth_k : {false, true}) {
          for (const Rotation rotation : {Rotation::none, Rotation::hadamard}) {
            ++seed;
            Case c{.spec = {.head_dim = head_dim,
                            .io = seed % 3 == 0 ? DType::bf16 : DType::f16,
                            .k_bits = k_bits,
                            .v_bits = kBits[seed % 4],
                            .rope = rope,
                            .smooth_k = smooth_k,
                            .rotation = rotation,
                            .addressing = seed % 2 == 0 ? Addressing::slots : Addressing::pages}};
            c.heads = 1 + static_cast<std::int64_t>(seed % 3);
            c.page_tokens = seed % 3 == 1 ? 16 : 48;
            c.rotary = seed % 2 == 0 ? 0 : append::rotary_step(head_dim) * (1 + seed % 4);
            c.sm = std::array{80, 89, 90, 120}[seed % 4];
            check(c, seed);
          }
        }
      }
    }
  }
}

// Codes have 64, 128 or 256 channels, and rows any number of elements.
TEST_CASE("every byte is what it is to be: heads of any number of channels", "[fast]") {
  std::uint64_t seed = Catch::rngSeed() + 2000;
  for (const int head_dim :
       {1, 2, 3, 8, 20, 63, 65, 66, 72, 80, 96, 100, 127, 129, 130, 192, 252, 255, 256}) {
    for (int i = 0; i < 4; ++i) {
      ++seed;
      Case c{.spec = {.head_dim = head_dim,
                      .io = seed % 2 == 0 ? DType::bf16 : DType::f16,
                      .k_bits = kBits[seed % 4],
                      .v_bits = kBits[(seed / 4 + seed) % 4]}};
      const int step = append::rotary_step(head_dim);
      if (head_dim >= step && i % 2 == 0) {
        c.spec.rope = i == 0 ? Rope::neox : Rope::interleaved;
        c.rotary = head_dim / step * step;
      }
      c.spec.smooth_k = i != 1;
      if (head_dim % 2 == 0 && i >= 2) c.spec.rotation = Rotation::hadamard;
      c.gap = i == 3 ? append::elements_at_once(head_dim) : 0;
      check(c, seed);
    }
  }
}

TEST_CASE("one token, and many heads or tokens", "[fast]") {
  for (const int head_dim : {64, 128, 256}) {
    Case c{.spec = {.head_dim = head_dim, .k_bits = 4, .v_bits = 4}, .tokens = 1, .heads = 1};
    check(c, 1);
    c.heads = 37;
    check(c, 2);
    c.tokens = 300;
    c.heads = 1;
    c.spec.addressing = Addressing::pages;
    check(c, 3);
  }
}

// ---- what the formats lose -------------------------------------------------------------------------

namespace {

// Tokens of one head, one after the other, with rows that are what `value` says.
struct Stored {
  Case c;
  Input input;
  std::vector<std::byte> pool;

  test::KvCodes key(std::int64_t token) {
    return test::stored_key(append::block_of(c.spec), block_at(c, pool, token, 0),
                            static_cast<int>(token % kKvBlockTokens));
  }
  test::KvCodes value(std::int64_t token) {
    return test::stored_value(append::block_of(c.spec), block_at(c, pool, token, 0),
                              static_cast<int>(token % kKvBlockTokens));
  }
  std::vector<float> k(std::int64_t token) const {
    return test::kv_values(c.spec.io, row_at(c, input.k, token));
  }
  std::vector<float> v(std::int64_t token) const {
    return test::kv_values(c.spec.io, row_at(c, input.v, token));
  }
};

Stored stored(const Spec& spec, std::int64_t tokens,
              const std::function<double(std::int64_t token, int channel)>& value) {
  Stored result{.c = {.spec = spec, .tokens = tokens, .heads = 1, .page_tokens = 16},
                .input = {},
                .pool = {}};
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (int channel = 0; channel < spec.head_dim; ++channel)
      result.input.k.push_back(test::kv_bits_of(spec.io, value(token, channel)));
    result.input.places.push_back(token);
  }
  result.input.v = result.input.k;
  result.input.pages = (tokens + 15) / 16;
  result.pool =
      appended(result.c, result.input, random_bytes(pool_bytes(result.c, result.input), 1));
  return result;
}

struct Loss {
  double square = 0, of_square = 0, steps = 0;  // steps: the largest, of s
  double relative() const { return square / of_square; }
};

void add_loss(Loss& loss, const std::vector<double>& exact, const test::KvCodes& codes) {
  const std::vector<double> got = test::restored(codes, static_cast<int>(exact.size()));
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double difference = got[i] - exact[i];
    loss.square += difference * difference;
    loss.of_square += exact[i] * exact[i];
    loss.steps = std::max(loss.steps, std::abs(difference) / codes.s);
  }
}

std::function<double(std::int64_t, int)> normal_rows(double outlier) {
  return [outlier, random = std::mt19937_64(5), normal = std::normal_distribution<double>()](
             std::int64_t, int channel) mutable {
    return normal(random) * (channel % 32 == 7 ? outlier : 1);
  };
}

std::vector<double> as_double(const std::vector<float>& row) { return {row.begin(), row.end()}; }

// The same by a matrix, in double precision.
std::vector<double> rotated(const std::vector<float>& row) {
  std::vector<double> result(row.size());
  for (std::size_t i = 0; i < row.size(); ++i) {
    for (std::size_t j = 0; j < row.size(); ++j)
      result[i] += (std::popcount(i & j) % 2 == 0 ? 1 : -1) * static_cast<double>(row[j]);
    result[i] /= std::sqrt(static_cast<double>(row.size()));
  }
  return result;
}

}  // namespace

// The figures of 400 rows of 128 normal numbers: mean squared errors of the quantizer itself, and no more than half a step.
TEST_CASE("codes lose what uniform quantizers of so many bits lose", "[fast]") {
  struct Figure {
    int bits;
    double relative;
  };
  for (const Figure& figure : {Figure{8, 3.4e-5}, Figure{4, 9.9e-3}, Figure{2, 2.5e-1}}) {
    INFO(figure.bits << " bits");
    Stored s = stored({.k_bits = figure.bits, .v_bits = figure.bits}, 400, normal_rows(1));
    Loss k, v;
    for (std::int64_t token = 0; token < 400; ++token) {
      add_loss(k, as_double(s.k(token)), s.key(token));
      add_loss(v, as_double(s.v(token)), s.value(token));
    }
    CHECK(k.relative() == Approx(figure.relative).epsilon(0.05));
    CHECK(v.relative() == k.relative());
    CHECK(k.steps <=
          0.5 + 0x1p-10 * (1 << figure.bits));  // and z is rounded by 2^-11 of a few units
  }
}

// 4 of 128 channels 20 times as large as the others: rotated, rows lose what rows of normal numbers lose.
TEST_CASE("a Hadamard matrix makes rows with outliers as good as others", "[fast]") {
  Stored plain = stored({.k_bits = 4, .v_bits = 4}, 400, normal_rows(20));
  Stored turned =
      stored({.k_bits = 4, .v_bits = 4, .rotation = Rotation::hadamard}, 400, normal_rows(20));
  Loss of_plain, of_turned;
  for (std::int64_t token = 0; token < 400; ++token) {
    add_loss(of_plain, as_double(plain.k(token)), plain.key(token));
    add_loss(of_turned, rotated(turned.k(token)), turned.key(token));
    CHECK(turned.value(token).codes == plain.value(token).codes);  // V is not rotated
  }
  CHECK(of_turned.of_square == Approx(of_plain.of_square).epsilon(1e-9));  // norms stay
  CHECK(of_plain.relative() > 5 * of_turned.relative());
  Stored in_two = stored({.k_bits = 2, .v_bits = 2}, 400, normal_rows(20));
  Loss of_two;
  for (std::int64_t token = 0; token < 400; ++token)
    add_loss(of_two, as_double(in_two.k(token)), in_two.key(token));
  CHECK(of_two.relative() > 1);  // such keys are none
}

TEST_CASE("what rows of special numbers come back as", "[fast]") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const int bits : {2, 4, 8}) {
    const auto value_of = [&](const std::function<double(int)>& row, DType io = DType::f16) {
      Stored s = stored({.head_dim = 64, .io = io, .k_bits = bits, .v_bits = bits}, 1,
                        [&](std::int64_t, int channel) { return row(channel); });
      const test::KvCodes codes = s.value(0);
      CHECK(s.key(0).codes == codes.codes);
      return test::restored(codes, 64);
    };
    const auto all = [](const std::vector<double>& row, double value) {
      return std::ranges::all_of(row, [&](double x) { return x == value; });
    };
    CHECK(all(value_of([](int) { return 0.0; }), 0));
    CHECK(all(value_of([](int) { return 1.25; }), 1.25));
    CHECK(all(value_of([](int) { return -3e-5; }), -0x1.f7p-16));  // as f16 has it
    CHECK(all(value_of([](int) { return std::nan(""); }), 0));
    CHECK(all(value_of([](int) { return kInfinity; }), 65504));
    CHECK(all(value_of([](int) { return -1e30; }, DType::bf16), -65504));
    // One of a row that is none leaves the others as they are.
    const std::vector<double> with_nan = value_of([](int c) {
      return c == 9 ? std::nan("") : c % 2 == 0 ? -1.0 : 1.0;
    });
    for (std::size_t c = 0; c < 64; ++c) {
      // The ends are codes: as far away as all of them by a scale that is rounded up.
      const double limit = c == 9 ? 1.001 / ((1 << bits) - 1) : 0x1p-9;
      CHECK(std::abs(with_nan[c] - (c == 9 ? 0 : c % 2 == 0 ? -1 : 1)) <= limit);
    }
    const std::vector<double> with_infinity =
        value_of([](int c) { return c == 9 ? kInfinity : 0.0; });
    CHECK(with_infinity[9] == Approx(65504).epsilon(0.001));
    CHECK(with_infinity[10] == 0);
    // All above 0: the zero point is one of them.
    const std::vector<double> above = value_of([](int c) { return 16 + c / 64.0; });
    for (std::size_t c = 0; c < 64; ++c)
      CHECK(std::abs(above[c] - (16 + static_cast<double>(c) / 64)) <=
            0.5 / ((1 << bits) - 1) * 1.001);
    // Steps that f16 does not have: nothing is farther away than the row is wide.
    for (const double width : {1e-8, 1e-7, 1e-6, 1e-5}) {
      const std::vector<double> narrow =
          value_of([&](int c) { return c % 2 == 0 ? 0.0 : width; }, DType::bf16);
      const double wide =
          test::kv_values(DType::bf16, std::array{test::kv_bits_of(DType::bf16, width)})[0];
      const double limit = std::min(wide, 0x1p-24 * ((1 << bits) - 1));
      for (std::size_t c = 0; c < 64; ++c)
        CHECK(std::abs(narrow[c] - (c % 2 == 0 ? 0 : wide)) <= limit * 1.001);
    }
  }
}

// Against double precision; stored in 16 bits, nothing else is between.
TEST_CASE("keys are embedded, smoothed and rotated in this order", "[fast]") {
  for (const Rope rope : {Rope::neox, Rope::interleaved}) {
    Case c{.spec = {.head_dim = 128,
                    .k_bits = 16,
                    .v_bits = 16,
                    .rope = rope,
                    .smooth_k = true,
                    .rotation = Rotation::hadamard},
           .tokens = 8,
           .heads = 2,
           .rotary = 64};
    Input input = input_for(c, 11);
    auto random = normal_rows(1);
    for (std::uint16_t& bits : input.k) bits = test::kv_bits_of(DType::f16, random(0, 0));
    std::vector<std::byte> pool = appended(c, input, random_bytes(pool_bytes(c, input), 1));
    for (std::int64_t token = 0; token < c.tokens; ++token) {
      const std::int64_t at = input.places[static_cast<std::size_t>(token)];
      for (std::int64_t head = 0; at >= 0 && head < 2; ++head) {
        const std::vector<float> k =
            test::kv_values(DType::f16, row_at(c, input.k, token * 2 + head));
        std::vector<float> expected = k;
        for (std::size_t i = 0; i < 32; ++i) {
          const auto row =
              static_cast<std::size_t>(input.positions[static_cast<std::size_t>(token)]);
          const double cos = input.cos[row * 32 + i], sin = input.sin[row * 32 + i];
          const std::size_t a = rope == Rope::neox ? i : 2 * i,
                            b = rope == Rope::neox ? i + 32 : 2 * i + 1;
          expected[a] = static_cast<float>(k[a] * cos - k[b] * sin);
          expected[b] = static_cast<float>(k[b] * cos + k[a] * sin);
        }
        for (std::size_t i = 0; i < 128; ++i)
          expected[i] -= input.mean[static_cast<std::size_t>(head) * 128 + i];
        const std::vector<double> turned = rotated(expected);
        const KvBlock block = append::block_of(c.spec);
        const std::span<const std::byte> bytes = block_at(c, pool, at, head);
        for (int i = 0; i < 128; ++i) {
          const auto byte = [&](int b) {
            return std::to_integer<unsigned>(bytes[static_cast<std::size_t>(
                block.k_byte(static_cast<int>(at % 16), 2 * i + b))]);
          };
          const double got = test::kv_values(
              DType::f16, std::array{static_cast<std::uint16_t>(byte(0) | byte(1) << 8)})[0];
          CHECK(std::abs(got - turned[static_cast<std::size_t>(i)]) <=
                0x1p-11 * std::abs(got) + 1e-5);
        }
      }
    }
  }
}

// A call with two pools that have no byte in common: what is equal behind it is what it wrote.
TEST_CASE("a token of a layer takes the bytes that its format is to have", "[fast]") {
  struct Row {
    int k, v, bytes;
  };
  for (const Row& row : {Row{16, 16, 4096}, Row{8, 8, 2112}, Row{8, 4, 1600}, Row{4, 8, 1600},
                         Row{4, 4, 1088}, Row{4, 2, 832}, Row{2, 2, 576}}) {
    Case c{.spec = {.k_bits = row.k, .v_bits = row.v}, .tokens = 3, .heads = 8};
    Input input = input_for(c, 3);
    input.places = {5, 17, 18};
    const std::size_t bytes = pool_bytes(c, input);
    const std::vector<std::byte> low = appended(c, input, std::vector(bytes, std::byte{0x5A})),
                                 high = appended(c, input, std::vector(bytes, std::byte{0xA5}));
    std::int64_t equal = 0;
    for (std::size_t i = 0; i < bytes; ++i) equal += low[i] == high[i] ? 1 : 0;
    INFO("K" << row.k << "V" << row.v);
    CHECK(equal == 3 * row.bytes);
    CHECK(equal == 3 * 8 * kv_token_bytes(c.format()));
  }
}

// A prompt in parts, and tokens one by one: the same bytes, in whatever order the warps run.
TEST_CASE("tokens of one call or of many leave the same bytes", "[fast]") {
  Case c{.spec = {.head_dim = 64, .k_bits = 4, .v_bits = 2}, .tokens = 40, .heads = 3};
  const Input input = input_for(c, 21);
  const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), 2);
  const std::vector<std::byte> at_once = appended(c, input, before);
  std::vector<std::byte> in_parts = before;
  const std::size_t width = 3 * 64;
  std::size_t first = 0;
  for (const std::size_t count : {1u, 1u, 17u, 5u, 16u}) {
    Case part = c;
    part.tokens = static_cast<std::int64_t>(count);
    part.emulator = {.schedule = rt::SchedulePolicy::reverse};
    Input of_part = input;
    const auto cut = [&](auto& rows, std::size_t wide) {
      rows = {rows.begin() + static_cast<std::ptrdiff_t>(first * wide),
              rows.begin() + static_cast<std::ptrdiff_t>((first + count) * wide)};
    };
    cut(of_part.k, width);
    cut(of_part.v, width);
    cut(of_part.places, 1);
    in_parts = appended(part, of_part, in_parts);
    first += count;
  }
  CHECK(first == 40);
  CHECK(difference(in_parts, at_once) == "");
}

// ---- places ----------------------------------------------------------------------------------------

// Beyond 4 GB from page to page, from head to head and from block to block; only what is touched is there.
TEST_CASE("pools may be as large as memory is", "[fast]") {
  constexpr std::int64_t kFar = (std::int64_t{1} << 32) + 64;  // in two steps of pages and blocks
  Case c{.spec = {.k_bits = 4, .v_bits = 4}, .tokens = 4, .heads = 2, .page_tokens = 48};
  Input input = input_for(c, 31);
  input.places = {0, 47, 48 + 17, 2 * 48 + 3};
  const std::int64_t block = append::block_of(c.spec).bytes();
  for (const KvStrides& strides :
       {KvStrides{.page = kFar / 2, .head = block, .block = 2 * block},
        KvStrides{.page = 6 * block, .head = kFar, .block = block},
        KvStrides{.page = 2 * block, .head = block, .block = kFar / 2}}) {
    const rt::Device device = device_of(c);
    const append::Plan plan(device, c.kernel(), emitted);
    const Tensor k = place(device, c, input.k, 0), v = place(device, c, input.v, 0);
    const rt::Buffer slots = upload(device, input.places);
    const rt::Buffer pool(device, static_cast<std::size_t>(2 * strides.page + strides.head +
                                                           2 * strides.block + block));
    const rt::Device::Scope scope(device);
    std::map<std::int64_t, std::vector<std::byte>> blocks;  // as they are to be
    for (std::int64_t token = 0; token < 4; ++token) {
      for (std::int64_t head = 0; head < 2; ++head) {
        const std::int64_t slot = input.places[static_cast<std::size_t>(token)];
        const std::int64_t at =
            slot / 48 * strides.page + head * strides.head + slot % 48 / 16 * strides.block;
        std::vector<std::byte> bytes = random_bytes(static_cast<std::size_t>(block), 7);
        rt::check(device.api(),
                  device.api().copy_to_device(pool.data() + static_cast<rt::DevicePtr>(at),
                                              bytes.data(), bytes.size(), nullptr),
                  "copy");
        const std::int64_t row = token * 2 + head;
        test::store_token(c.spec, bytes, static_cast<int>(slot % 16), row_at(c, input.k, row),
                          row_at(c, input.v, row), {}, {});
        CHECK(blocks.emplace(at, bytes).second);
      }
    }
    const rt::Stream stream(device);
    plan.run({.tokens = 4, .kv_heads = 2},
             {.k = k.view,
              .v = v.view,
              .pool = {.data = pool.data(), .pages = 3, .page_tokens = 48, .strides = strides},
              .slots = slots.data()},
             stream.handle());
    stream.synchronize();
    for (const auto& [at, expected] : blocks) {
      std::vector<std::byte> got(expected.size());
      rt::check(device.api(),
                device.api().copy_to_host(got.data(), pool.data() + static_cast<rt::DevicePtr>(at),
                                          got.size(), nullptr),
                "copy");
      CHECK(difference(got, expected) == "");
    }
  }
}

// What lies on the device is no more than a number until it is looked at: nothing is read or written that is not there.
TEST_CASE("slots and pages that are not there are skipped", "[fast]") {
  Case c{.spec = {.head_dim = 64}, .tokens = 6, .heads = 2};
  Input input = input_for(c, 41);
  const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), 3);
  input.places = {-1,
                  std::numeric_limits<std::int64_t>::min(),
                  input.pages * 16,
                  std::numeric_limits<std::int64_t>::max(),
                  std::int64_t{1} << 32,
                  -16};
  CHECK(difference(appended(c, input, before), before) == "");

  c.spec.addressing = Addressing::pages;
  input = input_for(c, 42);
  const std::vector<std::byte> pages_before = random_bytes(pool_bytes(c, input), 4);
  const auto leaves_all = [&](const std::function<void(Input&)>& change) {
    Input changed = input;
    change(changed);
    return difference(appended(c, changed, pages_before), pages_before) == "";
  };
  CHECK_FALSE(leaves_all([](Input&) {}));
  const auto fill = [](std::vector<std::int32_t>& with, std::int32_t number) {
    std::ranges::fill(with, number);
  };
  constexpr std::int32_t kLeast = std::numeric_limits<std::int32_t>::min(),
                         kMost = std::numeric_limits<std::int32_t>::max();
  for (const std::int32_t number : {-1, kLeast, kMost}) {
    CHECK(leaves_all([&](Input& i) { fill(i.page_indices, number); }));
    CHECK(leaves_all([&](Input& i) { fill(i.append_indptr, number); }));
    CHECK(leaves_all([&](Input& i) { fill(i.page_indptr, number); }));
    if (number != -1) CHECK(leaves_all([&](Input& i) { fill(i.last_page_len, number); }));
  }
  CHECK(leaves_all([&](Input& i) { fill(i.page_indices, static_cast<std::int32_t>(i.pages)); }));
  CHECK(leaves_all([&](Input& i) { fill(i.append_indptr, 0); }));
  // Others that do not belong together write somewhere in the pool: the emulator knows no other place.
  std::mt19937 random(6);
  for (int i = 0; i < 30; ++i) {
    Input changed = input;
    for (auto* array : {&changed.append_indptr, &changed.page_indptr, &changed.last_page_len,
                        &changed.page_indices}) {
      for (std::int32_t& number : *array) {
        if (random() % 3 == 0)
          number = static_cast<std::int32_t>(random() % 2 == 0 ? random() : random() % 9 - 4);
      }
    }
    CHECK_NOTHROW(appended(c, changed, pages_before));
  }
}

TEST_CASE("positions that the tables do not have are those at their ends", "[fast]") {
  for (const Rope rope : {Rope::neox, Rope::interleaved}) {
    Case c{.spec = {.k_bits = 4, .v_bits = 4, .rope = rope}, .tokens = 6, .heads = 1};
    Input input = input_for(c, 51);
    input.positions = {
        -1, 50, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(),
        0,  49};
    const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), 5);
    const std::vector<std::byte> got = appended(c, input, before);
    input.positions = {0, 49, 0, 49, 0, 49};
    CHECK(difference(got, modelled(c, input, before)) == "");
  }
}

// ---- what is refused -------------------------------------------------------------------------------

TEST_CASE("what an append refuses", "[fast]") {
  struct Memory {
    rt::Device device;
    append::Plan plan;
    rt::Buffer buffer;
    append::Arguments good;
  };
  const auto memory_of = [](const Spec& spec) {
    const Case c{.spec = spec};
    const rt::Device device = device_of(c);
    Memory m{.device = device,
             .plan = append::Plan(device, c.kernel(), emitted),
             .buffer = rt::Buffer(device, 1 << 20),
             .good = {}};
    m.buffer.fill(0);
    const rt::DevicePtr at = m.buffer.data();
    m.good = {.k = rt::nhd(at, 2, 3, 128),
              .v = rt::nhd(at + 8192, 2, 3, 128),
              .pool = {.data = at + (1 << 19), .pages = 4, .page_tokens = 32},
              .slots = at + 16384};
    return m;
  };
  using Change = std::function<void(append::Shape&, append::Arguments&)>;
  const auto refusal = [](const Memory& m, const Change& change) {
    append::Shape shape{.tokens = 3, .kv_heads = 2};
    append::Arguments arguments = m.good;
    change(shape, arguments);
    try {
      m.plan.run(shape, arguments, nullptr);
    } catch (const rt::ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  struct Refusal {
    Change change;
    const char* text;
  };
  const auto check_all = [&](const Memory& m, const std::vector<Refusal>& refusals) {
    CHECK(refusal(m, [](auto&, auto&) {}) == "accepted");
    for (const Refusal& each : refusals) CHECK_THAT(refusal(m, each.change), Contains(each.text));
  };

  check_all(
      memory_of({.k_bits = 4, .v_bits = 4}),
      {{[](auto& s, auto&) { s.tokens = -1; }, "tokens is -1"},
       {[](auto& s, auto&) { s.kv_heads = 0; }, "kv_heads is 0"},
       {[](auto& s, auto&) { s.tokens = s.kv_heads = 1 << 16; }, "split the tokens"},
       {[](auto&, auto& a) { a.k.data = 0; }, "k is a null pointer"},
       {[](auto&, auto& a) { a.v.data += 2; }, "v is at"},
       {[](auto&, auto& a) { a.k.stride_token = 258; }, "k.stride_token is 258 elements"},
       {[](auto&, auto& a) { a.v.stride_head = -128; }, "strides cannot be negative"},
       {[](auto&, auto& a) { a.v.stride_head = 64; }, "the rows would overlap"},
       {[](auto&, auto& a) { a.slots = 0; }, "slots is a null pointer"},
       {[](auto&, auto& a) { a.slots += 4; }, "slots is at"},
       {[](auto&, auto& a) { a.k_mean = a.slots; },
        "k_mean is given, and the kernel has no smooth_k"},
       {[](auto&, auto& a) { a.rope.positions = a.slots; },
        "rope.positions is given, and the kernel has no rope"},
       {[](auto&, auto& a) { a.pages.append_indptr = a.slots; },
        "pages.append_indptr is given, and the kernel has no addressing pages"},
       {[](auto&, auto& a) { a.pool.data = 0; }, "pool is a null pointer"},
       {[](auto&, auto& a) { a.pool.data += 8; }, "pool is at"},
       {[](auto&, auto& a) { a.pool.pages = 0; }, "pool.pages is 0"},
       {[](auto&, auto& a) { a.pool.pages = 1 << 27; }, "places of tokens are 32-bit numbers"},
       {[](auto&, auto& a) { a.pool.page_tokens = 40; },
        "pool.page_tokens 40 is refused: a page has whole blocks of 16 tokens"},
       {[](auto&, auto& a) { a.pool.strides = {.page = 8712, .head = 4352, .block = 2176}; },
        "pool.strides.page is 8712 bytes; it must be a multiple of 16"},
       {[](auto&, auto& a) { a.pool.strides = {.page = 8704, .head = 4352, .block = 2160}; },
        "pool.strides.block is 2160 bytes, and what it steps over has 2176"},
       {[](auto&, auto& a) { a.pool.strides = {.page = 8688, .head = 4352, .block = 2176}; },
        "pool.strides.page is 8688 bytes, and what it steps over has 8704"},
       {[](auto&, auto& a) { a.pool.strides = {.page = -8704, .head = 4352, .block = 2176}; },
        "pool.strides.page is -8704 bytes"},
       {[](auto&, auto& a) {
          a.pool.strides = {.page = std::int64_t{1} << 62, .head = 4352, .block = 2176};
        },
        "spans more than 2^63 bytes"},
       {[](auto&, auto& a) { a.pool.data = a.v.data; }, "overlap"},
       {[](auto&, auto& a) { a.slots = a.pool.data; }, "overlap"}});

  Memory rope = memory_of({.rope = Rope::neox, .smooth_k = true, .addressing = Addressing::pages});
  const rt::DevicePtr at = rope.good.slots;
  rope.good.slots = 0;
  rope.good.pages = {.sequences = 1,
                     .append_indptr = at,
                     .page_indptr = at + 16,
                     .page_indices = at + 32,
                     .last_page_len = at + 48,
                     .page_entries = 2};
  rope.good.rope = {.positions = at + 64, .cos = at + 1024, .sin = at + 8192, .table_rows = 10};
  rope.good.k_mean = at + 16384;
  check_all(
      rope,
      {{[](auto&, auto& a) { a.slots = a.k_mean; }, "slots is given, and the kernel has no"},
       {[](auto&, auto& a) { a.k_mean = 0; }, "k_mean is a null pointer"},
       {[](auto&, auto& a) { a.k_mean += 4; }, "k_mean is at"},
       {[](auto&, auto& a) { a.pages.append_indptr = 0; }, "pages.append_indptr is a null pointer"},
       {[](auto&, auto& a) { a.pages.page_indices = 0; }, "pages.page_indices is a null pointer"},
       {[](auto&, auto& a) { a.pages.sequences = 0; }, "pages.sequences is 0"},
       {[](auto&, auto& a) { a.pages.page_entries = 0; }, "pages.page_entries is 0"},
       {[](auto&, auto& a) { a.pages.last_page_len += 2; }, "pages.last_page_len is at"},
       {[](auto&, auto& a) { a.rope.positions = 0; }, "rope.positions is a null pointer"},
       {[](auto&, auto& a) { a.rope.cos = 0; }, "rope.cos is a null pointer"},
       {[](auto&, auto& a) { a.rope.sin += 4; }, "rope.sin is at"},
       {[](auto&, auto& a) { a.rope.rotary = 60; },
        "rope.rotary is 60; it must be a multiple of 8"},
       {[](auto&, auto& a) { a.rope.rotary = 136; }, "rope.rotary is 136"},
       {[](auto&, auto& a) { a.rope.rotary = -8; }, "rope.rotary is -8"},
       {[](auto&, auto& a) { a.rope.stride = 62; }, "rope.stride is 62 elements"},
       {[](auto&, auto& a) { a.rope.stride = 66; }, "rope.stride is 66 elements"},
       {[](auto&, auto& a) { a.rope.stride = std::int64_t{1} << 61; }, "spans more than 2^60"},
       {[](auto&, auto& a) { a.rope.table_rows = 0; }, "rope.table_rows is 0"},
       {[](auto&, auto& a) { a.rope.sin = a.pool.data; }, "overlap"}});
}

TEST_CASE("no tokens are no launch", "[fast]") {
  const Case c;
  const rt::Device device = device_of(c);
  const append::Plan plan(device, c.kernel(), emitted);
  plan.run({.tokens = 0, .kv_heads = 1}, {}, nullptr);
  CHECK(plan.kernel_names() == std::vector<std::string>{c.kernel().key()});
}

// ---- kernels that are broken in one way ------------------------------------------------------------

TEST_CASE("an append that is broken is seen", "[fast]") {
  struct Mutation {
    const char* name;
    std::function<void(PtxEdit&)> edit;
  };
  const auto replace = [](const char* pattern, const char* by, int which = PtxEdit::kAll) {
    return [=](PtxEdit& text) { text.replace(pattern, by, which); };
  };
  const auto shift = [](std::size_t offset, long by) {
    return [=](PtxEdit& text) { text.shift_parameter(offset, by); };
  };
  const std::size_t slots = ParamLayout().add<append::Params>().bytes();
  const std::vector<Mutation> mutations{
      {"NaN is no 0", replace(R"(setp\.num\.f32)", "setp.equ.f32")},
      {"a largest that is infinite",
       replace(R"(min\.f32\s+(%r\d+), (%r\d+), 0f477FE000;)", "mov.b32 $1, $2;", PtxEdit::kLast)},
      {"codes cut off", replace(R"(add\.rn\.f32(\s+%r\d+, %r\d+, 0f4B400000;))", "add.rz.f32$1")},
      {"ties away from even",
       replace(R"(add\.rn\.f32(\s+%r\d+, %r\d+, 0f4B400000;))", "add.rp.f32$1")},
      {"codes below 0",
       replace(R"(max\.f32\s+(%r\d+), (%r\d+), 0f00000000;)", "mov.b32 $1, $2;", PtxEdit::kLast)},
      {"codes beyond the largest",
       replace(R"(min\.f32\s+(%r\d+), (%r\d+), 0f437F0000;)", "mov.b32 $1, $2;")},
      {"zero points cut off", replace(R"(cvt\.rn\.f16\.f32)", "cvt.rz.f16.f32", PtxEdit::kFirst)},
      {"scales cut off", replace(R"(cvt\.rn\.f16\.f32)", "cvt.rz.f16.f32", PtxEdit::kLast)},
      {"no scale is a scale", replace(R"(setp\.gt\.f32)", "setp.ge.f32")},
      {"another norm", replace("0f3DB504F3", "0f3DB60000")},
      {"turned the other way", replace("0fBF800000, 0f3F800000", "0f3F800000, 0fBF800000", 0)},
      {"not turned", replace(R"(setp\.ge\.s32(\s+%p\d+, %r\d+, %r\d+;))", "setp.ne.s32$1")},
      {"a scale that is not stored", [](PtxEdit& text) { text.drop(R"(st\.global\.b16)", -2); }},
      {"codes of another token", replace(R"(and\.b32(\s+%r\d+, %r\d+), 14;)", "and.b32$1, 12;")},
      {"another head", shift(offsetof(append::Params, stride_head), 16)},
      {"another block", shift(offsetof(append::Params, stride_block), 16)},
      {"another page", shift(offsetof(append::Params, stride_page), 16)},
      {"pages of another size", shift(offsetof(append::Params, page_tokens), 16)},
      {"one row less", shift(offsetof(append::Params, rows), -1)},
      {"slots behind the pool", shift(slots + offsetof(append::SlotParams, slot_count), 1 << 20)},
      {"slots before the pool", replace(R"(setp\.gt\.s64(\s+%p\d+, %rd\d+), -1;)",
                                        "setp.gt.s64$1, -1000;", PtxEdit::kFirst)},
  };
  const auto passes = [](const std::function<void(PtxEdit&)>& edit) {
    Case c{.spec = {.k_bits = 8, .v_bits = 8, .rope = Rope::neox, .rotation = Rotation::hadamard},
           .tokens = 60,
           .page_tokens = 48,
           .rotary = 64};
    Input input = input_for(c, 61);
    input.places[20] = input.pages * c.page_tokens;
    const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), 6);
    c.edit = edit;
    std::vector<std::byte> got;
    try {
      got = appended(c, input, before);
    } catch (const rt::DriverError&) {
      return false;  // of findings of the emulator
    }
    input.places[20] = -1;
    return got == modelled(c, input, before);
  };
  CHECK(passes([](PtxEdit&) {}));
  for (const Mutation& mutation : mutations) {
    INFO(mutation.name);
    CHECK_FALSE(passes(mutation.edit));
  }
}
