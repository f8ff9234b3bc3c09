// o = softmax(scale q k^T) v over the keys that each row sees, and lse = log sum exp(scale q k^T); o = 0 and
// lse = -infinity where there is none. For a positive scale.
//
// q [query tokens, H, dk], k and v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of 16
// bytes. A thread block, one on a multiprocessor, takes tiles of 128 rows of a key/value head one after the other, and
// goes through the keys that some of them see, 128 at a time; tiles of keys begin at multiples of their size. Two
// warpgroups consume what a third one copies, two tiles of keys ahead, also while they finish a tile of rows. A
// consumer owns 64 rows, a warp 16 of them: scores, weights and o are in registers. While the weights of a tile of keys
// are multiplied with its values, the softmax makes those of the next. Shared memory: SharedTiles, 160 KB for 128
// features.
//
// A row's bits depend on its own keys alone: key tiles that it does not see, where others of its tile do, add zeros and
// rescale by 1.
#include <algorithm>
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

/// Named barriers: for every stage and consuming warpgroup, what the producers have copied; for every stage, what both
/// have used; for every consuming warpgroup, that it is its turn.
enum Barrier { kKeysAreThere = 1, kValuesAreThere = 5, kKeysAreUsed = 9, kValuesAreUsed = 11, kTurn = 13 };

/// A tile of rows, the keys that some of them see, and the first of their first tile of keys.
struct Work {
  RowTile tile;
  KeyRange seen;
  int first_key;
};

/// Calls use(work) for the tiles of rows that are the thread block's.
template <class Shape, class Use>
__device__ __forceinline__ void for_each_work(const Problem& p, const Tiles& tiles, const Use& use) {
  for (int number = block_index().x; number < tiles.count * p.kv_heads; number += grid_size().x) {
    const RowTile tile = query_tiles::row_tile<Shape::kRows>(p, tiles, number);
    const KeyRange seen = tile.seen(p);
    use(Work{tile, seen, seen.first / Shape::kKeys * Shape::kKeys});
  }
}

/// The producers' part: of every tile of rows q, and keys and values tile by tile, the values one tile behind. Tiles of
/// keys are counted over all tiles of rows.
template <class T, class Shape>
__device__ __forceinline__ void copy_tiles(const Problem& p, const Tiles& tiles, SharedTiles<T, Shape>& shared,
                                           const Rows<const T>& q, const Rows<const T>& k, const Rows<const T>& v) {
  constexpr int kKeys = Shape::kKeys;
  int copied_keys = 0, copied_values = 0, used_keys = 0, used_values = 0;  // tiles of keys
  int last = 0;  // the barrier of what was copied last and not yet said to be there
  const auto say_last = [&] {
    fence_async_proxy();
    for (int consumer = 0; consumer < 2; ++consumer) barrier_arrive(last + consumer, 2 * kWarpgroupThreads);
    last = 0;
  };
  const auto copied = [&](int barrier) {
    cp_async_commit();
    cp_async_wait<1>();
    if (last != 0) say_last();
    last = barrier;
  };
  const auto wait_for_use = [&](int& used, int wanted, int barrier) {
    for (; used < wanted; ++used) barrier_sync(barrier + used % 2, Shape::kThreads);
  };
  for_each_work<Shape>(p, tiles, [&](const Work& w) {
    const auto rows_at = [&](const Rows<const T>& rows, int key) {
      return rows_from(rows, w.tile.sequence, w.tile.kv_head, key);
    };
    if (w.first_key >= w.seen.end) return;
    for (int key = w.first_key; key < w.seen.end + kKeys; key += kKeys) {
      if (key < w.seen.end) {
        const int stage = copied_keys % 2;
        wait_for_use(used_keys, copied_keys - 1, kKeysAreUsed);
        copy_rows<kWarpgroupThreads, kKeys, Shape::kDk>(Panels<T, kKeys>{shared.k[stage]}, p.dk, rows_at(k, key));
        if (key == w.first_key) {  // q takes the place of rows that all their keys have been multiplied with
          if (last != 0) cp_async_wait<0>(), say_last();
          wait_for_use(used_keys, copied_keys, kKeysAreUsed);
          copy_rows<kWarpgroupThreads, Shape::kRows, Shape::kDk>(Panels<T, Shape::kRows>{shared.q}, p.dk,
                                                                 [&](int row) { return w.tile.at(p, q, row); });
        }
        ++copied_keys;
        copied(kKeysAreThere + 2 * stage);
      }
      if (key > w.first_key) {
        const int stage = copied_values % 2;
        wait_for_use(used_values, copied_values - 1, kValuesAreUsed);
        copy_rows<kWarpgroupThreads, kKeys, Shape::kDv>(Panels<T, kKeys>{shared.v[stage]}, p.dv,
                                                        rows_at(v, key - kKeys));
        ++copied_values;
        copied(kValuesAreThere + 2 * stage);
      }
    }
  });
  cp_async_wait_all();
  if (last != 0) say_last();
  wait_for_use(used_keys, copied_keys, kKeysAreUsed);
  wait_for_use(used_values, copied_values, kValuesAreUsed);
}

/// The consumers' part: o and lse of a warp's rows. `step`: tiles of keys that came before.
template <class T, class Shape>
__device__ __forceinline__ void attend_tile(const Problem& p, const Work& w, int& step, SharedTiles<T, Shape>& shared,
                                            const Rows<T>& o, const Rows<float>& lse) {
  constexpr int kKeys = Shape::kKeys, n = Shape::kN;
  const WarpRows mine(p, w.tile, 16);
  const int consumer = mine.from / 64;
  const Panels<T, Shape::kRows> queries{shared.q};
  Sums<1, Shape::kDvN> sums;
  clear<1, Shape::kDvN>(sums);
  RunningSoftmax<1> softmax;
  softmax.clear();
  Sums<1, n> scores;
  Packed<n> weights;
  RowFactors<1> rescale;
  const auto wait_for = [&](int barrier, int number) {
    barrier_sync(barrier + number % 2 * 2 + consumer, 2 * kWarpgroupThreads);
  };
  const auto used = [&](int barrier, int number) { barrier_arrive(barrier + number % 2, Shape::kThreads); };
  const auto start_scores = [&] {
    start_product_of_rows<T, Shape::kDk, n>(scores, queries, consumer * 64, Panels<T, kKeys>{shared.k[step % 2]});
    wgmma_commit();
  };
  const auto start_outputs = [&](int number) {
    start_product<T, n, Shape::kDvN>(sums, weights, Panels<T, kKeys>{shared.v[number % 2]});
    wgmma_commit();
  };
  const auto weigh = [&](int key) {
    mine.template for_each_unseen<1, n>(key, [&](int, int j, int number) { scores[0][j][number] = -INFINITY; });
    softmax.template weigh<n>(scores, p.scale * query_tiles::kLog2E, rescale);
  };

  if (w.first_key < w.seen.end) {
    wait_for(kKeysAreThere, step);
    wgmma_fence(scores[0]);
    start_scores();
    wgmma_wait<0>(scores[0]);
    used(kKeysAreUsed, step);
    weigh(w.first_key);
    pack_rows<T, n>(weights, scores);
    // the warpgroups start their products in turns: the softmax of one then runs beside the products of the other
    const int turn = kTurn + consumer, other_turn = kTurn + 1 - consumer;
    if (consumer == 1) barrier_arrive(other_turn, Shape::kConsumers);
    ++step;
    for (int key = w.first_key + kKeys; key < w.seen.end; key += kKeys, ++step) {
      wait_for(kKeysAreThere, step);
      wait_for(kValuesAreThere, step - 1);
      barrier_sync(turn, Shape::kConsumers);
      wgmma_fence(scores[0], sums[0], weights);
      start_scores();
      start_outputs(step - 1);
      barrier_arrive(other_turn, Shape::kConsumers);
      wgmma_wait<1>(scores[0]);
      used(kKeysAreUsed, step);
      weigh(key);
      finish_not_negative(softmax.sum[0][0] + softmax.sum[0][1]);
      wgmma_wait<0>(sums[0], weights);
      used(kValuesAreUsed, step - 1);
      query_tiles::multiply_rows<1, Shape::kDvN>(sums, rescale);
      pack_rows<T, n>(weights, scores);
    }
    if (consumer == 0) barrier_sync(turn, Shape::kConsumers);
    wait_for(kValuesAreThere, step - 1);
    wgmma_fence(sums[0], weights);
    start_outputs(step - 1);
    wgmma_wait<0>(sums[0], weights);
    used(kValuesAreUsed, step - 1);
  }

  float row_lse[1][2];
  softmax.template finish<Shape::kDvN>(sums, row_lse);
  query_tiles::store_rows<T, 1, Shape::kDvN>(sums, p.dv, 1, [&](int i, int half) { return mine.at(o, i, half); });
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
  if (warp_index() >= Shape::kConsumers / kWarpLanes) {
    give_registers<Shape::kProducerRegisters>();
    copy_tiles<T, Shape>(p, tiles, shared, q, k, v);
  } else {
    take_registers<Shape::kConsumerRegisters>();
    int step = 0;
    for_each_work<Shape>(p, tiles, [&](const Work& w) { attend_tile<T, Shape>(p, w, step, shared, o, lse); });
  }
}

}  // namespace

template <class T>
void attend(const Problem& p, const Tiles& row_tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream) {
  if (row_tiles.count == 0) return;
  with_features(p.dk, p.dv, [&]<class Features>(Features) {
    using Shape = Shape<Features>;
    const int thread_blocks = std::min(row_tiles.count * p.kv_heads, multiprocessors());
    launch(attend_row_tiles<T, Shape>, {{thread_blocks}, {Shape::kThreads}, sizeof(SharedTiles<T, Shape>)}, stream, p,
           row_tiles, q, k, v, o, lse);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                               \
  template void attend<T>(const Problem&, const Tiles&, Rows<const T>, Rows<const T>, Rows<const T>, Rows<T>, \
                          Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
