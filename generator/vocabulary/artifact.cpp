#include "sagegen/artifact.h"

#include <charconv>

#include <fmt/format.h>

namespace sagegen {
namespace {

constexpr std::string_view kParamsLine = "// sagegen parameters: ";
constexpr std::size_t kHexDigits = 16;

}  // namespace

std::string params_line(std::uint64_t digest) {
  return fmt::format("{}{:016x}\n", kParamsLine, digest);
}

std::optional<std::uint64_t> params_of_ptx(std::string_view ptx) {
  const std::size_t found = ptx.find(kParamsLine);
  if (found == std::string_view::npos) return std::nullopt;
  const std::string_view digits = ptx.substr(found + kParamsLine.size(), kHexDigits);
  std::uint64_t digest = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), digest, 16);
  if (error != std::errc() || digits.size() != kHexDigits || end != digits.end())
    return std::nullopt;
  return digest;
}

}  // namespace sagegen
