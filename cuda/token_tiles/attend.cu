// o = softmax(scale q k^T) v over the keys that each row sees in the blocks of its query, and
// lse = log sum exp(scale q k^T); o = 0 and lse = -infinity where there is none.
//
// q [query tokens, H, dk], k and v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of 16
// bytes; a selection for each key/value head, attend.hpp. A thread block of 4 warps (2 where dk > 128) owns 32 rows of
// a key/value head (16 where dv > 128): of a group of 16 heads two tokens. It goes through the blocks that some of them
// selected, in ascending order, 64 keys (32) at a time from a block's first on; of these a warp owns 16, for all rows
// that selected the block, and keeps o of these keys in registers. At last the warps' o are added in shared memory.
// Shared memory: SharedTiles, 73 KB for 128 features; the next key tile is copied while one is used.
//
// A row's bits depend on its own keys alone: a warp leaves out 16 rows that did not select a block, and among 16 others
// keys that a row does not see add zeros and rescale by 1.
#include <cmath>
#include <cstdint>
#include <limits>

#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/softmax.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/token_tiles/attend.hpp"
#include "cuda/token_tiles/warp_sums.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles {

using query_tiles::copy_rows;
using query_tiles::keys_of;
using query_tiles::kLog2E;
using query_tiles::lane_row;
using query_tiles::multiply_by_rows;
using query_tiles::multiply_packed;
using query_tiles::padded;
using query_tiles::row_tile;
using query_tiles::RowTile;
using query_tiles::RunningSoftmax;
using query_tiles::SharedTile;
using query_tiles::with_features;

namespace {

/// How a thread block works on rows of so many features.
template <class Features>
struct Shape : Features {
  static constexpr int kM = Features::kDv > 128 ? 1 : 2, kRows = 16 * kM;
  static constexpr int kKeys = Features::kDk > 128 ? 32 : 64;
  static constexpr int kWarps = kKeys / 16, kThreads = kWarps * kWarpLanes, kBlocks = 2;  // on a multiprocessor
  static constexpr int kDvN = Features::kDv / 16;
};

/// Dynamic shared memory. What warps found takes the place of the keys.
template <class T, class Shape>
struct SharedTiles {
  T q[Shape::kRows * padded(Shape::kDk)];
  union {
    struct {
      T k[2][Shape::kKeys * padded(Shape::kDk)], v[2][Shape::kKeys * padded(Shape::kDv)];
    } keys;
    WarpSums<Shape::kWarps, Shape::kRows, Shape::kDv> found;
  };
};

/// A key block that some rows of a tile selected and see. None: kNoBlock, and no rows.
struct Pick {
  int block;
  int end;             // of the keys that some of these rows see, counted in the sequence
  std::uint32_t rows;  // bit r: row r
};

constexpr int kNoBlock = std::numeric_limits<int>::max();

/// The rows of a query in a tile, as bits.
__device__ __forceinline__ std::uint32_t rows_of_query(const Problem& p, const RowTile& tile, int query) {
  const int begin = query * p.group - tile.begin, end = begin + p.group;
  const auto rows_before = [](int row) { return row <= 0 ? 0 : row >= 32 ? kAllLanes : (std::uint32_t{1} << row) - 1; };
  return rows_before(end < tile.count ? end : tile.count) & ~rows_before(begin);
}

/// The first block after `block` that some rows of the tile selected and see. All lanes get it.
__device__ __forceinline__ Pick next_pick(const Problem& p, const Selection& selection, const RowTile& tile,
                                          int block) {
  const int first = static_cast<int>(tile.query(p, 0)), last = static_cast<int>(tile.query(p, tile.count - 1));
  const auto for_each_choice = [&](int query, const auto& use) {
    const std::int64_t row = (tile.sequence.q_begin + query) * p.kv_heads + tile.kv_head;
    const std::int64_t visible = num_visible_keys(p.sequences, tile.sequence, query);
    for (std::int64_t slot = lane_index(); slot < selection.slots; slot += kWarpLanes) {
      const int choice = load_constant(selection.chosen + row * selection.slots + slot);
      if (choice > block && choice * selection.block < visible) use(choice);
    }
  };
  int nearest = kNoBlock;
  for (int query = first; query <= last; ++query)
    for_each_choice(query, [&](int choice) { nearest = choice < nearest ? choice : nearest; });
  Pick pick{-max_lanes(-nearest), 0, 0};
  if (pick.block == kNoBlock) return pick;
  for (int query = first; query <= last; ++query) {
    bool has_chosen = false;
    for_each_choice(query, [&](int choice) { has_chosen = has_chosen || choice == pick.block; });
    if (!any(has_chosen)) continue;
    pick.rows |= rows_of_query(p, tile, query);
    const std::int64_t visible = num_visible_keys(p.sequences, tile.sequence, query);
    const std::int64_t block_end = (pick.block + std::int64_t{1}) * selection.block;
    pick.end = static_cast<int>(block_end < visible ? block_end : visible);  // later queries see more
  }
  return pick;
}

/// o and lse of all rows, from what the warps found, 8 features at a time.
template <class T, class Shape>
__device__ __forceinline__ void merge_rows(const Problem& p, const SharedTiles<T, Shape>& shared, const RowTile& tile,
                                           const Rows<T>& o, const Rows<float>& lse) {
  for (int piece = thread_number(); piece < tile.count * (p.dv / 8); piece += Shape::kThreads) {
    const int row = piece / (p.dv / 8), d = piece % (p.dv / 8) * 8;
    const RowSums found = shared.found.of_row(row, d);
    const float normaliser = found.sum > 0 ? 1 / found.sum : 0;
    Words4 words;
#pragma unroll
    for (int word = 0; word < 4; ++word)
      words.words[word] = pack<T>(found.features[2 * word] * normaliser, found.features[2 * word + 1] * normaliser);
    store_128(tile.at(p, o, row) + d, words);
    if (d == 0) *tile.at(p, lse, row) = found.sum > 0 ? (found.largest + log2f(found.sum)) * 0.693147181f : -INFINITY;
  }
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    attend_token_tiles(Problem p, Selection selection, Tiles tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v,
                       Rows<T> o, Rows<float> lse) {
  constexpr int kDk = Shape::kDk, kDv = Shape::kDv, kKeys = Shape::kKeys, m = Shape::kM;
  auto& shared = *dynamic_shared<SharedTiles<T, Shape>>();

  // phase 1 - the thread block's rows, and how many keys the lane's see
  const RowTile tile = row_tile<Shape::kRows>(p, tiles, block_index().x);
  const SharedTile<T, kDk> queries{shared.q};
  copy_rows<Shape::kThreads, Shape::kRows, kDk>(queries, p.dk, [&](int row) { return tile.at(p, q, row); });
  int visible[m][2];
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      visible[i][half] = keys_of(p, tile.sequence, tile.query(p, 16 * i + lane_row(half))).end;

  // phase 2 - the keys of their blocks, of which the warp has 16 of each tile
  Sums<1, Shape::kDvN> sums[m];
  RunningSoftmax<1> softmax[m];
#pragma unroll
  for (int i = 0; i < m; ++i) clear<1, Shape::kDvN>(sums[i]), softmax[i].clear();
  const float to_log2 = p.scale * kLog2E;
  const auto copy_keys = [&](int key, int end, int stage) {
    const auto rows_of_keys = [&](const Rows<const T>& from) {
      return
          [&, from](int n) { return key + n < end ? from.at(tile.sequence.k_begin + key + n, tile.kv_head) : nullptr; };
    };
    copy_rows<Shape::kThreads, kKeys, kDk>(SharedTile<T, kDk>{shared.keys.k[stage]}, p.dk, rows_of_keys(k));
    copy_rows<Shape::kThreads, kKeys, kDv>(SharedTile<T, kDv>{shared.keys.v[stage]}, p.dv, rows_of_keys(v));
  };
  const auto attend_keys = [&](const Pick& pick, int key, int stage) {
    const int mine = 16 * warp_index(), column = key + mine + lane_index() % 4 * 2;
    if (key + mine >= pick.end) return;
    const auto keys = SharedTile<T, kDk>{shared.keys.k[stage]}.beside(mine, 0);
    const auto values = SharedTile<T, kDv>{shared.keys.v[stage]}.down(mine, 0);
#pragma unroll
    for (int i = 0; i < m; ++i) {
      const std::uint32_t rows = pick.rows >> 16 * i & 0xffff;
      if (rows == 0) continue;
      Sums<1, 1> scores;
      clear<1, 1>(scores);
      multiply_by_rows<T, kDk, 1, 1>(scores, queries.down(16 * i, 0), keys);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row_end = visible[i][half] < pick.end ? visible[i][half] : pick.end;
        const int end = (rows >> lane_row(half) & 1) == 0 ? 0 : row_end;
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& score = scores[0][j][2 * half + c];
            score = column + 8 * j + c < end ? score * to_log2 : -INFINITY;
          }
      }
      softmax[i].template weigh<1, Shape::kDvN>(scores, sums[i]);
      multiply_packed<T, 1, 1, Shape::kDvN>(sums[i], scores, values);
    }
  };
  const auto first_key = [&](const Pick& pick) { return static_cast<int>(pick.block * selection.block); };
  Pick pick = next_pick(p, selection, tile, -1);
  int key = 0;
  if (pick.rows != 0) copy_keys(key = first_key(pick), pick.end, 0);
  for (int stage = 0; pick.rows != 0; stage ^= 1) {
    Pick next = pick;
    int next_key = key + kKeys;
    if (next_key >= pick.end) {
      next = next_pick(p, selection, tile, pick.block);
      if (next.rows != 0) next_key = first_key(next);
    }
    cp_async_wait_all();
    sync_threads();  // this tile is there, and what the last one used is free
    if (next.rows != 0) copy_keys(next_key, next.end, stage ^ 1);
    attend_keys(pick, key, stage);
    pick = next, key = next_key;
  }

  // phase 3 - what the warps found
  cp_async_wait_all();
  sync_threads();
#pragma unroll
  for (int i = 0; i < m; ++i) shared.found.put(16 * i, softmax[i], sums[i]);
  sync_threads();

  // phase 4 - o and lse
  merge_rows(p, shared, tile, o, lse);
}

}  // namespace

int tile_rows(int dk, int dv) {
  int rows = 0;
  with_features(dk, dv, [&]<class Features>(Features) { rows = Shape<Features>::kRows; });
  return rows;
}

template <class T>
void attend(const Problem& p, const Selection& selection, const Tiles& row_tiles, Rows<const T> q, Rows<const T> k,
            Rows<const T> v, Rows<T> o, Rows<float> lse, void* stream) {
  if (row_tiles.count == 0) return;
  with_features(p.dk, p.dv, [&]<class Features>(Features) {
    using Shape = Shape<Features>;
    launch(attend_token_tiles<T, Shape>,
           {{row_tiles.count * p.kv_heads}, {Shape::kThreads}, sizeof(SharedTiles<T, Shape>)}, stream, p, selection,
           row_tiles, q, k, v, o, lse);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                        \
  template void attend<T>(const Problem&, const Selection&, const Tiles&, Rows<const T>, Rows<const T>, Rows<const T>, \
                          Rows<T>, Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles
