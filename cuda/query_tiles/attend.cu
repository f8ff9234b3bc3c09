// o = softmax(scale q k^T) v over the keys that each row sees, and lse = log sum exp(scale q k^T); o = 0 and
// lse = -infinity where there is none.
//
// q [query tokens, H, dk], k and v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of 16
// bytes. A thread block of 4 warps owns 128 rows of a key/value head, 64 where dk > 192, and goes through the keys that
// some of them see, a tile at a time; tiles of keys begin at multiples of their size. A warp owns 32 rows of scores and
// o (16), in registers. Shared memory: SharedTiles, 96 KB for 128 features, two blocks on a multiprocessor; the next
// key tile is copied while one is used.
//
// A row's bits depend on its own keys alone: key tiles that it does not see, where others of its tile do, add zeros and
// rescale by 1.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/softmax.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

namespace {

/// How a thread block works on rows of so many features.
template <class Features>
struct Shape : Features {
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes, kBlocks = 2;  // on a multiprocessor
  static constexpr int kWarpRows = Features::kDk > 192 ? 16 : 32, kRows = kWarps * kWarpRows;
  static constexpr int kKeys = Features::kDk > 128 ? 32 : 64;
  static constexpr int kM = kWarpRows / 16, kN = kKeys / 16, kDvN = Features::kDv / 16;  // in 16
};

/// Dynamic shared memory.
template <class T, class Shape>
struct SharedTiles {
  T q[Shape::kRows * padded(Shape::kDk)];
  T k[2][Shape::kKeys * padded(Shape::kDk)], v[2][Shape::kKeys * padded(Shape::kDv)];
};

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    attend_row_tiles(Problem p, Tiles tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
                     Rows<float> lse) {
  constexpr int kDk = Shape::kDk, kDv = Shape::kDv, kKeys = Shape::kKeys, m = Shape::kM, n = Shape::kN;
  auto& shared = *dynamic_shared<SharedTiles<T, Shape>>();

  // phase 1 - what the thread block and the warp own
  const RowTile tile = row_tile<Shape::kRows>(p, tiles, block_index().x);
  const WarpRows mine(p, tile, Shape::kWarpRows);
  const SharedTile<T, kDk> queries{shared.q};
  copy_rows<Shape::kThreads, Shape::kRows, kDk>(queries, p.dk, [&](int row) { return tile.at(p, q, row); });

  // phase 2 - the keys that they see
  Sums<m, Shape::kDvN> sums;
  clear<m, Shape::kDvN>(sums);
  RunningSoftmax<m> softmax;
  softmax.clear();
  const float to_log2 = p.scale * kLog2E;
  const auto copy_keys = [&](int key, int stage) {
    const SharedTile<T, kDk> keys{shared.k[stage]};
    const SharedTile<T, kDv> values{shared.v[stage]};
    copy_rows<Shape::kThreads, kKeys, kDk>(keys, p.dk, rows_from(k, tile.sequence, tile.kv_head, key));
    copy_rows<Shape::kThreads, kKeys, kDv>(values, p.dv, rows_from(v, tile.sequence, tile.kv_head, key));
  };
  const auto attend_keys = [&](int key, int stage) {
    if (!mine.some_see(key, kKeys)) return;
    const SharedTile<T, kDk> keys{shared.k[stage]};
    const SharedTile<T, kDv> values{shared.v[stage]};
    Sums<m, n> scores;
    clear<m, n>(scores);
    multiply_by_rows<T, kDk, m, n>(scores, queries.down(mine.from, 0), keys.beside(0, 0));
#pragma unroll
    for (auto& rows : scores)
#pragma unroll
      for (auto& columns : rows)
#pragma unroll
        for (float& score : columns) score *= to_log2;
    mine.template for_each_unseen<m, n>(key, [&](int i, int j, int number) { scores[i][j][number] = -INFINITY; });
    softmax.template weigh<n, Shape::kDvN>(scores, sums);
    multiply_packed<T, m, n, Shape::kDvN>(sums, scores, values.down(0, 0));
  };
  const KeyRange seen = tile.seen(p);
  walk<kKeys>(seen.first / kKeys * kKeys, seen.end, copy_keys, attend_keys);

  // phase 3 - o and lse
  float row_lse[m][2];
  softmax.template finish<Shape::kDvN>(sums, row_lse);
  store_rows<T, m, Shape::kDvN>(sums, p.dv, 1, [&](int i, int half) { return mine.at(o, i, half); });
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* to = mine.at(lse, i, half);
      if (to != nullptr && lane_index() % 4 == 0) *to = row_lse[i][half];
    }
}

}  // namespace

int forward_tile_rows(int dk, int dv) {
  int rows = 0;
  with_features(dk, dv, [&]<class Features>(Features) { rows = Shape<Features>::kRows; });
  return rows;
}

template <class T>
void attend(const Problem& p, const Tiles& row_tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream) {
  if (row_tiles.count == 0) return;
  with_features(p.dk, p.dv, [&]<class Features>(Features) {
    using Shape = Shape<Features>;
    launch(attend_row_tiles<T, Shape>,
           {{row_tiles.count * p.kv_heads}, {Shape::kThreads}, sizeof(SharedTiles<T, Shape>)}, stream, p, row_tiles, q,
           k, v, o, lse);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                               \
  template void attend<T>(const Problem&, const Tiles&, Rows<const T>, Rows<const T>, Rows<const T>, Rows<T>, \
                          Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
