// The layout of a KV cache: every code and parameter has its own place, no byte is of two tokens, and a lane finds there
// what the fragments of mma want. The lanes' side is written down once more, from the PTX ISA and the format's description.
#include "templates/shared/kv_format.h"

#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sagegen/error.h"

using namespace sagegen;

namespace {

const std::vector<int> kBits{2, 4, 8, 16};
const std::vector<int> kHeadDims{32, 64, 80, 96, 128, 192, 256};

std::vector<KvCoding> codings_of(int bits) {
  std::vector<KvCoding> codings{KvCoding::asymmetric};
  if (bits < 16) codings.push_back(KvCoding::symmetric);
  if (bits == 8) codings.push_back(KvCoding::e4m3);
  return codings;
}

void for_formats(const std::function<void(const KvFormat&)>& body) {
  for (const int head_dim : kHeadDims) {
    for (const int k_bits : kBits) {
      for (const int v_bits : kBits) {
        for (const KvCoding k_codes : codings_of(k_bits)) {
          for (const KvCoding v_codes : codings_of(v_bits)) {
            const KvFormat format{.head_dim = head_dim,
                                  .k_bits = k_bits,
                                  .v_bits = v_bits,
                                  .k_codes = k_codes,
                                  .v_codes = v_codes};
            INFO(to_string(format));
            body(format);
          }
        }
      }
    }
  }
}

// Of all bytes of a block the token that they are of.
std::vector<int> tokens_of_bytes(const KvBlock& block) {
  std::vector<int> owner(static_cast<std::size_t>(block.bytes()), -1);
  std::vector<int> times(owner.size(), 0);
  const auto put = [&](int byte, int token) {
    REQUIRE(byte >= 0);
    REQUIRE(byte < block.bytes());
    owner[static_cast<std::size_t>(byte)] = token;
    ++times[static_cast<std::size_t>(byte)];
  };
  const auto put_f16 = [&](int byte, int token) {
    REQUIRE(byte % 2 == 0);
    put(byte, token);
    put(byte + 1, token);
  };
  for (int token = 0; token < kKvBlockTokens; ++token) {
    for (int byte = 0; byte < block.k_row_bytes(); ++byte) put(block.k_byte(token, byte), token);
    for (int byte = 0; byte < block.v_row_bytes(); ++byte) put(block.v_byte(token, byte), token);
    if (kv_quantized(block.k_bits)) {
      put_f16(block.s_k(token), token);
      if (block.k_codes == KvCoding::asymmetric) put_f16(block.z_k(token), token);
    }
    if (kv_quantized(block.v_bits)) {
      put_f16(block.s_v(token), token);
      if (block.v_codes == KvCoding::asymmetric) put_f16(block.z_v(token), token);
    }
  }
  for (const int count : times) REQUIRE(count == 1);
  return owner;
}

}  // namespace

TEST_CASE("a block has one place for everything of a token, and no other byte") {
  for_formats([](const KvFormat& format) {
    const KvBlock block(format);
    const std::vector<int> owner = tokens_of_bytes(block);
    std::map<int, int> bytes;
    for (const int token : owner) ++bytes[token];
    REQUIRE(bytes.size() == kKvBlockTokens);
    for (const auto& [token, count] : bytes) REQUIRE(count == kv_token_bytes(format));
    REQUIRE(block.bytes() % 16 == 0);
    REQUIRE(block.v_offset() % 16 == 0);
    REQUIRE(block.parameter_offset() % 16 == 0);
  });
}

// m16n8k32 of 8 bits, m16n8k16 of 16: column g of B, and of it bytes 4 t to 4 t + 3 of each half of a k step. Which
// channels a k step has is free, so that a lane may have consecutive bytes; that they are whole and its own is what counts.
TEST_CASE("a lane reads its part of two keys as units of consecutive bytes") {
  for_formats([](const KvFormat& format) {
    const KvBlock block(format);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int parity = 0; parity < 2; ++parity) {
        const int of_lane = block.k_row_bytes() / 4;
        for (int i = 0; i < of_lane; ++i) {
          // 16-byte pieces of a row go round the four lanes; smaller rows are cut in four.
          const int piece = of_lane < 16 ? of_lane : 16;
          const int row_byte = i / piece * (4 * piece) + t * piece + i % piece;
          const int unit = of_lane < 16 ? 0 : of_lane / 16 * parity + i / 16;
          const int unit_bytes = of_lane < 16 ? 2 * of_lane : 16;
          const int in_unit = of_lane < 16 ? of_lane * parity + i : i % 16;
          REQUIRE(block.k_byte(2 * g + parity, row_byte) ==
                  unit_bytes * (32 * unit + lane) + in_unit);
        }
      }
    }
  });
}

// A of m16n8k16, O^T = V^T P^T: a lane has rows g and g + 8, columns (keys) 2 t, 2 t + 1 and 2 t + 8, 2 t + 9, which here are
// tokens 4 t and 4 t + 2, 4 t + 1 and 4 t + 3: registers a0 and a1 are of one pair of tokens, a2 and a3 of the other.
TEST_CASE("a word of values is a whole fragment after masks") {
  for_formats([](const KvFormat& format) {
    const KvBlock block(format);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      if (format.v_bits == 16) {
        for (int m = 0; m < block.channels / 16; ++m) {
          const int unit = block.v_offset() + 16 * (32 * m + lane), channel = 16 * m + 2 * g;
          const auto at = [&](int token, int c) { return block.v_byte(4 * t + token, 2 * c); };
          for (int half = 0; half < 2; ++half) {
            REQUIRE(at(0, channel + half) == unit + 4 * half);
            REQUIRE(at(2, channel + half) == unit + 4 * half + 2);
            REQUIRE(at(1, channel + half) == unit + 8 + 4 * half);
            REQUIRE(at(3, channel + half) == unit + 8 + 4 * half + 2);
          }
        }
        continue;
      }
      const int piece = block.v_row_bytes() < 32 ? block.v_row_bytes() / 8 : 4;
      for (int i = 0; i < block.v_row_bytes() / (8 * piece); ++i) {
        for (int r = 0; r < piece; ++r) {
          for (int j = 0; j < 4; ++j) {
            REQUIRE(block.v_byte(4 * t + j, piece * (8 * i + g) + r) ==
                    block.v_offset() + 4 * piece * (32 * i + lane) + 4 * r + j);
          }
        }
      }
    }
  });
}

TEST_CASE("parameters of a quad of tokens are read at once") {
  for_formats([](const KvFormat& format) {
    const KvBlock block(format);
    const int p = block.parameter_offset();
    const bool k = kv_quantized(format.k_bits), v = kv_quantized(format.v_bits);
    const bool k_zero = format.k_codes == KvCoding::asymmetric;
    const bool v_zero = format.v_codes == KvCoding::asymmetric;
    for (int t = 0; t < 4; ++t) {
      const auto of = [&](int (KvBlock::*place)(int) const, int token) {
        return (block.*place)(4 * t + token) - p;
      };
      const std::vector<int> order{0, 2, 1, 3};  // 16 bits of each in a quad
      for (int i = 0; i < 4; ++i) {
        const int pair = i / 2, in_pair = i % 2, token = order[static_cast<std::size_t>(i)];
        const int wide = 16 * t + 8 * pair + 2 * in_pair, narrow = 8 * t + 2 * i;
        if (k && v && !v_zero) {
          REQUIRE(of(&KvBlock::s_v, token) == wide);
          REQUIRE(of(&KvBlock::s_k, token) == wide + 4);
          if (k_zero) REQUIRE(of(&KvBlock::z_k, token) == 64 + 2 * (4 * t + token));
        } else if (k && v) {
          REQUIRE(of(&KvBlock::z_v, token) == wide);
          REQUIRE(of(&KvBlock::s_k, token) == wide + 4);
          REQUIRE(of(&KvBlock::s_v, token) == 64 + narrow);
          if (k_zero) REQUIRE(of(&KvBlock::z_k, token) == 96 + 2 * (4 * t + token));
        } else if (v && !v_zero) {
          REQUIRE(of(&KvBlock::s_v, token) == narrow);
        } else if (v) {
          REQUIRE(of(&KvBlock::z_v, token) == wide);
          REQUIRE(of(&KvBlock::s_v, token) == wide + 4);
        } else if (k) {
          REQUIRE(of(&KvBlock::s_k, token) == narrow);
          if (k_zero) REQUIRE(of(&KvBlock::z_k, token) == 32 + 2 * (4 * t + token));
        }
      }
    }
  });
}

// KVTuner's formats with eight KV heads of 128 channels, and 16 bits.
TEST_CASE("bytes of a token and a layer") {
  struct Row {
    int k, v, bytes;
    double effective;
  };
  for (const Row& row : std::vector<Row>{{16, 16, 4096, 16.0},
                                         {8, 8, 2112, 8.25},
                                         {8, 4, 1600, 6.25},
                                         {4, 8, 1600, 6.25},
                                         {4, 4, 1088, 4.25},
                                         {4, 2, 832, 3.25},
                                         {2, 2, 576, 2.25}}) {
    const KvFormat format{.k_bits = row.k, .v_bits = row.v};
    CHECK(8 * kv_token_bytes(format) == row.bytes);
    CHECK(kv_effective_bits(format) == row.effective);
    CHECK(kv_nominal_bits(format) == (row.k + row.v) / 2.0);
  }
  // Without zero points two bytes of each less.
  constexpr KvCoding kSymmetric = KvCoding::symmetric, kE4m3 = KvCoding::e4m3;
  CHECK(kv_token_bytes({.k_codes = kE4m3, .v_codes = kE4m3}) == 256 + 4);
  CHECK(kv_effective_bits({.k_codes = kE4m3, .v_codes = kE4m3}) == 8.125);
  CHECK(kv_token_bytes({.k_bits = 4, .v_bits = 4, .k_codes = kSymmetric}) == 128 + 6);
  CHECK(kv_token_bytes({.k_bits = 4, .v_bits = 4, .v_codes = kSymmetric}) == 128 + 6);
  CHECK(kv_effective_bits(
            {.k_bits = 2, .v_bits = 2, .k_codes = kSymmetric, .v_codes = kSymmetric}) == 2.125);
  CHECK(kv_token_bytes({.k_bits = 16, .v_bits = 8}) == 256 + 128 + 4);
  CHECK(kv_token_bytes({.head_dim = 32}) == 64 + 64 + 8);  // padded to 64 channels
  CHECK(kv_effective_bits({.head_dim = 32}) == 17.0);
}

// m16n8k16: register b0 of a lane is of two rows of a k step, b1 of two others; which channels these are is free. A mask at
// multiples of the bits of a code leaves code i and code i + n / 2 of n in a word as two numbers of 16 bits.
TEST_CASE("parameters by channel lie as the operand that a mask makes of the codes") {
  for (const int head_dim : kHeadDims) {
    for (const int k_bits : {2, 4}) {
      for (const int v_bits : kBits) {
        const KvFormat format{
            .head_dim = head_dim, .k_bits = k_bits, .v_bits = v_bits, .k_codes = KvCoding::channel};
        INFO(to_string(format));
        const KvBlock block(format);
        const int of_v = v_bits < 16 ? 64 : 0;
        REQUIRE(block.channel_offset() == block.k_bytes() + block.v_bytes() + of_v);
        REQUIRE(block.channel_offset() % 16 == 0);
        REQUIRE(block.bytes() == block.channel_offset() + 2 * block.channels);
        REQUIRE(block.bytes() % 16 == 0);
        const int codes = 32 / k_bits;
        std::vector<int> times(static_cast<std::size_t>(block.channels));
        for (int lane = 0; lane < 4; ++lane) {  // of token 0
          int unit = 0, in_unit = 0;  // of 16 bytes, as the lane reads them one after the other
          for (int word = 0; word < block.channels / 4 / codes; ++word) {
            for (int pair = 0; pair < codes / 2; ++pair) {
              for (const int high : {0, 1}) {
                const int code = pair + high * codes / 2;
                // The channel whose code this is, by where its byte lies.
                int found = -1;
                for (int channel = 0; channel < block.channels; ++channel) {
                  const int bit = channel * k_bits, byte = block.k_byte(0, bit / 8);
                  const int lane_bytes = block.channels * k_bits / 32;
                  const int unit_bytes = lane_bytes < 16 ? 2 * lane_bytes : 16;
                  const int at =
                      8 * (byte % (32 * unit_bytes) % unit_bytes + byte / (32 * unit_bytes) * 16) +
                      bit % 8;
                  if (byte % (32 * unit_bytes) / unit_bytes == lane &&
                      at == 32 * word + k_bits * code)
                    found = channel;
                }
                REQUIRE(found >= 0);
                ++times[static_cast<std::size_t>(found)];
                REQUIRE(block.k_channel(found) ==
                        block.channel_offset() + 64 * unit + 16 * lane + 4 * in_unit + 2 * high);
              }
              if (++in_unit == 4) in_unit = 0, ++unit;
            }
          }
        }
        for (const int count : times) REQUIRE(count == 1);
        // V is where it is with K of 16 bits, behind other codes of K.
        const KvBlock alone({.head_dim = head_dim, .k_bits = 16, .v_bits = v_bits});
        for (int token = 0; v_bits < 16 && token < kKvBlockTokens; ++token) {
          REQUIRE(block.s_v(token) - block.parameter_offset() ==
                  alone.s_v(token) - alone.parameter_offset());
          REQUIRE(block.z_v(token) - block.parameter_offset() ==
                  alone.z_v(token) - alone.parameter_offset());
        }
      }
    }
  }
}

TEST_CASE("codes by channel: bytes and what is refused") {
  constexpr KvCoding kChannel = KvCoding::channel;
  CHECK(kv_token_bytes({.k_bits = 4, .v_bits = 4, .k_codes = kChannel}) == 64 + 64 + 4 + 16);
  CHECK(kv_token_bytes({.k_bits = 2, .v_bits = 2, .k_codes = kChannel}) == 32 + 32 + 4 + 16);
  CHECK(kv_format_of("k_bits=4 k_codes=channel page_tokens=96") ==
        KvFormat{.k_bits = 4, .k_codes = kChannel, .page_tokens = 96});
  const auto refused = [](const char* text, const char* sentence) {
    CHECK_THROWS_WITH(kv_format_of(text), Catch::Matchers::Contains(sentence));
  };
  refused("k_codes=channel",
          "k_codes channel with k_bits 8 is refused: codes by channel have 2 or 4");
  refused("k_codes=channel k_bits=16", "k_codes channel with k_bits 16 is refused");
  refused("v_codes=channel v_bits=4", "v_codes channel is refused: K alone has channels");
  refused("k_codes=channel k_bits=4 page_tokens=528", "the next such number is 544");
  CHECK(kv_digest({.k_bits = 4, .k_codes = kChannel}) != kv_digest({.k_bits = 4}));
}

TEST_CASE("strides of a pool") {
  KvFormat format{.page_tokens = 528};
  const int block = KvBlock(format).bytes();
  const KvStrides hnd = kv_strides(format, 8);
  CHECK(hnd.block == block);
  CHECK(hnd.head == 33 * block);
  CHECK(hnd.page == 8 * 33 * block);
  format.layout = KvPageLayout::nhd;
  const KvStrides nhd = kv_strides(format, 8);
  CHECK(nhd.head == block);
  CHECK(nhd.block == 8 * block);
  CHECK(nhd.page == 8 * 33 * block);
}

TEST_CASE("a format is a text, and a text a format") {
  const KvFormat format{.head_dim = 64,
                        .io = DType::bf16,
                        .k_bits = 4,
                        .v_bits = 2,
                        .page_tokens = 2848,
                        .layout = KvPageLayout::nhd};
  CHECK(to_string(format) ==
        "head_dim=64 io=bf16 k_bits=4 v_bits=2 page_tokens=2848 layout=nhd k_codes=asymmetric "
        "v_codes=asymmetric");
  CHECK(kv_format_of(to_string(format)) == format);
  CHECK(kv_format_of("") == KvFormat{});
  CHECK(kv_format_of("v_bits=4 k_bits=8") == KvFormat{.k_bits = 8, .v_bits = 4});

  const auto refusal = [](std::string_view text) -> std::string {
    try {
      kv_format_of(text);
    } catch (const SpecError& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(refusal("k_bits=3") == "k_bits 3 is refused: it must be 2, 4, 8 or 16");
  CHECK(refusal("k_bits=4 k_bits=4") == "option k_bits stands twice in \"k_bits=4 k_bits=4\"");
  CHECK(refusal("kbits=4").find("did you mean k_bits") != std::string::npos);
  CHECK(refusal("k_bits").find("write name=value") != std::string::npos);
  CHECK(kv_format_of("k_codes=e4m3 v_codes=symmetric v_bits=4") ==
        KvFormat{.v_bits = 4, .k_codes = KvCoding::e4m3, .v_codes = KvCoding::symmetric});
  CHECK(refusal("k_codes=e4m3 k_bits=4") ==
        "k_codes e4m3 with k_bits 4 is refused: a number of e4m3 has 8 bits; use k_bits 8");
  CHECK(refusal("v_codes=symmetric v_bits=16") ==
        "v_codes symmetric with v_bits 16 is refused: 16 bits are stored as they come; use v_bits "
        "2, 4 or 8, or v_codes asymmetric, which 16 bits ignore");
  CHECK(refusal("page_tokens=40") ==
        "page_tokens 40 is refused: a page has whole blocks of 16 tokens, 65536 at most; the next "
        "such number is 48");
  CHECK(refusal("page_tokens=0").find("the next such number is 16") != std::string::npos);
  CHECK(refusal("page_tokens=528") == "accepted");
  CHECK(refusal("head_dim=257").find("head_dim 257 is refused") != std::string::npos);
}

// Caches are handed over between processes and versions by this number.
TEST_CASE("a digest is of all members and stays") {
  CHECK(kv_digest({}) == kv_digest(kv_format_of(to_string(KvFormat{}))));
  const std::vector<KvFormat> others{{.head_dim = 64},
                                     {.io = DType::bf16},
                                     {.k_bits = 4},
                                     {.v_bits = 4},
                                     {.page_tokens = 16},
                                     {.layout = KvPageLayout::nhd},
                                     {.k_codes = KvCoding::symmetric},
                                     {.v_codes = KvCoding::symmetric},
                                     {.k_codes = KvCoding::e4m3},
                                     {.v_codes = KvCoding::e4m3}};
  std::map<std::uint64_t, int> seen{{kv_digest({}), 0}};
  for (const KvFormat& other : others) ++seen[kv_digest(other)];
  CHECK(seen.size() == others.size() + 1);
  CHECK(kv_digest({}) == 0x917d08a2b70e00efu);
}
