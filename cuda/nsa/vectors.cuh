// Threads that each own 8 neighbouring numbers of rows: 16 bytes of memory at once.
#pragma once

#include <cstdint>

#include "cuda/divider.hpp"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

inline constexpr int kVectorThreads = 256, kVector = 8;

/// Where a thread's numbers begin.
struct VectorPlace {
  int row, head, column;
};

/// The vectors of a tensor [rows, heads, columns], of which there are fewer than 2^31; columns are a multiple of 8.
struct VectorGrid {
  int rows, heads, vectors;
  Divider by_heads, by_vectors;

  VectorGrid(std::int64_t num_rows, std::int64_t num_heads, std::int64_t columns)
      : rows(static_cast<int>(num_rows)),
        heads(static_cast<int>(num_heads)),
        vectors(static_cast<int>(columns / kVector)),
        by_heads(num_heads),
        by_vectors(columns / kVector) {}

  int count() const { return rows * heads * vectors; }

  /// The thread's vector; a row that is none: there is none.
  __device__ __forceinline__ VectorPlace place() const {
    const int number = block_index().x * kVectorThreads + thread_index().x;
    const int row_head = by_vectors.of(number), row = by_heads.of(row_head);
    return {row, row_head - row * heads, (number - row_head * vectors) * kVector};
  }
};

/// Launches a thread for each vector; nothing for none.
template <class... Parameters>
void launch_vectors(void (*kernel)(VectorGrid, Parameters...), const VectorGrid& grid, void* stream,
                    const std::type_identity_t<Parameters>&... arguments) {
  if (grid.count() == 0) return;
  launch(kernel, {{(grid.count() - 1) / kVectorThreads + 1}, {kVectorThreads}}, stream, grid, arguments...);
}

/// 8 numbers in fp32.
using Numbers = float[kVector];

template <class T>
__device__ __forceinline__ void load_vector(Numbers& numbers, const T* from) {
  const Words4 words = load_128_constant(from);
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    numbers[2 * word] = unpack_low<T>(words.words[word]);
    numbers[2 * word + 1] = unpack_high<T>(words.words[word]);
  }
}

/// Rounds them.
template <class T>
__device__ __forceinline__ void store_vector(T* to, const Numbers& numbers) {
  Words4 words;
#pragma unroll
  for (int word = 0; word < 4; ++word) words.words[word] = pack<T>(numbers[2 * word], numbers[2 * word + 1]);
  store_128(to, words);
}

/// sums += factor numbers.
__device__ __forceinline__ void add_vector(Numbers& sums, const Numbers& numbers, float factor = 1) {
#pragma unroll
  for (int n = 0; n < kVector; ++n) sums[n] += factor * numbers[n];
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
