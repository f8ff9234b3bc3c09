// What both halves of a backward compute of scores, and tiles of keys with the rows that see them.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/primitives/numbers.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

/// lse and delta of a warp's rows, for the warp, and for the keys.
template <int m, class T>
__device__ __forceinline__ void find_terms(const WarpRows& mine, const BackwardRows<T>& rows,
                                           const Rows<RowTerms>& terms, RowTerms (&own)[m][2]) {
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* lse = mine.at(rows.lse, i, half);
      const float given = lse == nullptr ? -INFINITY : *lse;
      const float delta = dot_of_lanes<4>(mine.at(rows.o, i, half), mine.at(rows.d_o, i, half), mine.p.dv);
      own[i][half] = {given == -INFINITY ? INFINITY : given * kLog2E, delta};
      if (lse != nullptr && lane_index() % 4 == 0) *mine.at(terms, i, half) = own[i][half];
    }
}

/// Scores become P, with the lse of each: lse_of(i, j, number).
template <int m, int n, class LseOf>
__device__ __forceinline__ void weigh(Sums<m, n>& scores, float to_log2, const LseOf& lse_of) {
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int j = 0; j < 2 * n; ++j)
#pragma unroll
      for (int number = 0; number < 4; ++number)
        scores[i][j][number] = exp2_approx(scores[i][j][number] * to_log2 - lse_of(i, j, number));
}

/// do v^T becomes dS, with P and the delta of each: delta_of(i, j, number).
template <int m, int n, class DeltaOf>
__device__ __forceinline__ void differentiate(Sums<m, n>& d_weights, const Sums<m, n>& weights,
                                              const DeltaOf& delta_of) {
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int j = 0; j < 2 * n; ++j)
#pragma unroll
      for (int number = 0; number < 4; ++number)
        d_weights[i][j][number] = weights[i][j][number] * (d_weights[i][j][number] - delta_of(i, j, number));
}

/// Rows of a key/value head in a sequence, by their numbers.
struct RowRange {
  int begin, end;
};

/// Keys of a key/value head in a sequence.
struct KeyTile {
  TokenSequence sequence;
  int kv_head, begin, count;

  /// Where a key is in a tensor; nullptr: there is none.
  template <class T>
  __device__ __forceinline__ T* at(const Rows<T>& rows, int key) const {
    return key < count ? rows.at(sequence.k_begin + begin + key, kv_head) : nullptr;
  }
  /// From the first row that sees key `first` to the last that sees key `last`.
  __host__ __device__ __forceinline__ RowRange rows(const Problem& p, int first, int last) const {
    std::int64_t from = 0, to = sequence.num_queries;
    if (p.sequences.is_causal) {
      const std::int64_t before = sequence.num_tokens - sequence.num_queries;  // tokens before the first query
      const auto query_of = [&](std::int64_t key) {                            // the first that sees all of its tokens
        return key * p.reach.stride + p.reach.tokens - 1 - before;
      };
      const std::int64_t first_query = query_of(begin + first);
      if (first_query > 0) from = first_query < to ? first_query : to;
      if (p.reach.window < sequence.num_keys && query_of(begin + last + p.reach.window) < to)
        to = query_of(begin + last + p.reach.window);
    }
    return {static_cast<int>(from * p.group), static_cast<int>(to * p.group)};
  }
};

/// A tile of so many keys.
__device__ __forceinline__ KeyTile key_tile(const Problem& p, const Tiles& tiles, int keys, int kv_head, int tile) {
  const TokenSequence s = token_sequence_of(p, tiles, tile);
  const int begin = (tile - static_cast<int>(tiles.offsets[s.index])) * keys;
  const int left = static_cast<int>(s.num_keys) - begin;
  return {s, kv_head, begin, left < keys ? left : keys};
}

/// Rows of a segment, but for the last of a tile.
__host__ __device__ __forceinline__ int segment_rows(int rows, int segments) {
  return (rows + segments - 1) / segments;
}

/// What a thread block goes through: a segment of the rows that see a key tile. A head's tiles come together, and those
/// with the most rows first.
struct Share {
  int kv_head, tile, number, segments;  // of the segment, and all of the tile
  std::int64_t place;                   // of its sums

  __device__ __forceinline__ Share(const RowSegments& all, const Tiles& tiles, int thread_block)
      : kv_head(thread_block / all.count), tile(0), place(thread_block) {
    const int segment = thread_block % all.count;
    for (int end = tiles.count; end - tile > 1;) {  // the last tile that begins with the segment or before
      const int middle = (tile + end) / 2;
      (load_constant(all.offsets + middle) <= segment ? tile : end) = middle;
    }
    const std::int64_t first = load_constant(all.offsets + tile);
    number = segment - static_cast<int>(first),
    segments = static_cast<int>(load_constant(all.offsets + tile + 1) - first);
  }

  /// Its own of the rows of a tile.
  __device__ __forceinline__ RowRange of(const RowRange& rows) const {
    const int step = segment_rows(rows.end - rows.begin, segments), begin = rows.begin + number * step;
    return {begin, begin + step < rows.end ? begin + step : rows.end};
  }
};

/// Sums of a warp to fp32 rows, which follow each other at a distance; features and the distance are even.
template <int m, int n>
__device__ __forceinline__ void store_sums(const Sums<m, n>& sums, int features, float* to, int distance) {
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < 2 * n; ++j) {
        const int d = 8 * j + lane_index() % 4 * 2;
        if (d < features)
          *reinterpret_cast<FloatPair*>(to + (16 * i + lane_row(half)) * distance + d) = {sums[i][j][2 * half],
                                                                                          sums[i][j][2 * half + 1]};
      }
}

/// P becomes 0 where a row does not see a key; of keys [key, ...) and rows.
template <int m, int n>
__device__ __forceinline__ void hide_unseen(const Problem& p, const RowTile& rows, int key, Sums<m, n>& weights) {
#pragma unroll
  for (int j = 0; j < 2 * n; ++j)
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const KeyRange seen = keys_of(p, rows.sequence, rows.query(p, 8 * j + lane_index() % 4 * 2 + column));
#pragma unroll
      for (int i = 0; i < m; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int own = key + 16 * i + lane_row(half);
          if (own < seen.first || own >= seen.end) weights[i][j][2 * half + column] = 0;
        }
    }
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
