// Matrices of 16-bit numbers in shared memory as products of warpgroups read them, and these products.
#pragma once

#include <cstdint>

#include "cuda/fragments.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warpgroup.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

/// A matrix of so many rows, in panels of 64 columns: see SwizzledMatrix.
template <class T, int rows>
struct Panels {
  T* data;

  /// The place of a row's 8 numbers from 8 `number` on.
  __device__ __forceinline__ T* chunk(int row, int number) const {
    return data + number / 8 * rows * 64 + row * 64 + ((number ^ row) % 8 << 3);
  }
  __device__ __forceinline__ SwizzledMatrix from(int row, int column) const {
    return {data + column / 64 * rows * 64 + row * 64 + column % 64, rows * 64 * static_cast<int>(sizeof(T))};
  }
};

/// A [16, 16 depth] of a warp in registers, rounded to 16 bits.
template <int depth>
using Packed = std::uint32_t[depth][4];

template <class T, int depth>
__device__ __forceinline__ void pack_rows(Packed<depth>& packed, const Sums<1, depth>& sums) {
#pragma unroll
  for (int at = 0; at < depth; ++at)
#pragma unroll
    for (int number = 0; number < 4; ++number) {
      const float(&columns)[4] = sums[0][2 * at + number / 2];
      packed[at][number] = pack<T>(columns[number % 2 * 2], columns[number % 2 * 2 + 1]);
    }
}

/// Starts sums = A B^T over `depth` features, A being 64 rows from `row` on.
template <class T, int depth, int n, int a_rows>
__device__ __forceinline__ void start_product_of_rows(Sums<1, n>& sums, const Panels<T, a_rows>& a, int row,
                                                      const Panels<T, 16 * n>& b) {
#pragma unroll
  for (int at = 0; at < depth; at += 16) wgmma<T, StoredB::transposed>(sums[0], a.from(row, at), b.from(0, at), at > 0);
}

/// Starts sums += A B.
template <class T, int depth, int n>
__device__ __forceinline__ void start_product(Sums<1, n>& sums, const Packed<depth>& a,
                                              const Panels<T, 16 * depth>& b) {
#pragma unroll
  for (int at = 0; at < depth; ++at) wgmma<T, StoredB::as_it_is>(sums[0], a[at], b.from(16 * at, 0), true);
}

/// Starts to copy keys [key, key + keys) of a tile's sequence, or their values, by the threads of a warpgroup.
template <int keys, int features, class T>
__device__ __forceinline__ void copy_keys(T* to, const Rows<const T>& rows, const query_tiles::RowTile& tile, int key,
                                          int filled) {
  const Panels<T, keys> panels{to};
  const T* first = rows.at(tile.sequence.k_begin + key, tile.kv_head);
  query_tiles::copy_run<kWarpgroupThreads, keys, features>(panels, filled, first, rows.token_stride,
                                                           static_cast<int>(tile.sequence.num_keys) - key);
}

/// Products may read what all threads have copied to shared memory, once all threads have come here.
__device__ __forceinline__ void publish_copies() {
  cp_async_wait_all();
  fence_async_proxy();
  sync_threads();
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
