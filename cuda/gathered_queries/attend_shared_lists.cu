// A key tile's part of the backward where the heads of a group share their lists and dq is made apart, with
// P = exp(scale q k^T - lse) and dS = P (do v^T - delta): dk = scale dS^T q, dv = P^T do.
//
// Tensors, lists and pieces as in attend_key_tiles.cu. The rows of a list are those of its first query, one for each
// head of the group, then those of the next, and so on; a piece is kPiecePicks of them. A thread block of 4 warps owns
// 64 keys of a key/value head and goes through the rows of their list, or of a piece of it, 64 at a time. A warp owns
// 16 keys of P^T, dS^T, dk and dv, in registers. Picks are loaded two tiles ahead, q and do one. Shared memory:
// SharedTiles, 98 KB for 128 features.
#include <cmath>
#include <cstdint>

#include "cuda/fragments.cuh"
#include "cuda/gathered_queries/backward_stages.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/gradients.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

using query_tiles::copy_rows;
using query_tiles::kLog2E;
using query_tiles::lane_row;
using query_tiles::multiply_by_rows;
using query_tiles::multiply_packed;
using query_tiles::SharedTile;
using query_tiles::store_rows;

namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes, kWarpKeys = kSharedTileKeys / kWarps;
constexpr int kRows = 64, kBlocks = 2;  // at a time; on a multiprocessor
static_assert(kWarpKeys == 16);

/// Dynamic shared memory.
template <class T, int features>
struct SharedTiles {
  T k[kSharedTileKeys * features], v[kSharedTileKeys * features];
  T q[2][kRows * features], d_o[2][kRows * features];
  float lse[2][kRows], delta[2][kRows];
  std::int32_t picks[4][kRows];  // of the rows of a tile, by its number modulo 4
};

/// A thread block's share of a list's rows, a tile at a time.
template <class T, int features>
struct ListRows {
  const Problem& p;
  const BackwardRows<T>& rows;
  const KeyTile& tile;
  SharedTiles<T, features>& shared;
  const std::int32_t* picks;
  int begin, end;

  __device__ __forceinline__ ListRows(const Problem& problem, const BackwardRows<T>& given, const KeyTile& key_tile,
                                      const Share& share, SharedTiles<T, features>& memory)
      : p(problem), rows(given), tile(key_tile), shared(memory) {
    const std::int64_t* list = p.lists.offsets + share.kv_head * p.sizes.selection.num_blocks + share.block;
    const std::int64_t offset = load_constant(list);
    const int all = static_cast<int>(load_constant(list + 1) - offset) * p.group;
    picks = p.lists.picks + offset;
    begin = share.number * kPiecePicks;
    end = share.piece >= 0 && begin + kPiecePicks < all ? begin + kPiecePicks : all;
  }

  __device__ __forceinline__ int tiles() const { return (end - begin + kRows - 1) / kRows; }
  __device__ __forceinline__ int row(int n, int in_tile) const { return begin + n * kRows + in_tile; }
  __device__ __forceinline__ int token(int n, int in_tile) const { return p.slots.of(shared.picks[n % 4][in_tile]); }
  __device__ __forceinline__ int head(int row) const {
    return tile.kv_head * p.group + row - p.by_group.of(row) * p.group;
  }

  /// Starts to copy the picks of a tile's rows.
  __device__ __forceinline__ void copy_picks(int n) const {
    const int i = thread_number(), from = row(n, i);
    if (i >= kRows) return;
    cp_async<4>(shared.picks[n % 4] + i, from < end ? picks + p.by_group.of(from) : nullptr, from < end ? 4 : 0);
  }

  /// Starts to gather the rows of a tile, whose picks have arrived. Rows that are not there become zeros, whose dS is 0
  /// and whose P multiplies a zero.
  __device__ __forceinline__ void gather(int n) const {
    const auto at = [&](const auto& from) {
      return [&, from](int i) { return row(n, i) < end ? from.at(token(n, i), head(row(n, i))) : nullptr; };
    };
    const SharedTile<T, features> q{shared.q[n % 2]}, d_o{shared.d_o[n % 2]};
    copy_rows<kThreads, kRows, features>(q, p.sizes.dk, at(rows.q));
    copy_rows<kThreads, kRows, features>(d_o, p.sizes.dv, at(rows.d_o));
    const int i = thread_number();
    if (i >= kRows) return;
    const bool is_there = row(n, i) < end;
    const Rows<const float> deltas{p.deltas, p.sizes.heads, 1};
    cp_async<4>(shared.lse[n % 2] + i, at(rows.lse)(i), is_there ? 4 : 0);
    cp_async<4>(shared.delta[n % 2] + i, at(deltas)(i), is_there ? 4 : 0);
  }
};

template <class T, int features>
__global__ void __launch_bounds__(kThreads, kBlocks)
    attend_shared_rows(Problem p, BackwardRows<T> rows, Rows<T> dk, Rows<T> dv) {
  constexpr int n16 = kRows / 16, d16 = features / 16;
  const Share share = share_of(p, block_index().x);
  if (share.tile < 0) return;
  const KeyTile tile = key_tile_of(p, share);
  if (tile.keys <= 0) return;
  auto& shared = *dynamic_shared<SharedTiles<T, features>>();
  const ListRows<T, features> list(p, rows, tile, share, shared);
  const int key0 = warp_index() * kWarpKeys;  // the warp's first

  // phase 1 - keys, values and the first picks
  const SharedTile<T, features> keys{shared.k}, values{shared.v};
  const auto key_at = [&](const auto& from) {
    return [&](int key) { return key < tile.keys ? from.at(tile.first_key + key, tile.kv_head) : nullptr; };
  };
  copy_rows<kThreads, kSharedTileKeys, features>(keys, p.sizes.dk, key_at(rows.k));
  copy_rows<kThreads, kSharedTileKeys, features>(values, p.sizes.dv, key_at(rows.v));
  list.copy_picks(0);
  list.copy_picks(1);
  cp_async_wait_all();
  sync_threads();
  list.gather(0);

  Sums<1, d16> dk_sums, dv_sums;
  clear<1, d16>(dk_sums);
  clear<1, d16>(dv_sums);
  const float to_log2 = p.sizes.scale * kLog2E;
  for (int n = 0; n < list.tiles(); ++n) {
    // phase 2 - the tile arrives, the next is sent for
    cp_async_wait_all();
    sync_threads();
    list.gather(n + 1);
    list.copy_picks(n + 2);

    // phase 3 - P and dv
    const SharedTile<T, features> queries{shared.q[n % 2]}, d_outputs{shared.d_o[n % 2]};
    const Sequences& sequences = p.sizes.selection.sequences;
    const bool all_seen = tile.visible(sequences, list.token(n, 0)) == kSharedTileKeys;  // the first sees the least
    Sums<1, n16> weights, d_scores;
    clear<1, n16>(weights);
    multiply_by_rows<T, features, 1, n16>(weights, keys.down(key0, 0), queries.beside(0, 0));
#pragma unroll
    for (int j = 0; j < 2 * n16; ++j)
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int row = 8 * j + lane_index() % 4 * 2 + column;
        const float lse = shared.lse[n % 2][row], lse_log2 = lse == -INFINITY ? INFINITY : lse * kLog2E;
        const std::int64_t seen = all_seen ? kSharedTileKeys : tile.visible(sequences, list.token(n, row));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& weight = weights[0][j][2 * half + column];
          weight = key0 + lane_row(half) < seen ? exp2_approx(weight * to_log2 - lse_log2) : 0;
        }
      }
    multiply_packed<T, 1, n16, d16>(dv_sums, weights, d_outputs.down(0, 0));

    // phase 4 - dS and dk
    clear<1, n16>(d_scores);
    multiply_by_rows<T, features, 1, n16>(d_scores, values.down(key0, 0), d_outputs.beside(0, 0));
    query_tiles::differentiate<1, n16>(d_scores, weights, [&](int, int j, int number) {
      return shared.delta[n % 2][8 * j + lane_index() % 4 * 2 + number % 2];
    });
    multiply_packed<T, 1, n16, d16>(dk_sums, d_scores, queries.down(0, 0));
  }

  // phase 5 - dk and dv
  cp_async_wait_all();
  if (share.piece < 0) {
    store_rows<T, 1, d16>(dk_sums, p.sizes.dk, p.sizes.scale,
                          [&](int, int half) { return key_at(dk)(key0 + lane_row(half)); });
    store_rows<T, 1, d16>(dv_sums, p.sizes.dv, 1, [&](int, int half) { return key_at(dv)(key0 + lane_row(half)); });
  } else {
    const int distance = p.sizes.dk + p.sizes.dv;
    float* to = p.piece_sums(share) + key0 * distance;
    query_tiles::store_sums<1, d16>(dk_sums, p.sizes.dk, to, distance);
    query_tiles::store_sums<1, d16>(dv_sums, p.sizes.dv, to + p.sizes.dk, distance);
  }
}

template <class T, int features>
void launch_tiles(const Problem& p, const BackwardRows<T>& rows, Rows<T> dk, Rows<T> dv, void* stream) {
  const std::int64_t tiles = p.pieces.most * p.tiles + p.sizes.selection.num_blocks * p.tiles * p.chunk.kv_count;
  launch(attend_shared_rows<T, features>, {{static_cast<int>(tiles)}, {kThreads}, sizeof(SharedTiles<T, features>)},
         stream, p, rows, dk, dv);
}

}  // namespace

template <class T>
void attend_shared_lists(const Problem& p, const BackwardRows<T>& rows, Rows<T> dk, Rows<T> dv, void* stream) {
  if (p.sizes.selection.num_blocks == 0) return;
  if (p.sizes.dk <= 64 && p.sizes.dv <= 64)
    launch_tiles<T, 64>(p, rows, dk, dv, stream);
  else
    launch_tiles<T, kMostApartFeatures>(p, rows, dk, dv, stream);
}

#define ATTNSPEC_INSTANTIATE(T) \
  template void attend_shared_lists<T>(const Problem&, const BackwardRows<T>&, Rows<T>, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
