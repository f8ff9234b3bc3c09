// Online softmax of rows whose scores come a tile of keys at a time.
#pragma once

#include <cmath>

#include "cuda/fragments.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

/// What a lane's rows are multiplied by.
template <int m>
using RowFactors = float[m][2];

/// A factor of 1 changes no bits, so a warp may leave it out.
template <int m, int n>
__device__ __forceinline__ void multiply_rows(Sums<m, n>& sums, const RowFactors<m>& factors) {
  bool is_same = true;
#pragma unroll
  for (int i = 0; i < m; ++i) is_same = is_same && factors[i][0] == 1 && factors[i][1] == 1;
  if (all(is_same)) return;
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int j = 0; j < 2 * n; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[i][j][c] *= factors[i][c / 2];
}

/// The softmax of a warp's rows as far as their keys have come. Lane 4 g + t holds rows g and g + 8 of every 16.
template <int m>
struct RunningSoftmax {
  float largest[m][2], sum[m][2];  // of scores to base 2; the lane's share of the sum of weights

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < m; ++i) largest[i][0] = largest[i][1] = -INFINITY, sum[i][0] = sum[i][1] = 0;
  }

  /// Scores times a positive factor become weights relative to the largest so far, to which `rescale` brings what was
  /// summed before.
  template <int n>
  __device__ __forceinline__ void weigh(Sums<m, n>& s, float factor, RowFactors<m>& rescale) {
#pragma unroll
    for (int i = 0; i < m; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = -INFINITY;
#pragma unroll
        for (int j = 0; j < 2 * n; ++j) most = fmaxf(most, fmaxf(s[i][j][2 * half], s[i][j][2 * half + 1]));
        most = fmaxf(largest[i][half], max_lanes<4>(most) * factor);
        const float reference = most == -INFINITY ? 0 : most;
        rescale[i][half] = exp2_approx(largest[i][half] - reference);
        largest[i][half] = most;
        float total = 0;
#pragma unroll
        for (int j = 0; j < 2 * n; ++j)
#pragma unroll
          for (int c = 2 * half; c < 2 * half + 2; ++c)
            total += s[i][j][c] = exp2_approx(s[i][j][c] * factor - reference);
        sum[i][half] = sum[i][half] * rescale[i][half] + total;
      }
  }
  /// The same to scores, and to o what `rescale` says.
  template <int n, int features>
  __device__ __forceinline__ void weigh(Sums<m, n>& s, Sums<m, features>& o) {
    RowFactors<m> rescale;
    weigh<n>(s, 1, rescale);
    multiply_rows<m, features>(o, rescale);
  }

  /// Divides o by the rows' sums of weights, and says their lse; 0 and -infinity where no key was seen.
  template <int features>
  __device__ __forceinline__ void finish(Sums<m, features>& o, float (&lse)[m][2]) const {
#pragma unroll
    for (int i = 0; i < m; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = sum_lanes<4>(sum[i][half]), normaliser = total > 0 ? 1 / total : 0;
        lse[i][half] = total > 0 ? (largest[i][half] + log2f(total)) * 0.693147181f : -INFINITY;
#pragma unroll
        for (auto& columns : o[i]) columns[2 * half] *= normaliser, columns[2 * half + 1] *= normaliser;
      }
  }
};

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
