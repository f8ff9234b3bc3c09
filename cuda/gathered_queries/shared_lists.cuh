// A key tile's part of the backward where the heads of a group share their lists and dq is made by the caller, with
// P = exp(scale q k^T - lse) and dS = P (do v^T - delta): dk = scale dS^T q, dv = P^T do. What is done alike with
// either kind of matrix products; the products are in attend_shared_lists.cu and attend_shared_lists_warpgroups.cu.
//
// Tensors, lists and segments as in attend_key_tiles.cu. The rows of a list are those of its first query, one for each
// head of the group, then those of the next, and so on; a segment is kSegmentAssignments of them. A thread block of 4
// warps owns 64 keys of a key/value head and goes through the rows of their list, or of a segment of it, tile by tile.
// A warp owns 16 keys of P^T, dS^T, dk and dv, in registers. Picks are loaded three tiles ahead, lse and delta two, q
// and do one. Shared memory: SharedTiles, for 128 features 101 KB with tiles of 64 rows, 67 KB with 32.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda/fragments.cuh"
#include "cuda/gathered_queries/backward_stages.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/query_tiles/gradients.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

/// Threads of a thread block, and how many blocks a multiprocessor has.
inline constexpr int kSharedThreads = 128, kSharedBlocks = 2;

/// Where a row is in q and in do, from their first elements; -1: there is none.
struct RowPlaces {
  std::int64_t q, d_o;
};

/// What a thread block has in dynamic shared memory: keys, and of rows what tile n has at n modulo 2 or 4.
template <class T, int features, int rows>
struct SharedTiles {
  T k[kSharedTileKeys * features], v[kSharedTileKeys * features];
  T q[2][rows * features], d_o[2][rows * features];
  RowPlaces places[2][rows];
  std::int64_t scores[4][rows / 8];  // where dS of 8 heads is kept; -1: nowhere
  float lse[4][rows], delta[4][rows];
  std::int32_t assignments[4][rows];
};

/// A thread block's share of a list's rows, a tile of kRows at a time. Matrix: how 64 keys, and a tile's rows, lie in
/// shared memory.
template <class T, int features, int tile_rows, class Matrix>
struct ListRows {
  static constexpr int kRows = tile_rows, n16 = kRows / 16, d16 = features / 16;
  static_assert(kSharedThreads / kWarpLanes * 16 == kSharedTileKeys && kRows <= kSharedThreads);

  /// P^T or dS^T of a warp.
  using Scores = Sums<1, n16>;
  using Shared = SharedTiles<T, features, kRows>;

  const Problem& p;
  const BackwardRows<T>& rows;
  const Share& share;
  const KeyTile& tile;
  Shared& shared;
  const std::int32_t* assignments;
  int begin, end;
  int warp_key = warp_index() * 16;  // the warp's first

  __device__ __forceinline__ ListRows(const Problem& problem, const BackwardRows<T>& given, const Share& own,
                                      const KeyTile& key_tile)
      : p(problem), rows(given), share(own), tile(key_tile), shared(*dynamic_shared<Shared>()) {
    const std::int64_t* list = p.lists.offsets + share.kv_head * p.sizes.selection.num_blocks + share.block;
    const std::int64_t offset = load_constant(list);
    const int all = static_cast<int>(load_constant(list + 1) - offset) * p.group;
    assignments = p.lists.assignments + offset;
    begin = share.number * kSegmentAssignments;
    end = share.segment >= 0 && begin + kSegmentAssignments < all ? begin + kSegmentAssignments : all;
  }

  __device__ __forceinline__ Matrix keys() const { return {shared.k}; }
  __device__ __forceinline__ Matrix values() const { return {shared.v}; }
  __device__ __forceinline__ Matrix queries(int n) const { return {shared.q[n % 2]}; }
  __device__ __forceinline__ Matrix d_outputs(int n) const { return {shared.d_o[n % 2]}; }

  __device__ __forceinline__ int tiles() const { return (end - begin + kRows - 1) / kRows; }
  __device__ __forceinline__ int row(int n, int in_tile) const { return begin + n * kRows + in_tile; }
  __device__ __forceinline__ int token(int n, int in_tile) const {
    return p.slots.of(shared.assignments[n % 4][in_tile]);
  }

  /// The tile's keys that a row sees.
  __device__ __forceinline__ std::int64_t visible(int n, int in_tile) const {
    return tile.visible(p.sizes.selection.sequences, token(n, in_tile));
  }

  /// Where a key of the tile is in a tensor; nullptr: there is none.
  template <class Number>
  __device__ __forceinline__ Number* key_at(const Rows<Number>& all, int key) const {
    return key < tile.keys ? all.at(tile.first_key + key, tile.kv_head) : nullptr;
  }

  /// Copies keys, values and assignments, and starts to gather the first tile of rows.
  __device__ __forceinline__ void start() const {
    query_tiles::copy_rows<kSharedThreads, kSharedTileKeys, features>(keys(), p.sizes.dk,
                                                                      [&](int key) { return key_at(rows.k, key); });
    query_tiles::copy_rows<kSharedThreads, kSharedTileKeys, features>(values(), p.sizes.dv,
                                                                      [&](int key) { return key_at(rows.v, key); });
    for (int n = 0; n < 3; ++n) copy_assignments(n);
    cp_async_wait_all();
    sync_threads();
    for (int n = 0; n < 2; ++n) find(n);
    sync_threads();
    gather(0);
  }

  /// Sends for what comes after a tile, when that has arrived and the one before it is done with.
  __device__ __forceinline__ void advance(int n) const {
    gather(n + 1);
    find(n + 2);
    copy_assignments(n + 3);
  }

  /// Starts to copy the assignments of a tile's rows.
  __device__ __forceinline__ void copy_assignments(int n) const {
    const int i = thread_number(), from = row(n, i);
    if (i >= kRows) return;
    cp_async<4>(shared.assignments[n % 4] + i, from < end ? assignments + p.by_group.of(from) : nullptr,
                from < end ? 4 : 0);
  }

  /// Finds where the rows of a tile are, whose assignments have arrived, and starts to copy their lse and delta.
  __device__ __forceinline__ void find(int n) const {
    const int i = thread_number(), own = row(n, i);
    if (i >= kRows) return;
    const bool is_there = own < end;
    const std::int64_t t = token(n, i);
    const int in_group = own - p.by_group.of(own) * p.group, h = tile.kv_head * p.group + in_group;
    const auto place_in = [&](const Rows<const T>& all) {
      return is_there ? t * all.token_stride + h * all.head_stride : -1;
    };
    shared.places[n % 2][i] = {place_in(rows.q), place_in(rows.d_o)};
    if (i % 8 == 0)
      shared.scores[n % 4][i / 8] =
          is_there ? p.scores.place_of(tile.kv_head, shared.assignments[n % 4][i], in_group / 8) : -1;
    const Rows<const float> deltas{p.deltas, p.sizes.heads, 1};
    cp_async<4>(shared.lse[n % 4] + i, is_there ? rows.lse.at(t, h) : nullptr, is_there ? 4 : 0);
    cp_async<4>(shared.delta[n % 4] + i, is_there ? deltas.at(t, h) : nullptr, is_there ? 4 : 0);
  }

  /// Starts to gather the rows of a tile, whose places are found. Rows that are not there become zeros, whose dS is 0
  /// and whose P multiplies a zero.
  __device__ __forceinline__ void gather(int n) const {
    const auto at = [](const T* first, std::int64_t place) { return place < 0 ? nullptr : first + place; };
    const RowPlaces* places = shared.places[n % 2];
    query_tiles::copy_rows<kSharedThreads, kRows, features>(queries(n), p.sizes.dk,
                                                            [&](int i) { return at(rows.q.data, places[i].q); });
    query_tiles::copy_rows<kSharedThreads, kRows, features>(d_outputs(n), p.sizes.dv,
                                                            [&](int i) { return at(rows.d_o.data, places[i].d_o); });
  }

  /// Scores of a warp's keys become P^T.
  __device__ __forceinline__ void weigh(int n, Scores& scores) const {
    query_tiles::weigh<1, n16>(scores, p.sizes.scale * query_tiles::kLog2E, [&](int, int j, int number) {
      const float lse = shared.lse[n % 4][column(j, number)];
      return lse == -INFINITY ? INFINITY : lse * query_tiles::kLog2E;
    });
    if (visible(n, 0) == kSharedTileKeys) return;  // the first row sees the least
#pragma unroll
    for (int j = 0; j < 2 * n16; ++j)
#pragma unroll
      for (int number = 0; number < 4; ++number)
        if (warp_key + query_tiles::lane_row(number / 2) >= visible(n, column(j, number))) scores[0][j][number] = 0;
  }

  /// v do^T becomes dS^T.
  __device__ __forceinline__ void differentiate(int n, Scores& d_weights, const Scores& weights) const {
    query_tiles::differentiate<1, n16>(d_weights, weights,
                                       [&](int, int j, int number) { return shared.delta[n % 4][column(j, number)]; });
  }

  /// Keeps a warp's dS^T, where that is wanted.
  __device__ __forceinline__ void keep_scores(int n, const Scores& d_scores) const {
    const int first_key = tile.number * kSharedTileKeys + warp_key;
    if (p.scores.numbers == nullptr || first_key >= p.scores.keys) return;
    std::uint16_t* first = p.scores.numbers + (first_key + query_tiles::lane_row(0)) * 8 + lane_index() % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2 * n16; ++j) {
      const std::int64_t place = shared.scores[n % 4][j];
      if (place < 0) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(first + place + 64 * half) =
            pack<T>(d_scores[0][j][2 * half], d_scores[0][j][2 * half + 1]);
    }
  }

  /// dk and dv of a warp's keys from dS^T q and P^T do, or these sums of a segment.
  __device__ __forceinline__ void store(const Sums<1, d16>& dk_sums, const Sums<1, d16>& dv_sums, const Rows<T>& dk,
                                        const Rows<T>& dv) const {
    if (share.segment < 0) {
      const auto mine = [&](const Rows<T>& to) {
        return [&](int, int half) { return key_at(to, warp_key + query_tiles::lane_row(half)); };
      };
      query_tiles::store_rows<T, 1, d16>(dk_sums, p.sizes.dk, p.sizes.scale, mine(dk));
      query_tiles::store_rows<T, 1, d16>(dv_sums, p.sizes.dv, 1, mine(dv));
    } else {
      const int distance = p.sizes.dk + p.sizes.dv;
      float* to = p.segment_sums(share) + warp_key * distance;
      query_tiles::store_sums<1, d16>(dk_sums, p.sizes.dk, to, distance);
      query_tiles::store_sums<1, d16>(dv_sums, p.sizes.dv, to + p.sizes.dk, distance);
    }
  }

 private:
  /// The lane's row of a tile that has a column of P^T.
  __device__ __forceinline__ static int column(int j, int number) { return 8 * j + lane_index() % 4 * 2 + number % 2; }
};

/// Launches the kernel for so many features, kernel_of(their number as a type), with tiles of so many rows, for
/// all key tiles.
template <class T, int rows, class KernelOf>
void launch_shared_lists(const KernelOf& kernel_of, const Problem& p, const BackwardRows<T>& tensors, Rows<T> dk,
                         Rows<T> dv, void* stream) {
  const std::int64_t tiles = p.tiles * (p.segments.max + p.sizes.selection.num_blocks * p.chunk.kv_count);
  if (p.sizes.selection.num_blocks == 0) return;
  const auto launch_tiles = [&]<int features>(std::integral_constant<int, features> wide) {
    launch(kernel_of(wide), {{static_cast<int>(tiles)}, {kSharedThreads}, sizeof(SharedTiles<T, features, rows>)},
           stream, p, tensors, dk, dv);
  };
  if (p.sizes.dk <= 64 && p.sizes.dv <= 64)
    launch_tiles(std::integral_constant<int, 64>{});
  else
    launch_tiles(std::integral_constant<int, kMaxApartFeatures>{});
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
