// o = softmax(scale q k^T) v over the keys that each row sees, and lse = log sum exp(scale q k^T); o = 0 and
// lse = -infinity where there is none. For a positive scale.
//
// q [query tokens, H, dk], k and v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of 16
// bytes. A thread block owns 128 rows of a key/value head and goes through the keys that some of them see, 128 at a
// time; tiles of keys begin at multiples of their size. Two warpgroups consume what a third one copies, two tiles
// ahead. A consumer owns 64 rows, a warp 16 of them: scores, weights and o are in registers. While the weights of a
// tile of keys are multiplied with its values, the softmax makes those of the next. Shared memory: SharedTiles, 160 KB
// for 128 features, one block on a multiprocessor.
//
// A row's bits depend on its own keys alone: key tiles that it does not see, where others of its tile do, add zeros and
// rescale by 1.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/softmax.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/warpgroup_tiles/panels.cuh"
#include "cuda/warpgroup_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

using query_tiles::copy_rows;
using query_tiles::KeyRange;
using query_tiles::RowFactors;
using query_tiles::rows_from;
using query_tiles::RowTile;
using query_tiles::RunningSoftmax;
using query_tiles::WarpRows;

namespace {

/// How a thread block works on rows of so many features.
template <class Features>
struct Shape : Features {
  static constexpr int kConsumers = 2 * kWarpgroupThreads, kThreads = kConsumers + kWarpgroupThreads;
  static constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;  // of a thread
  static constexpr int kRows = kForwardRows, kKeys = 128;
  static constexpr int kN = kKeys / 16, kDvN = Features::kDv / 16;  // in 16
};

/// Dynamic shared memory.
template <class T, class Shape>
struct SharedTiles {
  T q[Shape::kRows * Shape::kDk];
  T k[2][Shape::kKeys * Shape::kDk], v[2][Shape::kKeys * Shape::kDv];
};

/// Named barriers: for every stage, what the producers have copied, and what is free again; for each of the two
/// consuming warpgroups, whose turn it is.
enum Barrier { kKeysAreThere = 1, kValuesAreThere = 3, kKeysAreUsed = 5, kValuesAreUsed = 7, kTurn = 9 };

/// What the threads of a block know of their tile.
template <class T>
struct Work {
  const Problem& p;
  RowTile tile;
  KeyRange seen;
  int first_key;  // of the first tile of keys
};

/// The producers' part: all of q, and keys and values tile by tile, the values one tile behind.
template <class T, class Shape>
__device__ __forceinline__ void copy_tiles(const Work<T>& w, SharedTiles<T, Shape>& shared, const Rows<const T>& q,
                                           const Rows<const T>& k, const Rows<const T>& v) {
  constexpr int kKeys = Shape::kKeys;
  const auto rows_at = [&](const Rows<const T>& rows, int key) {
    return rows_from(rows, w.tile.sequence, w.tile.kv_head, key);
  };
  int last = 0;  // the barrier of what was copied last
  const auto copied = [&](int barrier) {
    cp_async_commit();
    if (last != 0) {
      cp_async_wait<1>();
      fence_async_proxy();
      barrier_arrive(last, Shape::kThreads);
    }
    last = barrier;
  };
  copy_rows<kWarpgroupThreads, Shape::kRows, Shape::kDk>(Panels<T, Shape::kRows>{shared.q}, w.p.dk,
                                                         [&](int row) { return w.tile.at(w.p, q, row); });
  int stage = 0;
  for (int key = w.first_key; key < w.seen.end + kKeys; key += kKeys, stage ^= 1) {
    if (key < w.seen.end) {
      if (key >= w.first_key + 2 * kKeys) barrier_sync(kKeysAreUsed + stage, Shape::kThreads);
      copy_rows<kWarpgroupThreads, kKeys, Shape::kDk>(Panels<T, kKeys>{shared.k[stage]}, w.p.dk, rows_at(k, key));
      copied(kKeysAreThere + stage);
    }
    if (key > w.first_key) {
      const int before = stage ^ 1;
      if (key >= w.first_key + 3 * kKeys) barrier_sync(kValuesAreUsed + before, Shape::kThreads);
      copy_rows<kWarpgroupThreads, kKeys, Shape::kDv>(Panels<T, kKeys>{shared.v[before]}, w.p.dv,
                                                      rows_at(v, key - kKeys));
      copied(kValuesAreThere + before);
    }
  }
  cp_async_wait_all();
  fence_async_proxy();
  barrier_arrive(last, Shape::kThreads);
}

/// The consumers' part: o and lse of a warp's rows.
template <class T, class Shape>
__device__ __forceinline__ void attend_tiles(const Work<T>& w, SharedTiles<T, Shape>& shared, const Rows<T>& o,
                                             const Rows<float>& lse) {
  constexpr int kKeys = Shape::kKeys, n = Shape::kN;
  const WarpRows mine(w.p, w.tile, 16);
  const Panels<T, Shape::kRows> queries{shared.q};
  Sums<1, Shape::kDvN> sums;
  clear<1, Shape::kDvN>(sums);
  RunningSoftmax<1> softmax;
  softmax.clear();
  Sums<1, n> scores;
  Packed<n> weights;
  RowFactors<1> rescale;
  const auto start_scores = [&](int stage) {
    start_product_of_rows<T, Shape::kDk, n>(scores, queries, mine.from / 64 * 64, Panels<T, kKeys>{shared.k[stage]});
    wgmma_commit();
  };
  const auto start_outputs = [&](int stage) {
    start_product<T, n, Shape::kDvN>(sums, weights, Panels<T, kKeys>{shared.v[stage]});
    wgmma_commit();
  };
  const auto weigh = [&](int key) {
    mine.template for_each_unseen<1, n>(key, [&](int, int j, int number) { scores[0][j][number] = -INFINITY; });
    softmax.template weigh<n>(scores, w.p.scale * query_tiles::kLog2E, rescale);
  };
  // the producers wait for the tile after next alone
  const auto used = [&](int key, int barrier) {
    if (key + 2 * kKeys < w.seen.end) barrier_arrive(barrier, Shape::kThreads);
  };

  if (w.first_key < w.seen.end) {
    barrier_sync(kKeysAreThere, Shape::kThreads);
    wgmma_fence(scores[0]);
    start_scores(0);
    wgmma_wait<0>(scores[0]);
    used(w.first_key, kKeysAreUsed);
    weigh(w.first_key);
    pack_rows<T, n>(weights, scores);
    // the warpgroups start their products in turns: the softmax of one then runs beside the products of the other
    const int turn = kTurn + mine.from / 64, other_turn = 2 * kTurn + 1 - turn;
    if (turn != kTurn) barrier_arrive(kTurn, Shape::kConsumers);
    int stage = 1;
    for (int key = w.first_key + kKeys; key < w.seen.end; key += kKeys, stage ^= 1) {
      const int before = stage ^ 1;
      barrier_sync(kKeysAreThere + stage, Shape::kThreads);
      barrier_sync(kValuesAreThere + before, Shape::kThreads);
      barrier_sync(turn, Shape::kConsumers);
      wgmma_fence(scores[0], sums[0], weights);
      start_scores(stage);
      start_outputs(before);
      barrier_arrive(other_turn, Shape::kConsumers);
      wgmma_wait<1>(scores[0]);
      used(key, kKeysAreUsed + stage);
      weigh(key);
      finish_not_negative(softmax.sum[0][0] + softmax.sum[0][1]);
      wgmma_wait<0>(sums[0], weights);
      used(key - kKeys, kValuesAreUsed + before);
      query_tiles::multiply_rows<1, Shape::kDvN>(sums, rescale);
      pack_rows<T, n>(weights, scores);
    }
    if (turn == kTurn) barrier_sync(kTurn, Shape::kConsumers);
    barrier_sync(kValuesAreThere + (stage ^ 1), Shape::kThreads);
    wgmma_fence(sums[0], weights);
    start_outputs(stage ^ 1);
    wgmma_wait<0>(sums[0], weights);
  }

  float row_lse[1][2];
  softmax.template finish<Shape::kDvN>(sums, row_lse);
  query_tiles::store_rows<T, 1, Shape::kDvN>(sums, w.p.dv, 1, [&](int i, int half) { return mine.at(o, i, half); });
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* to = mine.at(lse, 0, half);
    if (to != nullptr && lane_index() % 4 == 0) *to = row_lse[0][half];
  }
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    attend_row_tiles(Problem p, Tiles tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
                     Rows<float> lse) {
  auto& shared = *dynamic_shared<SharedTiles<T, Shape>>();
  const RowTile tile = query_tiles::row_tile<Shape::kRows>(p, tiles, block_index().x);
  const KeyRange seen = tile.seen(p);
  const Work<T> work{p, tile, seen, seen.first / Shape::kKeys * Shape::kKeys};
  if (warp_index() >= Shape::kConsumers / kWarpLanes) {
    give_registers<Shape::kProducerRegisters>();
    if (work.first_key < seen.end) copy_tiles<T, Shape>(work, shared, q, k, v);
  } else {
    take_registers<Shape::kConsumerRegisters>();
    attend_tiles<T, Shape>(work, shared, o, lse);
  }
}

}  // namespace

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

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
