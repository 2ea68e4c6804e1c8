// New keys and values in the pages of a low-bit cache (templates/kv_append): every byte of a pool against a model of what is
// promised, places, what is refused, and kernels that are broken.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "templates/kv_append/params.h"
#include "templates/kv_append/plan.h"
#include "tests/numerics/kv_append_call.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace append = sagegen::kv_append;
using append::Addressing;
using append::Rope;
using append::Spec;
using Catch::Matchers::Contains;
using emulator::test::PtxEdit;
using test::appended;
using test::block_at;
using test::difference;
using test::modelled;
using test::pool_bytes;
using test::random_bytes;
using test::row_at;
using Case = test::AppendCase;
using Input = test::AppendInput;

namespace {

constexpr std::array kBits{2, 4, 8, 16};

void check(const Case& c, std::uint64_t seed) {
  INFO(c.text() << ", inputs " << seed);
  const Input input = test::append_input(c, seed);
  const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), seed);
  CHECK(difference(appended(c, input, before), modelled(c, input, before)) == "");
}

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
          c.v_heads_first = seed % 16 >= 8;
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

TEST_CASE("every byte of a pool is what it is to be: codes without zero points", "[fast]") {
  struct Codes {
    int bits;
    KvCoding coding;
  };
  const std::vector<Codes> all{{2, KvCoding::symmetric},  {4, KvCoding::symmetric},
                               {8, KvCoding::symmetric},  {8, KvCoding::e4m3},
                               {4, KvCoding::asymmetric}, {16, KvCoding::asymmetric}};
  std::uint64_t seed = Catch::rngSeed() + 3000;
  for (const Codes& k : all) {
    for (const Codes& v : all) {
      ++seed;
      check({.spec = {.head_dim = std::array{64, 128, 80, 256}[seed % 4],
                      .io = seed % 3 == 0 ? DType::bf16 : DType::f16,
                      .k_bits = k.bits,
                      .v_bits = v.bits,
                      .k_codes = k.coding,
                      .v_codes = v.coding,
                      .rope = seed % 5 == 0 ? Rope::neox : Rope::none,
                      .rotation = seed % 2 == 0 ? Rotation::hadamard : Rotation::none},
             .layout = seed % 2 == 0 ? KvPageLayout::nhd : KvPageLayout::hnd,
             .sm = std::array{80, 89, 90, 120}[seed / 2 % 4],
             .emulator = {.schedule = rt::SchedulePolicy::random, .seed = seed}},
            seed);
    }
  }
}

// What has no instruction for e4m3 rounds by its bits: to the same codes, of all numbers of f16 that a row may have.
TEST_CASE("codes of e4m3 are the same with and without an instruction for them", "[fast]") {
  Case c{.spec = {.head_dim = 128, .k_codes = KvCoding::e4m3, .v_codes = KvCoding::e4m3},
         .tokens = 500,
         .heads = 1};
  Input input = test::append_input(c, 41);
  // Every row has 1 as its largest number, and 127 others of the 63488 that there are.
  for (std::size_t i = 0; i < input.k.size(); ++i) {
    const auto number = static_cast<std::uint16_t>(i - i / 128);
    input.k[i] = i % 128 == 0 ? 0x3C00 : (number & 0x8000) | number % 0x3C01;
  }
  input.v = input.k;
  const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), 3);
  const std::vector<std::byte> by_bits = appended(c, input, before);
  c.sm = 89;
  CHECK(difference(appended(c, input, before), by_bits) == "");
  CHECK(difference(by_bits, modelled(c, input, before)) == "");
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
            c.table_gap = seed % 3 == 0 ? 4 : 0;
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

// A prompt in parts, and tokens one by one: the same bytes, in whatever order the warps run.
TEST_CASE("tokens of one call or of many leave the same bytes", "[fast]") {
  Case c{.spec = {.head_dim = 64, .k_bits = 4, .v_bits = 2}, .tokens = 40, .heads = 3};
  const Input input = test::append_input(c, 21);
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
  Input input = test::append_input(c, 31);
  input.places = {0, 47, 48 + 17, 2 * 48 + 3};
  const std::int64_t block = append::block_of(c.spec).bytes();
  for (const KvStrides& strides :
       {KvStrides{.page = kFar / 2, .head = block, .block = 2 * block},
        KvStrides{.page = 6 * block, .head = kFar, .block = block},
        KvStrides{.page = 2 * block, .head = block, .block = kFar / 2}}) {
    const rt::Device device = test::device_of(c);
    const append::Plan plan(device, c.kernel(), test::append_artifact);
    const test::PlacedTensor k = test::place_rows(device, c, input.k, 0, false),
                             v = test::place_rows(device, c, input.v, 0, false);
    const rt::Buffer slots = test::upload(device, input.places);
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
  Input input = test::append_input(c, 41);
  const std::vector<std::byte> before = random_bytes(pool_bytes(c, input), 3);
  input.places = {-1,
                  std::numeric_limits<std::int64_t>::min(),
                  input.pages * 16,
                  std::numeric_limits<std::int64_t>::max(),
                  std::int64_t{1} << 32,
                  -16};
  CHECK(difference(appended(c, input, before), before) == "");

  c.spec.addressing = Addressing::pages;
  input = test::append_input(c, 42);
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
    Input input = test::append_input(c, 51);
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
    const rt::Device device = test::device_of(c);
    Memory m{.device = device,
             .plan = append::Plan(device, c.kernel(), test::append_artifact),
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

TEST_CASE("kernels that are refused", "[fast]") {
  const auto refusal = [](const Spec& spec) {
    const Sentences sentences = Kernel(append::family(), spec, Target{.sm = 80}).violations();
    return sentences.size() == 1 ? sentences[0] : std::to_string(sentences.size()) + " sentences";
  };
  CHECK_THAT(refusal({.head_dim = 0}), Contains("head_dim 0 is refused"));
  CHECK_THAT(refusal({.head_dim = 257}), Contains("head_dim 257 is refused"));
  CHECK_THAT(refusal({.k_bits = 3}), Contains("k_bits 3 is refused: it must be 2, 4, 8 or 16"));
  CHECK_THAT(refusal({.head_dim = 7, .rope = Rope::neox}),
             Contains("rope neox with head_dim 7 is refused") && Contains("a multiple of 8"));
  CHECK(refusal({.head_dim = 8, .rope = Rope::neox}) == "0 sentences");
  CHECK_THAT(refusal({.head_dim = 81, .rotation = Rotation::hadamard}),
             Contains("rotation hadamard with head_dim 81 is refused"));
  CHECK(refusal({.head_dim = 82, .rotation = Rotation::hadamard}) == "0 sentences");
}

TEST_CASE("no tokens are no launch", "[fast]") {
  const Case c;
  const rt::Device device = test::device_of(c);
  const append::Plan plan(device, c.kernel(), test::append_artifact);
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
    Input input = test::append_input(c, 61);
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
