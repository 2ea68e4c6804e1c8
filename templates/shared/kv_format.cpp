#include "templates/shared/kv_format.h"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"
#include "templates/shared/quantization.h"

namespace sagegen {

std::string_view to_string(KvPageLayout value) {
  switch (value) {
    case KvPageLayout::hnd:
      return "hnd";
    case KvPageLayout::nhd:
      return "nhd";
  }
  return "?";
}

std::string_view to_string(KvCoding value) {
  switch (value) {
    case KvCoding::asymmetric:
      return "asymmetric";
    case KvCoding::symmetric:
      return "symmetric";
    case KvCoding::e4m3:
      return "e4m3";
    case KvCoding::channel:
      return "channel";
  }
  return "?";
}

Values kv_bits() { return numbers({2, 4, 8, 16}); }

Values kv_codes(char tag) {
  const auto values = [](std::string_view asymmetric, std::string_view symmetric,
                         std::string_view e4m3) {
    return words<KvCoding>({{KvCoding::asymmetric, "asymmetric", asymmetric},
                            {KvCoding::symmetric, "symmetric", symmetric},
                            {KvCoding::e4m3, "e4m3", e4m3}});
  };
  return tag == 'k' ? values("kasym", "ksym", "ke4m3") : values("vasym", "vsym", "ve4m3");
}

Values kv_codes_with_channel(char tag) {
  Values values = kv_codes(tag);
  values.allowed.push_back(static_cast<int>(KvCoding::channel));
  values.words.push_back(to_string(KvCoding::channel));
  values.tokens.push_back(tag == 'k' ? "kchan" : "vchan");
  return values;
}

std::string kv_codes_refusal(char tensor, int code_bits, KvCoding codes) {
  if (codes == KvCoding::channel) {
    if (tensor == 'k' && code_bits < 8) return "";
    return tensor == 'k'
               ? fmt::format(
                     "k_codes channel with k_bits {} is refused: codes by channel have 2 or 4 "
                     "bits; "
                     "use k_bits 4, or k_codes asymmetric",
                     code_bits)
               : std::string(
                     "v_codes channel is refused: K alone has channels that stand out in all "
                     "tokens; use v_codes asymmetric");
  }
  if (codes == KvCoding::asymmetric || (codes == KvCoding::symmetric && kv_quantized(code_bits)) ||
      code_bits == 8)
    return "";
  return fmt::format("{0}_codes {1} with {0}_bits {2} is refused: {3}", tensor, to_string(codes),
                     code_bits,
                     codes == KvCoding::e4m3
                         ? fmt::format("a number of e4m3 has 8 bits; use {}_bits 8", tensor)
                         : fmt::format("16 bits are stored as they come; use {0}_bits 2, 4 or 8, "
                                       "or {0}_codes asymmetric, which 16 bits ignore",
                                       tensor));
}

namespace {

constexpr int kMostChannels = 256;
constexpr int kMostPageTokens = 1 << 16;

std::string page_advice(int tokens) {
  return fmt::format("a page has whole blocks of {} tokens, {} at most; the next such number is {}",
                     kKvBlockTokens, kMostPageTokens,
                     rounded_up(std::clamp(tokens, 1, kMostPageTokens), kKvBlockTokens));
}

std::string channel_group_advice(int tokens) {
  return fmt::format(
      "with k_codes channel a page has whole groups of {} tokens, which share the scales of their "
      "channels; the next such number is {}",
      kKvGroupTokens, rounded_up(tokens, kKvGroupTokens));
}

}  // namespace

const Fields& kv_format_fields() {
  static const Fields fields{
      field<&KvFormat::head_dim>("head_dim", "d", range(1, kMostChannels)),
      field<&KvFormat::io>("io", "", io_types(), io_advice),
      field<&KvFormat::k_bits>("k_bits", "k", kv_bits()),
      field<&KvFormat::v_bits>("v_bits", "v", kv_bits()),
      field<&KvFormat::page_tokens>("page_tokens", "p", range(kKvBlockTokens, kMostPageTokens),
                                    page_advice),
      field<&KvFormat::layout>(
          "layout", "",
          words<KvPageLayout>({{KvPageLayout::hnd, "hnd"}, {KvPageLayout::nhd, "nhd"}})),
      later(field<&KvFormat::k_codes>("k_codes", "", kv_codes_with_channel('k'))),
      later(field<&KvFormat::v_codes>("v_codes", "", kv_codes_with_channel('v'))),
  };
  return fields;
}

std::string to_string(const KvFormat& format) { return options_text(kv_format_fields(), &format); }

KvFormat kv_format_of(std::string_view text) {
  KvFormat format;
  read_options(kv_format_fields(), &format, text);
  validate(format);
  return format;
}

void validate(const KvFormat& format) {
  std::vector<std::string> refused = refused_values(kv_format_fields(), &format);
  if (refused.empty() && format.page_tokens % kKvBlockTokens != 0)
    refused.push_back(fmt::format("page_tokens {} is refused: {}", format.page_tokens,
                                  page_advice(format.page_tokens)));
  else if (refused.empty() && format.page_tokens % kv_page_unit(format.k_codes) != 0)
    refused.push_back(fmt::format("page_tokens {} is refused: {}", format.page_tokens,
                                  channel_group_advice(format.page_tokens)));
  if (refused.empty()) {
    for (const std::string& sentence : {kv_codes_refusal('k', format.k_bits, format.k_codes),
                                        kv_codes_refusal('v', format.v_bits, format.v_codes)}) {
      if (!sentence.empty()) refused.push_back(sentence);
    }
  }
  if (!refused.empty()) throw SpecError(fmt::format("{}", fmt::join(refused, "\n")));
}

KvStrides kv_strides(const KvFormat& format, int kv_heads) {
  const std::int64_t block = KvBlock(format).bytes();
  const std::int64_t blocks = format.page_tokens / kKvBlockTokens;
  const bool heads_first = format.layout == KvPageLayout::hnd;
  return {.page = kv_heads * blocks * block,
          .head = heads_first ? blocks * block : block,
          .block = heads_first ? block : kv_heads * block};
}

// FNV-1a, 64 bits, of the version of the layout, the members and what they make of a block. Members that join later are
// silent at their default: it stays what it was.
std::uint64_t kv_digest(const KvFormat& format) {
  const std::string text =
      fmt::format("kv1_{}_b{}", key_text(kv_format_fields(), &format), KvBlock(format).bytes());
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

void validate(const KvExact& exact) {
  constexpr std::int64_t kMost = 1 << 20;
  const auto check = [kMost](const char* name, std::int64_t tokens, std::int64_t least, int unit) {
    if (tokens >= least && tokens <= kMost && tokens % unit == 0) return;
    throw SpecError(
        fmt::format("{} of {} exact tokens is refused: it is a multiple of {}, from {} to {}", name,
                    tokens, unit, least, kMost));
  };
  constexpr int kTile = 2 * kKvBlockTokens;  // the largest that decode takes at a time
  check("sinks", exact.sinks, 0, kTile);
  check("window", exact.window, 0, kKvBlockTokens);
  check("unit", exact.unit, kTile, kTile);
  check("taken_back", exact.taken_back, 0, kKvBlockTokens);
}

KvFormat kv_exact_format(KvFormat format) {
  format.k_bits = format.v_bits = 16;
  format.k_codes = format.v_codes = KvCoding::asymmetric;
  format.page_tokens = kKvBlockTokens;
  format.layout = KvPageLayout::hnd;
  return format;
}

}  // namespace sagegen
