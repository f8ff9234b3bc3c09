// Conversions between fp32 and the bits of 16-bit numbers, as the GPU does them.
#pragma once

#include <bit>
#include <cstdint>

namespace attnspec::cuda::simulator {

inline float float_of_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

inline float float_of_fp16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | magnitude << 13);
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;  // the bias is 127, not 15
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
}

/// To nearest, ties to even; every NaN becomes 0x7fff.
inline std::uint16_t bf16_of_float(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// To nearest, ties to even; every NaN becomes 0x7fff.
inline std::uint16_t fp16_of_float(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x47800000u) return sign | 0x7c00;  // 2^16 and above
  if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, which fp32 addition rounds to
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u));
  }
  return static_cast<std::uint16_t>(sign | (magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

}  // namespace attnspec::cuda::simulator
