// How a warp adds weights over the heads of its queries, and keeps the best blocks of each.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/fragments.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/query_tiles/candidates.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

// ---- Sums over heads ----

/// Adds what `rows` neighbouring rows of 8 have of n times 8 columns, of which a lane has two, and stores the sums to
/// `to` from column 0 on. Each step halves the columns of a lane.
template <int rows, int n>
__device__ __forceinline__ void store_sums(const float (&columns)[n][2], float* to) {
  if constexpr (rows == 1) {
#pragma unroll
    for (int j = 0; j < n; ++j)
      *reinterpret_cast<FloatPair*>(to + 8 * j + lane_index() % 4 * 2) = {columns[j][0], columns[j][1]};
  } else {
    constexpr int kFlip = 4 * rows / 2;
    const bool is_upper = (lane_index() & kFlip) != 0;
    float half[n / 2][2];
#pragma unroll
    for (int j = 0; j < n / 2; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float kept = is_upper ? columns[j + n / 2][c] : columns[j][c];
        const float sent = is_upper ? columns[j][c] : columns[j + n / 2][c];
        half[j][c] = kept + shuffle_xor(sent, kFlip);
      }
    store_sums<rows / 2, n / 2>(half, to + (is_upper ? 8 * (n / 2) : 0));
  }
}

/// Adds the weights of a warp's 16 m rows over queries, of which each has rows_of_query = 2^n of them, at most
/// max_rows_of_query and the warp's own, and stores those of its query number i to `to` + i stride, which is even.
template <int max_rows_of_query, int m, int n>
__device__ __forceinline__ void store_weights(const Sums<m, n>& weights, int rows_of_query, float* to, int stride) {
  if (max_rows_of_query > 1 && rows_of_query < max_rows_of_query) {
    store_weights<(max_rows_of_query + 1) / 2, m, n>(weights, rows_of_query, to, stride);
  } else {
    constexpr int kRows = max_rows_of_query, kEights = kRows < 8 ? 1 : kRows / 8;
#pragma unroll
    for (int eight = 0; eight < 2 * m; eight += kEights) {
      float columns[2 * n][2];
#pragma unroll
      for (int j = 0; j < 2 * n; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          columns[j][c] = weights[eight / 2][j][eight % 2 * 2 + c];
#pragma unroll
          for (int next = eight + 1; next < eight + kEights; ++next)
            columns[j][c] += weights[next / 2][j][next % 2 * 2 + c];
        }
      store_sums<(kRows < 8 ? kRows : 8), 2 * n>(columns, to + (8 * eight + lane_index() / 4) / kRows * stride);
    }
  }
}

// ---- Lists of blocks ----

/// A block and its importance, or an empty place of a list.
struct Scored {
  float score = -INFINITY;
  std::int32_t block = -1;

  __device__ __forceinline__ bool is_before(const Scored& other) const {
    return (score > other.score) | ((score == other.score) & (block < other.block));  // without branches
  }
};

/// Puts those of the lanes' blocks that are candidates into a list of `count` that is in order. All lanes of a warp
/// call it, for blocks that come after the listed ones. What falls off the end is gone.
__device__ __forceinline__ void insert_better(Scored* best, int count, Scored mine, bool is_candidate) {
  const std::uint32_t better = ballot(is_candidate && mine.score > best[count - 1].score);
  if (better == 0) return;
  for (int first = 0; first < count; first += kWarpLanes) {
    const int lane = lane_index();
    const bool is_place = first + lane < count;
    Scored held = is_place ? best[first + lane] : Scored{};
    for (std::uint32_t left = better; left != 0; left &= left - 1) {
      const int from = lowest_bit(left);
      const Scored entry{shuffle(mine.score, from), shuffle(mine.block, from)};
      const int place = count_bits(ballot(held.is_before(entry)));
      const Scored before{shuffle_up(held.score, 1), shuffle_up(held.block, 1)};
      if (first + kWarpLanes < count) {  // what falls off here goes to the next places
        const Scored last{shuffle(held.score, kWarpLanes - 1), shuffle(held.block, kWarpLanes - 1)};
        if (lane == from && place < kWarpLanes) mine = last;
      }
      if (lane == place) held = entry;
      if (lane > place) held = before;
    }
    sync_warp();
    if (is_place) best[first + lane] = held;
  }
  sync_warp();
}

/// Stores the blocks of a query: forced ones, then its list. All lanes of a warp call it.
__device__ __forceinline__ void store_selection(const ImportanceRule& rule, const Candidates& candidates,
                                                const Scored* best, std::int32_t* selected) {
  for (int slot = lane_index(); slot < rule.slots; slot += kWarpLanes) {
    const int listed = slot - candidates.forced;
    if (listed < 0)
      selected[slot] = forced_block(rule, candidates, slot);
    else
      selected[slot] = listed < candidates.wanted ? best[listed].block : -1;
  }
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
