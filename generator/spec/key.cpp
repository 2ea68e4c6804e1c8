// The text form of a KernelSpec: tokens separated by '_'. kind_tokens() writes those that belong to
// a kind, read_kind_tokens() reads them.
#include <algorithm>
#include <charconv>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/spec/detail.h"
#include "sagegen/error.h"

namespace sagegen {
namespace {

using detail::shown;

struct KindWord {
  KernelKind kind;
  std::string_view word;
};
constexpr KindWord kKindWords[] = {{KernelKind::attention, "fwd"},
                                   {KernelKind::kv_statistics, "kvstats"},
                                   {KernelKind::quantize_k, "quantk"},
                                   {KernelKind::quantize_v, "quantv"},
                                   {KernelKind::quantize_q, "quantq"}};

std::string codes_token(const QuantSpec& quant) {
  return fmt::format("{}{}", to_string(quant.qk),
                     quant.granularity == Granularity::per_thread ? 't' : 'b');
}

std::string target_token(Target target) {
  std::string text = fmt::format("sm{}", target.sm);
  if (target.suffix != '\0') text += target.suffix;
  return text;
}

// Splits at '_' and hands out one token after another; every complaint names token and position.
class TokenReader {
 public:
  explicit TokenReader(std::string_view text) : text_(text) {}

  std::string_view next(std::string_view expected) {
    if (begin_ > text_.size()) {
      throw SpecError(
          fmt::format("bad kernel key \"{}\": it ends where {} belongs", shown(text_), expected));
    }
    const std::size_t end = std::min(text_.find('_', begin_), text_.size());
    token_ = text_.substr(begin_, end - begin_);
    token_begin_ = begin_;
    begin_ = end + 1;
    ++number_;
    return token_;
  }

  [[noreturn]] void refuse(std::string_view expected) const {
    throw SpecError(fmt::format("bad kernel key \"{}\": token {} \"{}\" at position {} is not {}",
                                shown(text_), number_, shown(token_), token_begin_ + 1, expected));
  }

  void literal(std::string_view word, std::string_view expected) {
    if (next(expected) != word) refuse(expected);
  }

  // One of `words`; returns its index.
  std::size_t choice(std::initializer_list<std::string_view> words, std::string_view expected) {
    const std::string_view token = next(expected);
    const auto found = std::find(words.begin(), words.end(), token);
    if (found == words.end()) refuse(expected);
    return static_cast<std::size_t>(found - words.begin());
  }

  template <typename Enum>
  Enum word(std::string_view expected) {
    const std::optional<Enum> value = from_string<Enum>(next(expected));
    if (!value) refuse(expected);
    return *value;
  }

  // Numbers with a letter (or "sm") before each: "q128k64w4s2". One form per value: no sign, no
  // leading 0.
  template <typename... Ints>
  void numbers(std::string_view expected, std::initializer_list<std::string_view> prefixes,
               Ints&... values) {
    std::string_view rest = next(expected);
    auto prefix = prefixes.begin();
    const auto take = [&](int& value) {
      if (!rest.starts_with(*prefix)) refuse(expected);
      rest.remove_prefix(prefix->size());
      ++prefix;
      const std::size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
      const bool one_form = digits >= 1 && digits <= kMaxDigits && (digits == 1 || rest[0] != '0');
      if (!one_form) refuse(expected);
      std::from_chars(rest.data(), rest.data() + digits, value);
      rest.remove_prefix(digits);
    };
    (take(values), ...);
    if (!rest.empty()) refuse(expected);
  }

  void finish() const {
    if (begin_ <= text_.size()) {
      throw SpecError(fmt::format("bad kernel key \"{}\": \"{}\" at position {} follows the target",
                                  shown(text_), shown(text_.substr(begin_ - 1)), begin_));
    }
  }

 private:
  static constexpr std::size_t kMaxDigits = 6;

  std::string_view text_;
  std::string_view token_;
  std::size_t begin_ = 0;
  std::size_t token_begin_ = 0;
  int number_ = 0;
};

void read_codes(TokenReader& reader, QuantSpec& quant) {
  constexpr std::string_view kExpected =
      "s8t, s8b, s4t or s4b (codes of Q and K, scales per thread or block)";
  const std::size_t index = reader.choice({"s8t", "s8b", "s4t", "s4b"}, kExpected);
  quant.qk = index < 2 ? DType::s8 : DType::s4;
  quant.granularity = index % 2 == 0 ? Granularity::per_thread : Granularity::per_block;
}

void read_attention(TokenReader& reader, KernelSpec& spec) {
  spec.problem.mask = reader.word<Mask>("a mask: none or causal");
  reader.literal("qk", "the word qk");
  read_codes(reader, spec.quant);
  reader.numbers("g<q_group>x<k_group>, for example g32x64", {"g", "x"}, spec.quant.q_group,
                 spec.quant.k_group);
  reader.literal("pv", "the word pv");
  spec.quant.pv = reader.word<DType>("a dtype of P and V: e4m3 or f16");
  const std::size_t sum =
      reader.choice({"f32", "f32x2"}, "f32 or f32x2 (accumulation, one or two levels)");
  spec.quant.accumulation = sum == 0 ? Accumulation::f32 : Accumulation::two_level_f32;
  reader.numbers("q<cta_q>k<cta_k>w<warps>s<stages>, for example q128k64w4s2", {"q", "k", "w", "s"},
                 spec.schedule.cta_q, spec.schedule.cta_k, spec.schedule.warps,
                 spec.schedule.stages);
}

void read_statistics(TokenReader& reader, KernelSpec& spec) {
  const bool always_v = v_is_quantized(spec.problem, {.pv = DType::f16});
  const std::string_view expected =
      always_v ? "vmax or ksumvmax (a V of this io dtype is always quantized)"
               : "ksum, vmax or ksumvmax";
  const std::size_t index = reader.choice({"ksumvmax", "vmax", "ksum"}, expected);
  if (index == 2 && always_v) reader.refuse(expected);
  spec.quant.smoothing = index == 1 ? Smoothing::none : Smoothing::k;
  spec.quant.pv = index == 2 ? DType::f16 : DType::e4m3;
}

std::string statistics_token(const KernelSpec& spec) {
  std::string token;
  if (spec.quant.smoothing == Smoothing::k) token += "ksum";
  if (v_is_quantized(spec.problem, spec.quant)) token += "vmax";
  return token.empty() ? "nothing" : token;
}

std::string kind_tokens(const KernelSpec& spec) {
  const QuantSpec& q = spec.quant;
  const TileSchedule& s = spec.schedule;
  switch (spec.kind) {
    case KernelKind::attention:
      return fmt::format("{}_qk_{}_g{}x{}_pv_{}_{}_q{}k{}w{}s{}", to_string(spec.problem.mask),
                         codes_token(q), q.q_group, q.k_group, to_string(q.pv),
                         q.accumulation == Accumulation::f32 ? "f32" : "f32x2", s.cta_q, s.cta_k,
                         s.warps, s.stages);
    case KernelKind::kv_statistics:
      return statistics_token(spec);
    case KernelKind::quantize_k:
      return fmt::format("{}_g{}_{}", codes_token(q), q.k_group,
                         q.smoothing == Smoothing::k ? "smooth" : "plain");
    case KernelKind::quantize_v:
      return std::string(to_string(q.pv));
    case KernelKind::quantize_q:
      return fmt::format("{}_g{}", codes_token(q), q.q_group);
  }
  return {};
}

void read_kind_tokens(TokenReader& reader, KernelSpec& spec) {
  switch (spec.kind) {
    case KernelKind::attention:
      read_attention(reader, spec);
      break;
    case KernelKind::kv_statistics:
      read_statistics(reader, spec);
      break;
    case KernelKind::quantize_k:
      read_codes(reader, spec.quant);
      reader.numbers("g<k_group>, for example g64", {"g"}, spec.quant.k_group);
      spec.quant.smoothing = reader.choice({"plain", "smooth"}, "smooth or plain") == 0
                                 ? Smoothing::none
                                 : Smoothing::k;
      break;
    case KernelKind::quantize_v:
      spec.quant.pv = reader.word<DType>("a dtype of V's codes: e4m3 or f16");
      break;
    case KernelKind::quantize_q:
      read_codes(reader, spec.quant);
      reader.numbers("g<q_group>, for example g32", {"g"}, spec.quant.q_group);
      break;
  }
}

Target read_target(TokenReader& reader) {
  constexpr std::string_view kExpected = "a target, for example sm89";
  const std::string_view token = reader.next(kExpected);
  for (const TargetInfo& info : supported_targets()) {
    if (token == target_token(info.target)) return info.target;
  }
  std::vector<std::string> names;
  for (const TargetInfo& info : supported_targets()) names.push_back(target_token(info.target));
  reader.refuse(fmt::format("a supported target: {}", fmt::join(names, ", ")));
}

}  // namespace

std::string key(const KernelSpec& spec) {
  std::string_view kind = "?";
  for (const KindWord& entry : kKindWords) {
    if (entry.kind == spec.kind) kind = entry.word;
  }
  return fmt::format("sage_{}_d{}_{}_{}_{}", kind, spec.problem.head_dim,
                     to_string(spec.problem.io), kind_tokens(spec), target_token(spec.target));
}

KernelSpec parse_key(std::string_view text) {
  TokenReader reader(text);
  KernelSpec spec;
  reader.literal("sage", "the word sage");
  const std::size_t kind =
      reader.choice({kKindWords[0].word, kKindWords[1].word, kKindWords[2].word, kKindWords[3].word,
                     kKindWords[4].word},
                    "a kind of kernel: fwd, kvstats, quantk, quantv or quantq");
  spec.kind = kKindWords[kind].kind;
  reader.numbers("d<head_dim>, for example d128", {"d"}, spec.problem.head_dim);
  spec.problem.io = reader.word<DType>("a dtype of Q, K, V and O: f16 or bf16");
  read_kind_tokens(reader, spec);
  spec.target = read_target(reader);
  reader.finish();
  return canonical(spec);
}

}  // namespace sagegen
