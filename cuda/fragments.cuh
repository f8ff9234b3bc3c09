// Products of rows, and of matrices in shared memory and in the registers of a warp, and how they lie there.
#pragma once

#include <cstdint>

#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// <a, b> of rows in global memory, multiples of 8 features, which neighbouring `lanes` share. 0 where a is
/// nullptr; then b is not read.
template <int lanes, class T>
__device__ __forceinline__ float dot_of_lanes(const T* a, const T* b, int features) {
  float sum = 0;
  for (int d = lane_index() % lanes * 8; a != nullptr && d < features; d += lanes * 8) {
    const Words4 left = load_128_constant(a + d), right = load_128_constant(b + d);
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      sum += unpack_low<T>(left.words[word]) * unpack_low<T>(right.words[word]);
      sum += unpack_high<T>(left.words[word]) * unpack_high<T>(right.words[word]);
    }
  }
  return sum_lanes<lanes>(sum);
}

/// A lane's way to matrices of 8 rows and 16 bytes in shared memory, from an origin on. Distances are known to the
/// compiler, and share no bits with the origin's column: what it adds to an address is then one of four numbers and an
/// immediate.
template <class T, int features>
struct Matrices {
  const T* row;
  int chunk;

  __device__ __forceinline__ const T* at(int rows, int columns) const {
    return row + rows * features + columns / 64 * 64 + ((chunk ^ (columns / 8 % 8)) << 3);
  }
};

/// A matrix of 16-bit numbers in shared memory: rows of `features`, whose chunks of 16 bytes are permuted within each
/// 128 bytes by the row's number, so that the same chunk of 8 rows lies in all banks.
template <class T, int features>
struct SharedRows {
  T* data;

  __device__ __forceinline__ T* chunk(int row, int number) const {
    return data + row * features + number / 8 * 64 + ((number ^ row) % 8 << 3);
  }
  /// For four matrices of which the second is below the first: A stored as its rows, or, transposed, B as its own.
  __device__ __forceinline__ Matrices<T, features> down(int row, int column) const {
    const int lane = lane_index();
    return {data + (row + lane % 16) * features, (column / 8) ^ (lane / 16) ^ (lane % 8)};
  }
  /// For four matrices of which the second is beside the first: B stored as its columns, or, transposed, A as its own.
  __device__ __forceinline__ Matrices<T, features> beside(int row, int column) const {
    const int lane = lane_index();
    return {data + (row + lane / 16 * 8 + lane % 8) * features, (column / 8) ^ (lane / 8 % 2) ^ (lane % 8)};
  }
};

/// Two neighbouring numbers, which are stored at once.
struct alignas(8) FloatPair {
  float first, second;
};

/// sums [16 m, 16 n] of a warp, in fragments.
template <int m, int n>
using Sums = float[m][2 * n][4];

template <int m, int n>
__device__ __forceinline__ void clear(Sums<m, n>& sums) {
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int j = 0; j < 2 * n; ++j)
#pragma unroll
      for (int number = 0; number < 4; ++number) sums[i][j][number] = 0;
}

/// sums += A B over `depth`; load_a(a, i, at) and load_b(b, at, j) load fragments from row or column `at` of the depth.
template <class T, int depth, int m, int n, class LoadA, class LoadB>
__device__ __forceinline__ void multiply(Sums<m, n>& sums, const LoadA& load_a, const LoadB& load_b) {
#pragma unroll
  for (int at = 0; at < depth; at += 16) {
    std::uint32_t a[m][4];
#pragma unroll
    for (int i = 0; i < m; ++i) load_a(a[i], 16 * i, at);
#pragma unroll
    for (int j = 0; j < n; ++j) {
      std::uint32_t b[4];
      load_b(b, at, 16 * j);
      const std::uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < m; ++i) {
        mma_m16n8k16<T>(sums[i][2 * j], a[i], left);
        mma_m16n8k16<T>(sums[i][2 * j + 1], a[i], right);
      }
    }
  }
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
