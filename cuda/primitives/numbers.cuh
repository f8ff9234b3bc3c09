// 16-bit numbers, conversions, fast functions, and bits.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/primitives/qualifiers.cuh"
#ifndef __CUDACC__
#include <bit>
#include <cmath>

#include "cuda/simulator/formats.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// A number as it lies in memory.
struct bf16 {
  std::uint16_t bits;
};
struct fp16 {
  std::uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bf16 x) {
#ifdef __CUDACC__
  return __uint_as_float(static_cast<std::uint32_t>(x.bits) << 16);
#else
  return simulator::float_of_bf16(x.bits);
#endif
}

__device__ __forceinline__ float to_float(fp16 x) {
#ifdef __CUDACC__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
#else
  return simulator::float_of_fp16(x.bits);
#endif
}

/// x rounded to nearest, ties to even.
template <class T>
__device__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}

template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
#ifdef __CUDACC__
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  return {simulator::bf16_of_float(x)};
#endif
}

template <>
__device__ __forceinline__ fp16 from_float<fp16>(float x) {
#ifdef __CUDACC__
  fp16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  return {simulator::fp16_of_float(x)};
#endif
}

/// Two numbers, rounded to nearest, in one register: `low` in the low half, as fragments of `mma_m16n8k16` want them.
template <class T>
__device__ std::uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ std::uint32_t pack<bf16>(float low, float high) {
#ifdef __CUDACC__
  std::uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return static_cast<std::uint32_t>(simulator::bf16_of_float(high)) << 16 | simulator::bf16_of_float(low);
#endif
}

template <>
__device__ __forceinline__ std::uint32_t pack<fp16>(float low, float high) {
#ifdef __CUDACC__
  std::uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return static_cast<std::uint32_t>(simulator::fp16_of_float(high)) << 16 | simulator::fp16_of_float(low);
#endif
}

/// The two numbers of a register.
template <class T>
__device__ __forceinline__ float unpack_low(std::uint32_t pair) {
  return to_float(T{static_cast<std::uint16_t>(pair)});
}
template <class T>
__device__ __forceinline__ float unpack_high(std::uint32_t pair) {
  return to_float(T{static_cast<std::uint16_t>(pair >> 16)});
}

/// Sums of the numbers of two registers, each rounded to nearest. (fp32 is wide enough for the simulator to round
/// twice.)
template <class T>
__device__ __forceinline__ std::uint32_t add_pairs(std::uint32_t a, std::uint32_t b) {
#ifdef __CUDACC__
  std::uint32_t result;
  if constexpr (std::is_same_v<T, bf16>)
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(0x3f803f80), "r"(b));  // a times 1
  else
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
#else
  return pack<T>(unpack_low<T>(a) + unpack_low<T>(b), unpack_high<T>(a) + unpack_high<T>(b));
#endif
}

/// 2^x within 2 ulp; subnormal arguments and results become zero. The simulator rounds better.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef __CUDACC__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0 : result;
#endif
}

/// log2(x), with an absolute error of 2^-22 near 1 and a relative one elsewhere; subnormal arguments count as zero. The
/// simulator rounds better.
__device__ __forceinline__ float log2_approx(float x) {
#ifdef __CUDACC__
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return std::log2(std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x);
#endif
}

/// 1/x within 1 ulp; subnormal arguments and results become zero. The simulator rounds better.
__device__ __forceinline__ float reciprocal_approx(float x) {
#ifdef __CUDACC__
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  const float result = 1 / (std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x);
  return std::fabs(result) < 0x1p-126f ? std::copysign(0.f, result) : result;
#endif
}

/// Bits that are set.
__device__ __forceinline__ int count_bits(std::uint32_t x) {
#ifdef __CUDACC__
  return __popc(x);
#else
  return std::popcount(x);
#endif
}

/// The number of the lowest bit that is set; -1 for 0.
__device__ __forceinline__ int lowest_bit(std::uint32_t x) {
#ifdef __CUDACC__
  return __ffs(static_cast<int>(x)) - 1;
#else
  return x == 0 ? -1 : std::countr_zero(x);
#endif
}

/// The number of the highest bit that is set; -1 for 0.
__device__ __forceinline__ int highest_bit(std::uint32_t x) {
#ifdef __CUDACC__
  return 31 - __clz(static_cast<int>(x));
#else
  return 31 - std::countl_zero(x);
#endif
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
