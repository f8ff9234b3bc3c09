// Powers of two that bring numbers into the range of fp16, exactly.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

__device__ __forceinline__ float power_of_two(int exponent) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(exponent + 127) << 23);
}

/// The exponent of the power of two that brings numbers of at most this size below 2^13, and the largest to 2^12 if a
/// float can: parts of fp16 then have 2^-37 of the largest as their smallest spacing, and sums of products stay far
/// from infinity.
__device__ __forceinline__ int exponent_of_scale(float largest) {
  const int exponent = 12 + 127 - static_cast<int>(__builtin_bit_cast(std::uint32_t, largest) >> 23);
  return exponent > 126 ? 126 : exponent < -126 ? -126 : exponent;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
