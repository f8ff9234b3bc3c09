// What a warp does with a tile of queries against tiles of keys that lie in shared memory: scores, online softmax and
// weighted values on tensor cores. Lane 4 g + t of a warp holds rows g and g + 8 of every 16 queries, and of every 8
// keys or features the columns 2 t and 2 t + 1.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

/// Tiles of so many keys for rows of at most so many features; features that rows lack are zeros.
template <int max_dk, int max_dv, int keys = max_dk <= 128 ? 64 : 32>
struct TileSizes {
  static constexpr int kDk = max_dk, kDv = max_dv;
  static constexpr int kWarps = kDv > 128 ? 4 : 8, kThreads = kWarps * kWarpLanes;  // as registers allow
  static constexpr int kWarpRows = 16, kRows = kWarps * kWarpRows;                  // queries
  static constexpr int kKeys = keys;
  static constexpr int kKStride = kDk + 8,
                       kVStride = kDv + 8;  // an odd number of 16 bytes: ldmatrix meets no conflicts
};

/// A thread block's shared memory: two key tiles, and each warp's queries.
template <class T, class Sizes>
struct SharedTiles {
  T k[2][Sizes::kKeys][Sizes::kKStride];
  T v[2][Sizes::kKeys][Sizes::kVStride];
  T q[Sizes::kWarps][Sizes::kWarpRows][Sizes::kKStride];
};

template <class Number>
__device__ __forceinline__ Number min_of(Number a, std::type_identity_t<Number> b) {
  return a < b ? a : b;
}

/// Starts to copy a row's features [8 vector, 8 vector + 8); zeros beyond its end, or if there is no row.
template <class T>
__device__ __forceinline__ void copy_vector(T* to, const T* row, int vector, int features, bool has_row) {
  const bool is_there = has_row && vector * 8 < features;
  cp_async<16>(to + vector * 8, row + (is_there ? vector * 8 : 0), is_there ? 16 : 0);
}

/// The left operand of a product: rows [row, row + 16) and features [feature, feature + 16).
template <class T, int stride>
__device__ __forceinline__ void load_rows(std::uint32_t (&fragments)[4], const T (*tile)[stride], int row,
                                          int feature) {
  const int lane = lane_index();
  ldmatrix(fragments, &tile[row + lane % 16][feature + lane / 16 * 8]);
}

/// The right operands of two products of rows with keys [key, key + 8) and the next 8, for 16 features.
template <class T, int stride>
__device__ __forceinline__ void load_keys(std::uint32_t (&fragments)[4], const T (*tile)[stride], int key,
                                          int feature) {
  const int lane = lane_index();
  ldmatrix(fragments, &tile[key + lane / 16 * 8 + lane % 8][feature + lane / 8 % 2 * 8]);
}

/// The right operands of two products of weights with features [feature, feature + 8) and the next 8, for 16 keys.
template <class T, int stride>
__device__ __forceinline__ void load_values(std::uint32_t (&fragments)[4], const T (*tile)[stride], int key,
                                            int feature) {
  const int lane = lane_index();
  ldmatrix_transposed(fragments, &tile[key + lane % 16][feature + lane / 16 * 8]);
}

/// Two products with one left operand.
template <class T>
__device__ __forceinline__ void multiply_pair(float (&first)[4], float (&second)[4], const std::uint32_t (&a)[4],
                                              const std::uint32_t (&b)[4]) {
  mma_m16n8k16<T>(first, a, {b[0], b[1]});
  mma_m16n8k16<T>(second, a, {b[2], b[3]});
}

/// The softmax of a warp's 16 queries, as far as their keys have come.
template <class T, class Sizes>
struct QueryTile {
  float o[Sizes::kDv / 8][4];
  float largest[2], sum[2];  // of each row: of scores to base 2; the lane's share of the sum of weights

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& columns : o) columns[0] = columns[1] = columns[2] = columns[3] = 0;
    largest[0] = largest[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  /// Adds a key tile, of which each row sees the first visible[...] keys. scale: to base 2. Calls `after_scores` when
  /// the lane is done with q.
  template <class AfterScores>
  __device__ __forceinline__ void attend(const T (*q)[Sizes::kKStride], const T (*k)[Sizes::kKStride],
                                         const T (*v)[Sizes::kVStride], float scale, const int (&visible)[2],
                                         const AfterScores& after_scores) {
    Scores s = {};
    add_scores(s, q, k);
    after_scores();
    mask(s, scale, visible);
    weigh(s);
    add_values(s, v);
  }

  /// The reciprocal of a row's sum of weights, and its lse to base 2; 0 and -infinity if it saw no key.
  __device__ __forceinline__ float normaliser(int half, float& lse) const {
    const float total = sum_lanes<4>(sum[half]);
    lse = total > 0 ? largest[half] + log2f(total) : -INFINITY;
    return total > 0 ? 1 / total : 0;
  }

 private:
  using Scores = float[Sizes::kKeys / 8][4];

  __device__ __forceinline__ static void add_scores(Scores& s, const T (*q)[Sizes::kKStride],
                                                    const T (*k)[Sizes::kKStride]) {
#pragma unroll
    for (int feature = 0; feature < Sizes::kDk; feature += 16) {
      std::uint32_t rows[4];
      load_rows(rows, q, 0, feature);
#pragma unroll
      for (int key = 0; key < Sizes::kKeys; key += 16) {
        std::uint32_t keys[4];
        load_keys(keys, k, key, feature);
        multiply_pair<T>(s[key / 8], s[key / 8 + 1], rows, keys);
      }
    }
  }

  __device__ __forceinline__ static void mask(Scores& s, float scale, const int (&visible)[2]) {
#pragma unroll
    for (auto& columns : s)
#pragma unroll
      for (float& score : columns) score *= scale;
    if (all(min_of(visible[0], visible[1]) >= Sizes::kKeys)) return;
    const int column = lane_index() % 4 * 2;
#pragma unroll
    for (int n = 0; n < Sizes::kKeys / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (n * 8 + column + c % 2 >= visible[c / 2]) s[n][c] = -INFINITY;
  }

  /// Scores become weights relative to the largest so far, to which what was summed before is rescaled.
  __device__ __forceinline__ void weigh(Scores& s) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
#pragma unroll
      for (const auto& columns : s) most = fmaxf(most, fmaxf(columns[2 * half], columns[2 * half + 1]));
      most = max_lanes<4>(most);
      const float reference = most == -INFINITY ? 0 : most;
      const float rescale = exp2_approx(largest[half] - reference);
      largest[half] = most;
      float total = 0;
#pragma unroll
      for (auto& columns : s)
#pragma unroll
        for (int c = 2 * half; c < 2 * half + 2; ++c) total += columns[c] = exp2_approx(columns[c] - reference);
      sum[half] = sum[half] * rescale + total;
#pragma unroll
      for (auto& columns : o) columns[2 * half] *= rescale, columns[2 * half + 1] *= rescale;
    }
  }

  __device__ __forceinline__ void add_values(const Scores& p, const T (*v)[Sizes::kVStride]) {
#pragma unroll
    for (int key = 0; key < Sizes::kKeys; key += 16) {
      std::uint32_t weights[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float(&columns)[4] = p[key / 8 + n / 2];
        weights[n] = pack<T>(columns[n % 2 * 2], columns[n % 2 * 2 + 1]);
      }
#pragma unroll
      for (int feature = 0; feature < Sizes::kDv; feature += 16) {
        std::uint32_t values[4];
        load_values(values, v, key, feature);
        multiply_pair<T>(o[feature / 8], o[feature / 8 + 1], weights, values);
      }
    }
  }
};

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
