#include "recording.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <regex>
#include <stdexcept>

// A header of JSON, behind eight bytes that say how long it is; then the data. What an example needs of it is one tensor by
// its name; a real program takes a library.
Recorded read_recorded(const std::string& file, const std::string& name) {
  std::ifstream stream(file, std::ios::binary);
  std::uint64_t size = 0;
  if (!stream.read(reinterpret_cast<char*>(&size), sizeof size) || size > (1u << 20))
    throw std::runtime_error(file + " cannot be read as a safetensors file");
  std::string header(size, ' ');
  stream.read(header.data(), static_cast<std::streamsize>(size));
  const std::regex entry("\"" + name +
                         R"re(": *\{"dtype": *"F16", *"shape": *\[1, *(\d+), *(\d+), *(\d+)\], *)re"
                         R"re("data_offsets": *\[(\d+), *(\d+)\])re");
  std::smatch match;
  if (!std::regex_search(header, match, entry))
    throw std::runtime_error(file + " has no tensor \"" + name + "\" of f16 and one batch");
  Recorded tensor{std::stoll(match[1]), std::stoll(match[2]), std::stoll(match[3]), {}};
  tensor.bits.resize(static_cast<std::size_t>(tensor.heads * tensor.tokens * tensor.channels));
  stream.seekg(static_cast<std::streamoff>(sizeof size + size + std::stoull(match[4])));
  if (!stream.read(reinterpret_cast<char*>(tensor.bits.data()),
                   static_cast<std::streamsize>(tensor.bits.size() * sizeof(std::uint16_t))))
    throw std::runtime_error(file + " ends within tensor \"" + name + "\"");
  return tensor;
}

double of_f16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude = exponent == 0    ? std::ldexp(mantissa, -24)
                           : exponent == 31 ? (mantissa == 0 ? INFINITY : NAN)
                                            : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

std::uint16_t to_f16(double value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double magnitude = std::abs(value);
  if (magnitude >= 65520) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = std::max(exponent, -13);  // the steps of subnormal numbers
  const double steps = std::nearbyint(std::ldexp(magnitude, 11 - exponent));
  // A carry into the next exponent is the same sum.
  return sign | static_cast<std::uint16_t>(steps + 1024 * (exponent + 13));
}
