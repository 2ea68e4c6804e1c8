// MUFU functions as correctly rounded functions. The PTX ISA bounds the hardware's error around the
// exact value; the nearest float is the middle of what it allows.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "runtime/emulator/numerics/numerics.h"

namespace sagegen::emulator {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float nan_result() { return std::bit_cast<float>(0x7fffffffu); }

// The float nearest to an exact value that `approximation` meets within a few double ulps, if that
// determines it; otherwise the float nearest to `precise()`, an 80-bit evaluation. No float
// argument of ex2, lg2 and rsqrt brings the exact value within 2^-60 of a rounding boundary unless
// it is exact; for sin, cos and tanh that is not proved, and their bounds are thousands of ulps.
template <typename Precise>
float round_once(double approximation, Precise precise) {
  constexpr double kMargin = 4 * std::numeric_limits<double>::epsilon();
  const float low = static_cast<float>(approximation * (1.0 - kMargin));
  const float high = static_cast<float>(approximation * (1.0 + kMargin));
  return low == high ? low : static_cast<float>(precise());
}

double with_upper_bits(double x, std::uint64_t more) {
  constexpr std::uint64_t kUpper = 0xffff'ffff'0000'0000;
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  return std::bit_cast<double>((bits + more) & kUpper);
}

double flush_wide(double x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0, x) : x;
}

// `value` as an instruction returns it that writes 20 bits of fraction, to nearest even.
double round_to_upper_bits(double value) {
  if (std::isnan(value)) {
    return std::bit_cast<double>(std::uint64_t{0x7fff'ffff'0000'0000});
  }
  const std::uint64_t odd = std::bit_cast<std::uint64_t>(value) >> 32 & 1;
  return flush_wide(with_upper_bits(value, 0x7fff'ffff + odd));
}

float flush_if(float value, bool ftz) { return ftz ? flush_denormal(value) : value; }

}  // namespace

float ex2_approx(float x, bool ftz) {
  if (std::isnan(x)) {
    return nan_result();
  }
  x = flush_if(x, ftz);
  if (x >= 128.0f) {
    return kInfinity;
  }
  if (x < -150.0f) {  // below half of the smallest subnormal
    return 0.0f;
  }
  const float y = round_once(std::exp2(static_cast<double>(x)),
                             [x] { return std::exp2(static_cast<long double>(x)); });
  return flush_if(y, ftz);
}

float lg2_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (x == 0.0f) {
    return -kInfinity;
  }
  if (!(x > 0.0f)) {
    return nan_result();
  }
  if (x == kInfinity) {
    return kInfinity;
  }
  return round_once(std::log2(static_cast<double>(x)),
                    [x] { return std::log2(static_cast<long double>(x)); });
}

float rcp_approx(float x, bool ftz) {
  if (std::isnan(x)) {
    return nan_result();
  }
  x = flush_if(x, ftz);
  if (x == 0.0f) {
    return std::copysign(kInfinity, x);
  }
  return flush_if(1.0f / x, ftz);
}

float rsqrt_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (x == 0.0f) {
    return std::copysign(kInfinity, x);
  }
  if (!(x > 0.0f)) {
    return nan_result();
  }
  if (x == kInfinity) {
    return 0.0f;
  }
  return round_once(1.0 / std::sqrt(static_cast<double>(x)),
                    [x] { return 1.0L / std::sqrt(static_cast<long double>(x)); });
}

float sqrt_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (x == 0.0f || x == kInfinity) {
    return x;
  }
  if (!(x > 0.0f)) {
    return nan_result();
  }
  return std::sqrt(x);
}

float sin_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (!std::isfinite(x)) {
    return nan_result();
  }
  if (x == 0.0f) {
    return x;
  }
  const float y = round_once(std::sin(static_cast<double>(x)),
                             [x] { return std::sin(static_cast<long double>(x)); });
  return flush_if(y, ftz);
}

float cos_approx(float x, bool ftz) {
  x = flush_if(x, ftz);
  if (!std::isfinite(x)) {
    return nan_result();
  }
  const float y = round_once(std::cos(static_cast<double>(x)),
                             [x] { return std::cos(static_cast<long double>(x)); });
  return flush_if(y, ftz);
}

float tanh_approx(float x) {
  if (std::isnan(x)) {
    return nan_result();
  }
  if (x == 0.0f) {
    return x;
  }
  return round_once(std::tanh(static_cast<double>(x)),
                    [x] { return std::tanh(static_cast<long double>(x)); });
}

double rsqrt_approx_f64(double x) {
  if (x == 0.0) {
    return std::copysign(std::numeric_limits<double>::infinity(), x);
  }
  return static_cast<double>(1.0L / std::sqrt(static_cast<long double>(x)));
}

double rcp_approx_ftz_f64(double x) {
  return round_to_upper_bits(1.0 / flush_wide(with_upper_bits(x, 0)));
}

double rsqrt_approx_ftz_f64(double x) {
  return round_to_upper_bits(rsqrt_approx_f64(flush_wide(with_upper_bits(x, 0))));
}

}  // namespace sagegen::emulator
