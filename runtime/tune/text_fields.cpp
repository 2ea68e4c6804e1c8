#include "runtime/tune/text_fields.h"

#include <charconv>

#include <fmt/format.h>

#include "runtime/artifacts/bundle_format.h"

namespace sagegen::runtime {

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\') {
      result += "\\\\";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      result += fmt::format("\\{:02x}", static_cast<unsigned char>(c));
    } else {
      result += c;
    }
  }
  return result;
}

std::optional<std::string> unescaped(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      result += text[i];
    } else if (text.substr(i + 1).starts_with('\\')) {
      result += '\\';
      ++i;
    } else {
      const std::string_view digits = text.substr(i + 1, 2);
      int code = 0;
      const auto [end, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
      if (digits.size() != 2 || error != std::errc() || end != digits.data() + 2)
        return std::nullopt;
      result += static_cast<char>(code);
      i += 2;
    }
  }
  return result;
}

std::string number_text(double value) { return fmt::format("{}", value); }

std::optional<double> number_of(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <typename Integer>
std::optional<Integer> integer_of(std::string_view text, int base) {
  Integer value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}
template std::optional<int> integer_of(std::string_view, int);
template std::optional<std::uint64_t> integer_of(std::string_view, int);

std::string sum_text(std::string_view bytes) {
  return fmt::format("{:016x}", bundle_format::fnv1a(bytes));
}

}  // namespace sagegen::runtime
