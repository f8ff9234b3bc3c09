// Storage formats and rounding to them. The specification never rounds; the model kernel, the inputs and the noise
// prediction do, all through this one file.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace attnspec::reference {

/// Number formats of tensors and of operands. tf32 holds no tensor: it is fp32's exponents and eleven bits, which
/// tensor cores multiply. A number becomes tf32 by rounding, or tf32_cut by dropping the bits behind them.
enum class Format { bf16, fp16, fp32, tf32, tf32_cut };

/// Significand bits p, hidden bit included: 8, 11, 24, and 11 of tf32.
constexpr int precision(Format format) { return format == Format::bf16 ? 8 : format == Format::fp32 ? 24 : 11; }

/// Exponents of the smallest and the largest normal numbers.
constexpr int min_exponent(Format format) { return format == Format::fp16 ? -14 : -126; }
constexpr int max_exponent(Format format) { return format == Format::fp16 ? 15 : 127; }

/// Unit roundoff u: the largest relative error of a normal number, 2^-p by one rounding to nearest, 2^-10 where cut.
constexpr double unit_roundoff(Format format) {
  if (format == Format::bf16) return 0x1p-8;
  if (format == Format::fp32) return 0x1p-24;
  return format == Format::tf32_cut ? 0x1p-10 : 0x1p-11;
}

/// 2^exponent, for -1022 <= exponent <= 1023.
inline double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<std::int64_t>(exponent + 1023) << 52);
}

/// Distance of neighbouring numbers of the format around a finite x (above |x| where x is a power of two).
inline double spacing(double x, Format format) {
  const int exponent = static_cast<int>(std::bit_cast<std::uint64_t>(x) >> 52 & 0x7ff) - 1023;
  return power_of_two(std::max(exponent, min_exponent(format)) - precision(format) + 1);
}

/// Distance of neighbouring subnormals, the smallest positive number: bf16 2^-133, fp16 2^-24, fp32 2^-149.
inline double subnormal_spacing(Format format) { return spacing(0, format); }

/// The largest finite number.
inline double largest_finite(Format format) {
  return std::ldexp(2.0 - std::ldexp(1.0, 1 - precision(format)), max_exponent(format));
}

/// The smallest magnitude that rounds to infinity: half a spacing above the largest finite number.
inline double overflow_threshold(Format format) {
  return std::ldexp(2.0 - std::ldexp(1.0, -precision(format)), max_exponent(format));
}

/// x rounded once, to nearest, ties to even (away from zero for tf32), with subnormals and overflow to infinity; toward
/// zero for tf32_cut. NaN
/// stays NaN. One rounding from double: going through float would round twice.
double round_to(double x, Format format);

const char* name(Format format);

}  // namespace attnspec::reference
