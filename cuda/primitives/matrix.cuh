// Matrix products of a warp: all 32 lanes take part. Fragments are those of the PTX documentation.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/primitives/numbers.cuh"
#ifndef __CUDACC__
#include "cuda/simulator/device.hpp"
#endif

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// Loads `count` (1, 2, 4) matrices of 8x8 16-bit numbers from shared memory. Lane 8 m + r gives the address of row r
/// of matrix m, 16 bytes aligned to as much; lane l gets of row l / 4 the columns 2 (l % 4) and the next.
template <int count>
__device__ __forceinline__ void ldmatrix(std::uint32_t (&fragments)[count], const void* row) {
  static_assert(count == 1 || count == 2 || count == 4);
#ifdef __CUDACC__
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (count == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(fragments[0]) : "r"(from) : "memory");
  else if constexpr (count == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragments[0]), "=r"(fragments[1])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(from)
                 : "memory");
#else
  simulator::ldmatrix(fragments, count, false, row);
#endif
}

/// The same with every matrix transposed: lane l gets of column l / 4 the rows 2 (l % 4) and the next.
template <int count>
__device__ __forceinline__ void ldmatrix_transposed(std::uint32_t (&fragments)[count], const void* row) {
  static_assert(count == 1 || count == 2 || count == 4);
#ifdef __CUDACC__
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (count == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(fragments[0])
                 : "r"(from)
                 : "memory");
  else if constexpr (count == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(fragments[0]), "=r"(fragments[1])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(from)
                 : "memory");
#else
  simulator::ldmatrix(fragments, count, true, row);
#endif
}

/// C += A B with A [16, 16], B [16, 8] in T (bf16 or fp16) and C [16, 8] in fp32. Lane 4 g + t holds
///   a[n]: row g (n even) or g + 8, columns 2 t (n < 2) or 2 t + 8 and the next
///   b[n]: rows 2 t + 8 n and the next, column g
///   c[n]: row g (n < 2) or g + 8, column 2 t + n % 2
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>);
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, bf16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  if constexpr (std::is_same_v<T, bf16>)
    simulator::mma_m16n8k16_bf16(c, a, b);
  else
    simulator::mma_m16n8k16_fp16(c, a, b);
#endif
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
