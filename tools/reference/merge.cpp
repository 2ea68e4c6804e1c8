#include "tools/reference/merge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace sagegen::reference {

namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

double largest_lse(const std::vector<Output>& parts, std::size_t row) {
  double largest = kNothing;
  for (const Output& part : parts) largest = std::max(largest, part.lse[row]);
  return largest;
}

double sum_of_weights(const std::vector<Output>& parts, std::size_t row, double largest) {
  double sum = 0;
  for (const Output& part : parts) sum += std::exp(part.lse[row] - largest);
  return sum;
}

void check_shapes(const std::vector<Output>& parts, std::size_t channels) {
  if (parts.empty()) throw std::invalid_argument("there are no parts to merge");
  const std::size_t rows = parts.front().lse.size();
  for (const Output& part : parts) {
    if (part.lse.size() != rows || part.o.size() != rows * channels)
      throw std::invalid_argument("parts have different shapes");
  }
}

}  // namespace

Output merged(const std::vector<Output>& parts, std::int64_t channels) {
  const auto width = static_cast<std::size_t>(channels);
  check_shapes(parts, width);
  const std::size_t rows = parts.front().lse.size();
  Output all{.o = std::vector<double>(rows * width), .lse = std::vector<double>(rows, kNothing)};
  for (std::size_t row = 0; row < rows; ++row) {
    const double largest = largest_lse(parts, row);
    if (largest == kNothing) continue;
    const double sum = sum_of_weights(parts, row, largest);
    all.lse[row] = largest + std::log(sum);
    for (const Output& part : parts) {
      if (part.lse[row] == kNothing) continue;
      const double share = std::exp(part.lse[row] - largest) / sum;
      for (std::size_t i = row * width; i < (row + 1) * width; ++i) all.o[i] += share * part.o[i];
    }
  }
  return all;
}

Output merge_allowance(const std::vector<Output>& parts, std::int64_t channels) {
  const auto width = static_cast<std::size_t>(channels);
  check_shapes(parts, width);
  const std::size_t rows = parts.front().lse.size();
  const double of_arithmetic = 0x1p-20 + 0x1p-23 * static_cast<double>(parts.size());
  Output all{.o = std::vector<double>(rows * width), .lse = std::vector<double>(rows)};
  for (std::size_t row = 0; row < rows; ++row) {
    const double largest = largest_lse(parts, row);
    if (largest == kNothing) continue;
    const double sum = sum_of_weights(parts, row, largest);
    all.lse[row] = of_arithmetic + 0x1p-22 * std::abs(largest + std::log(sum));
    for (const Output& part : parts) {
      if (part.lse[row] == kNothing) continue;
      const double below = largest - part.lse[row];
      const double share = std::exp(-below) / sum;
      for (std::size_t i = row * width; i < (row + 1) * width; ++i)
        all.o[i] += std::abs(part.o[i]) * (share * (of_arithmetic + 0x1p-22 * below) + 0x1p-125);
    }
  }
  return all;
}

double half_ulp(IoType type, double value) {
  const int digits = type == IoType::f16 ? 11 : type == IoType::bf16 ? 8 : 24;
  const int least = type == IoType::f16 ? -14 : -126;  // exponent of the least normal number
  const int exponent = value == 0 ? least : std::max(std::ilogb(value), least);
  return std::ldexp(1.0, exponent - digits);
}

}  // namespace sagegen::reference
