#include "tools/kv/layout.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <functional>
#include <ranges>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"

namespace sagegen::kv {

namespace {

// place(x) - place(0) of an x below `end`, a power of two, as an expression. Each bit of x moves the place by a distance of
// its own, a power of two; neighbours that move it by as many times their own worth are one term.
void add_terms(std::vector<std::string>& terms, const char* name, int end,
               const std::function<int(int)>& place) {
  const auto shift_of = [&](int bit) {
    return std::countr_zero(static_cast<unsigned>(place(bit) - place(0))) -
           std::countr_zero(static_cast<unsigned>(bit));
  };
  for (int bit = 1, next = 1; bit < end; bit = next) {
    const int shift = shift_of(bit);
    int bits = 0;
    for (; next < end && shift_of(next) == shift; next *= 2) bits |= next;
    const std::string masked = fmt::format("({} & {})", name, bits);
    terms.push_back(shift == 0  ? masked
                    : shift > 0 ? fmt::format("({} << {})", masked, shift)
                                : fmt::format("({} >> {})", masked, -shift));
  }
}

std::string sum(int base, const std::vector<std::string>& terms) {
  if (terms.empty()) return fmt::format("{}", base);
  const std::string text = fmt::format("{}", fmt::join(terms, " + "));
  return base == 0 ? text : fmt::format("{} + {}", base, text);
}

class Text {
 public:
  Text(Language language, const std::string& prefix) : language_(language), prefix_(prefix) {}

  void line(const std::string& text) { text_ += text + '\n'; }
  void comment(const std::string& text) { line((language_ == Language::c ? "// " : "# ") + text); }
  void constant(std::string_view name, const std::string& value) {
    std::string upper = fmt::format("{}_{}", prefix_, name);
    std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
    line(language_ == Language::c ? fmt::format("#define {} {}", upper, value)
                                  : fmt::format("{} = {}", upper, value));
  }
  void function(std::string_view name, bool wide, const std::vector<std::string>& arguments,
                const std::string& value) {
    const bool c = language_ == Language::c;
    const auto typed =
        arguments | std::views::transform([&](const std::string& argument) {
          return c ? fmt::format("{} {}", wide ? "int64_t" : "int", argument) : argument + ": int";
        });
    if (c) {
      line(fmt::format("static inline {} {}_{}({}) {{", wide ? "int64_t" : "int", prefix_, name,
                       fmt::join(typed, ", ")));
      line(fmt::format("  return {};\n}}", value));
    } else {
      line(fmt::format("\n\ndef {}_{}({}) -> int:\n    return {}", prefix_, name,
                       fmt::join(typed, ", "), value));
    }
  }
  const std::string& text() const { return text_; }

 private:
  Language language_;
  std::string prefix_, text_;
};

std::string meaning(const char* tensor, int bits, KvCoding codes) {
  if (!kv_quantized(bits)) return fmt::format("  {}: 16 bits are numbers of io", tensor);
  switch (codes) {
    case KvCoding::asymmetric:
      return fmt::format("  {}: scale * code + zero, codes without sign", tensor);
    case KvCoding::symmetric:
      return fmt::format("  {}: scale * (code - {}), codes without sign", tensor,
                         kv_code_offset(codes, bits));
    case KvCoding::e4m3:
      return fmt::format("  {}: scale * code, codes of FP8 e4m3", tensor);
    case KvCoding::channel:
      return fmt::format(
          "  {}: scale * code + zero, codes without sign, of each channel and GROUP_TOKENS tokens",
          tensor);
  }
  return "?";
}

void check_prefix(const std::string& prefix) {
  const auto is_letter = [](unsigned char c) { return std::isalpha(c) != 0 || c == '_'; };
  const bool identifier = !prefix.empty() && is_letter(static_cast<unsigned char>(prefix[0])) &&
                          std::ranges::all_of(prefix, [&](unsigned char c) {
                            return is_letter(c) || std::isdigit(c) != 0;
                          });
  if (!identifier) {
    throw SpecError(fmt::format(
        "prefix \"{}\" is refused: names of C and Python begin with it; use letters, digits and _",
        prefix));
  }
}

}  // namespace

std::string layout_text(const KvFormat& format, Language language, const std::string& prefix) {
  validate(format);
  check_prefix(prefix);
  const KvBlock block(format);
  const bool c = language == Language::c;
  Text text(language, prefix);
  text.comment(fmt::format("A KV cache: {}.", to_string(format)));
  text.comment("Made by `sagegen kv layout`; do not edit.");
  text.comment("");
  text.comment(
      "A token of a KV head has a row of codes of K and one of V, channel after channel, the first "
      "ones of a byte in its");
  text.comment(
      "lowest bits, and of each token a scale and, where codes have one, a zero point, in f16. "
      "What they stand for:");
  text.comment(meaning("K", format.k_bits, format.k_codes));
  text.comment(meaning("V", format.v_bits, format.v_codes));
  text.comment("Channels behind HEAD_DIM stand for nothing.");
  if (block.k_of_channels()) {
    text.comment(
        "Scales of K lie in the first block of a group of tokens, the zero points at the same "
        "places "
        "of its second one.");
  }
  text.line("");
  std::string guard = prefix + "_layout_h";
  std::ranges::transform(guard, guard.begin(), [](unsigned char x) { return std::toupper(x); });
  if (c) {
    text.line(fmt::format("#ifndef {}\n#define {}\n\n#include <stdint.h>\n", guard, guard));
  }
  text.constant("digest", fmt::format("0x{:016x}{}", kv_digest(format), c ? "u" : ""));
  text.constant("head_dim", fmt::format("{}", format.head_dim));
  text.constant("channels", fmt::format("{}", block.channels));
  text.constant("k_bits", fmt::format("{}", format.k_bits));
  text.constant("v_bits", fmt::format("{}", format.v_bits));
  text.constant("k_row_bytes", fmt::format("{}", block.k_row_bytes()));
  text.constant("v_row_bytes", fmt::format("{}", block.v_row_bytes()));
  text.constant("page_tokens", fmt::format("{}", format.page_tokens));
  text.constant("block_tokens", fmt::format("{}", kKvBlockTokens));
  text.constant("block_bytes", fmt::format("{}", block.bytes()));
  if (block.k_of_channels()) text.constant("group_tokens", fmt::format("{}", kKvGroupTokens));
  if (c) text.line("");

  const KvStrides one = kv_strides(format, 1);
  const bool heads_first = format.layout == KvPageLayout::hnd;
  if (c)
    text.comment(
        "Bytes of a page, and from the start of a contiguous pool to the block that a token of a "
        "page lies in.");
  text.function("page_bytes", true, {"kv_heads"}, fmt::format("{} * kv_heads", one.page));
  text.function("block_offset", true, {"kv_heads", "page", "head", "token"},
                heads_first
                    ? fmt::format("{} * (page * kv_heads + head) + {} * (token {} {})", one.page,
                                  block.bytes(), c ? "/" : "//", kKvBlockTokens)
                    : fmt::format("{} * kv_heads * page + {} * (token {} {} * kv_heads + head)",
                                  one.page, block.bytes(), c ? "/" : "//", kKvBlockTokens));
  if (c)
    text.comment(
        "From the start of a block: token is that of the block, 0 to 15, and row_byte one of its "
        "row.");
  const auto row = [&](const char* name, int row_bytes, const std::function<int(int, int)>& place) {
    std::vector<std::string> terms;
    add_terms(terms, "token", kKvBlockTokens, [&](int token) { return place(token, 0); });
    add_terms(terms, "row_byte", row_bytes, [&](int byte) { return place(0, byte); });
    text.function(name, false, {"token", "row_byte"}, sum(place(0, 0), terms));
  };
  const auto parameter = [&](const char* name, const std::function<int(int)>& place) {
    std::vector<std::string> terms;
    add_terms(terms, "token", kKvBlockTokens, place);
    text.function(name, false, {"token"}, sum(place(0), terms));
  };
  row("k_byte", block.k_row_bytes(), [&](int t, int byte) { return block.k_byte(t, byte); });
  row("v_byte", block.v_row_bytes(), [&](int t, int byte) { return block.v_byte(t, byte); });
  const auto parameter_if = [&](bool has, const char* name, int (KvBlock::*place)(int) const) {
    if (has) parameter(name, [&](int token) { return (block.*place)(token); });
  };
  parameter_if(block.k_of_tokens(), "k_scale", &KvBlock::s_k);
  parameter_if(block.k_of_tokens() && block.k_has_zero_point(), "k_zero", &KvBlock::z_k);
  parameter_if(kv_quantized(format.v_bits), "v_scale", &KvBlock::s_v);
  parameter_if(block.v_has_zero_point(), "v_zero", &KvBlock::z_v);
  if (block.k_of_channels()) {
    std::vector<std::string> terms;
    add_terms(terms, "channel", block.channels,
              [&](int channel) { return block.k_channel(channel); });
    text.function("k_channel", false, {"channel"}, sum(block.k_channel(0), terms));
  }
  if (c) text.line(fmt::format("\n#endif  // {}", guard));
  return text.text();
}

}  // namespace sagegen::kv
