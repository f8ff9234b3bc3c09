// Division by a number that a launch knows.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// n / divisor for n < 2^31: the upper half of a product. With 2^shift the first power of two that is not below the
/// divisor, 2^(31 + shift) / divisor, rounded up, is a factor of 32 bits that is exact enough.
struct Divider {
  std::uint32_t factor = std::uint32_t{1} << 31;  // by 1
  int shift = 0;

  Divider() = default;
  explicit Divider(std::int64_t divisor) {
    while ((std::int64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<std::uint32_t>(((std::int64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }

  __device__ __forceinline__ int of(int n) const {
    return static_cast<int>(
        static_cast<std::uint32_t>(std::uint64_t{2 * static_cast<std::uint32_t>(n)} * factor >> 32) >> shift);
  }
};

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
