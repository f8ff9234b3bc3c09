// Rows that the warps of a thread block share, each with keys of its own, and what they found together.
#pragma once

#include <cmath>

#include "cuda/query_tiles/softmax.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

/// The sums of rows, of which `features` has 8 columns, relative to the largest score.
struct RowSums {
  float largest, sum, features[8];
};

/// What the warps found, in shared memory.
template <int warps, int rows, int dv>
struct WarpSums {
  float o[warps][rows][dv];  // a row's chunks of 8 are permuted: column
  float largest[warps][rows], sum[warps][rows];

  /// Where a column of o is, so that four rows lie in all banks.
  static __device__ __forceinline__ int column(int row, int d) { return d ^ (row % 4 * 8); }

  /// Puts what a warp found of rows [first, first + 16) there.
  __device__ __forceinline__ void put(int first, const query_tiles::RunningSoftmax<1>& softmax,
                                      const Sums<1, dv / 16>& sums) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + query_tiles::lane_row(half);
      const float total = sum_lanes<4>(softmax.sum[0][half]);
      if (lane_index() % 4 == 0) largest[warp_index()][row] = softmax.largest[0][half], sum[warp_index()][row] = total;
#pragma unroll
      for (int j = 0; j < dv / 8; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          o[warp_index()][row][column(row, 8 * j + lane_index() % 4 * 2 + c)] = sums[0][j][2 * half + c];
    }
  }

  /// A row's sums over all warps, and of its o the columns [d, d + 8).
  __device__ __forceinline__ RowSums of_row(int row, int d) const {
    RowSums all{-INFINITY, 0, {}};
#pragma unroll
    for (int warp = 0; warp < warps; ++warp) all.largest = fmaxf(all.largest, largest[warp][row]);
    const float reference = all.largest == -INFINITY ? 0 : all.largest;
#pragma unroll
    for (int warp = 0; warp < warps; ++warp) {
      const float weight = exp2_approx(largest[warp][row] - reference);
      all.sum += weight * sum[warp][row];
#pragma unroll
      for (int c = 0; c < 8; ++c) all.features[c] += weight * o[warp][row][column(row, d) + c];
    }
    return all;
  }
};

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
