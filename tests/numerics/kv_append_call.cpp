#include "tests/numerics/kv_append_call.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "templates/kv_append/plan.h"

namespace sagegen::test {

namespace rt = runtime;
namespace append = kv_append;
using append::Addressing;
using append::Rope;
using emulator::test::PtxEdit;

std::string AppendCase::text() const {
  return fmt::format("{}, {} tokens, {} heads, pages of {} {}, gaps {} and {}, rotary {}, seed {}",
                     kernel().key(), tokens, heads, page_tokens, to_string(layout), gap, table_gap,
                     rotary, emulator.seed);
}

Artifact append_artifact(const Kernel& kernel) {
  static std::map<std::string, Artifact> made;
  Artifact& artifact = made[kernel.key()];
  if (artifact.code.empty()) artifact = emit(kernel);
  return artifact;
}

rt::Device device_of(const AppendCase& c) {
  int ordinal = 0;
  while (to_string(static_cast<rt::EmulatorProfile>(ordinal)) != "sm_" + std::to_string(c.sm))
    ++ordinal;
  return {rt::make_emulator(c.emulator), ordinal};
}

namespace {

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

std::vector<std::uint16_t> rows_of(const AppendCase& c, bool only_finite, std::mt19937_64& random) {
  std::vector<std::uint16_t> bits;
  for (std::int64_t row = 0; row < c.tokens * c.heads; ++row) {
    std::size_t kind = random() % kinds_of_rows().size();
    while (only_finite && !is_finite_kind(kind)) kind = random() % kinds_of_rows().size();
    for (int channel = 0; channel < c.spec.head_dim; ++channel)
      bits.push_back(kv_bits_of(c.spec.io, kinds_of_rows()[kind](random, channel)));
  }
  return bits;
}

// Sequences, of which some get no token, with pages anywhere in the pool.
void place_in_sequences(const AppendCase& c, AppendInput& input, std::mt19937_64& random) {
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

void place_in_slots(const AppendCase& c, AppendInput& input, std::mt19937_64& random) {
  input.pages = (c.tokens + c.page_tokens - 1) / c.page_tokens + 1;
  std::vector<std::int64_t> slots(static_cast<std::size_t>(input.pages * c.page_tokens));
  std::iota(slots.begin(), slots.end(), std::int64_t{0});
  std::ranges::shuffle(slots, random);
  input.places.assign(slots.begin(), slots.begin() + c.tokens);
  for (std::size_t i = 4; i < input.places.size(); i += 7) input.places[i] = -1;
}

}  // namespace

AppendInput append_input(const AppendCase& c, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  AppendInput input;
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

PlacedTensor place_rows(const rt::Device& device, const AppendCase& c,
                        const std::vector<std::uint16_t>& rows, std::int64_t gap,
                        bool heads_first) {
  const std::int64_t width = c.spec.head_dim + gap;
  std::vector<std::uint16_t> placed(static_cast<std::size_t>(c.tokens * c.heads * width), 0x7FFF);
  for (std::int64_t token = 0; token < c.tokens; ++token) {
    for (std::int64_t head = 0; head < c.heads; ++head) {
      const std::int64_t to = heads_first ? head * c.tokens + token : token * c.heads + head;
      std::copy_n(rows.begin() + (token * c.heads + head) * c.spec.head_dim, c.spec.head_dim,
                  placed.begin() + to * width);
    }
  }
  PlacedTensor tensor{.memory = upload(device, placed), .view = {}};
  const rt::DevicePtr data = tensor.memory.data();
  tensor.view = heads_first ? rt::hnd(data, c.heads, c.tokens, static_cast<int>(width))
                            : rt::nhd(data, c.heads, c.tokens, static_cast<int>(width));
  return tensor;
}

namespace {

// Rows with a gap behind each.
std::vector<float> table_of(const AppendCase& c, const std::vector<float>& rows) {
  const auto half = c.rotated() / 2;
  std::vector<float> table;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    table.push_back(rows[i]);
    if (static_cast<std::int64_t>(i + 1) % half == 0)
      table.insert(table.end(), static_cast<std::size_t>(c.table_gap), 1e9f);
  }
  return table;
}

}  // namespace

std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

std::size_t pool_bytes(const AppendCase& c, const AppendInput& input) {
  return static_cast<std::size_t>(input.pages *
                                  kv_strides(c.format(), static_cast<int>(c.heads)).page);
}

std::vector<std::byte> appended(const AppendCase& c, const AppendInput& input,
                                const std::vector<std::byte>& before) {
  const rt::Device device = device_of(c);
  const append::Plan plan(device, c.kernel(), [&c](const Kernel& kernel) {
    Artifact artifact = append_artifact(kernel);
    if (!c.edit) return artifact;
    PtxEdit text(artifact.code);
    c.edit(text);
    artifact.code = text.text();
    return artifact;
  });
  const PlacedTensor k = place_rows(device, c, input.k, c.gap, false),
                     v = place_rows(device, c, input.v, 0, c.v_heads_first);
  rt::Buffer pool = upload(device, before);
  const rt::Buffer slots = upload(device, input.places),
                   append_indptr = upload(device, input.append_indptr),
                   page_indptr = upload(device, input.page_indptr),
                   page_indices = upload(device, input.page_indices),
                   last_page_len = upload(device, input.last_page_len),
                   positions = upload(device, input.positions),
                   cos = upload(device, table_of(c, input.cos)),
                   sin = upload(device, table_of(c, input.sin)), mean = upload(device, input.mean);
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
                      .stride = c.table_gap == 0 ? 0 : c.rotated() / 2 + c.table_gap,
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

std::span<std::byte> block_at(const AppendCase& c, std::vector<std::byte>& pool, std::int64_t place,
                              std::int64_t head) {
  const KvStrides strides = kv_strides(c.format(), static_cast<int>(c.heads));
  const std::int64_t at = place / c.page_tokens * strides.page + head * strides.head +
                          place % c.page_tokens / kKvBlockTokens * strides.block;
  return std::span(pool).subspan(static_cast<std::size_t>(at),
                                 static_cast<std::size_t>(append::block_of(c.spec).bytes()));
}

static KvAngles angles_of(const AppendCase& c, const AppendInput& input, std::int64_t token) {
  if (c.spec.rope == Rope::none) return {};
  const auto half = static_cast<std::size_t>(c.rotated() / 2);
  const auto row =
      static_cast<std::size_t>(input.positions[static_cast<std::size_t>(token)]) * half;
  return {std::span(input.cos).subspan(row, half), std::span(input.sin).subspan(row, half)};
}

std::vector<std::byte> modelled(const AppendCase& c, const AppendInput& input,
                                std::vector<std::byte> pool) {
  for (std::int64_t token = 0; token < c.tokens; ++token) {
    const std::int64_t place = input.places[static_cast<std::size_t>(token)];
    if (place < 0) continue;
    for (std::int64_t head = 0; head < c.heads; ++head) {
      const std::int64_t row = token * c.heads + head;
      store_token(c.spec, block_at(c, pool, place, head), static_cast<int>(place % kKvBlockTokens),
                  row_at(c, input.k, row), row_at(c, input.v, row), angles_of(c, input, token),
                  row_at(c, input.mean, head));
    }
  }
  return pool;
}

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

}  // namespace sagegen::test
