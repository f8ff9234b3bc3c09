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
#include "cuda/warpgroup_tiles/ring.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

using query_tiles::copy_tile;
using query_tiles::RowFactors;
using query_tiles::RunningSoftmax;
using query_tiles::WarpRows;

namespace {

/// How a thread block works on rows of so many features.
template <class Features>
struct Shape : Features {
  static constexpr int kRows = kForwardRows, kKeys = 128;
  static constexpr int kN = kKeys / 16, kDvN = Features::kDv / 16;  // in 16
};

/// Dynamic shared memory.
template <class T, class Shape>
struct SharedTiles {
  T q[Shape::kRows * Shape::kDk];
  T k[2][Shape::kKeys * Shape::kDk], v[2][Shape::kKeys * Shape::kDv];
  Taken<Shape::kRows, Shape::kKeys> taken;
};

using KeyRing = Ring<2, 1>;
using ValueRing = Ring<2, KeyRing::end_barrier>;
/// Barriers: for each consumer, that it is its turn; the producers'.
constexpr int kTurn = ValueRing::end_barrier, kTaken = kTurn + 2;

/// The producers' part: of every tile of rows q, and keys and values tile by tile, the values one tile behind.
template <class T, class Shape>
__device__ __forceinline__ void copy_tiles(const Problem& p, const Tiles& tiles, SharedTiles<T, Shape>& shared,
                                           const Rows<const T>& q, const Rows<const T>& k, const Rows<const T>& v) {
  constexpr int kKeys = Shape::kKeys;
  KeyRing keys;
  ValueRing values;
  Announcement announcement;
  shared.taken.for_each(p, tiles, kTaken, [&](const Work& w, int) {
    for (int key = w.first_key; key < w.end_key + kKeys; key += kKeys) {
      if (key < w.end_key) {
        copy_keys<kKeys, Shape::kDk>(shared.k[keys.next_stage()], k, w.tile, key, p.dk);
        if (key == w.first_key) {  // q takes the place of rows that were multiplied with all their keys
          announcement.pause();
          keys.wait_for_use(keys.copied);
          copy_tile<kWarpgroupThreads, Shape::kRows, Shape::kDk>(Panels<T, Shape::kRows>{shared.q}, p.dk, p, w.tile, q);
        }
        announcement.add(keys);
      }
      if (key > w.first_key) {
        copy_keys<kKeys, Shape::kDv>(shared.v[values.next_stage()], v, w.tile, key - kKeys, p.dv);
        announcement.add(values);
      }
    }
  });
  announcement.add(keys);
  announcement.pause();
  keys.wait_for_use(keys.copied);
  values.wait_for_use(values.copied);
}

/// The consumers' part: o and lse of a warp's rows, from the stage of the first keys on, which are there.
template <class T, class Shape>
__device__ __forceinline__ void attend_tile(const Problem& p, const Work& w, int& stage, SharedTiles<T, Shape>& shared,
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
  const auto start_scores = [&] {
    start_product_of_rows<T, Shape::kDk, n>(scores, queries, consumer * 64, Panels<T, kKeys>{shared.k[stage]});
    wgmma_commit();
  };
  const auto start_outputs = [&] {  // of the keys before
    start_product<T, n, Shape::kDvN>(sums, weights, Panels<T, kKeys>{shared.v[stage ^ 1]});
    wgmma_commit();
  };
  const auto weigh = [&](int key) {
    mine.template for_each_unseen<1, n>(key, [&](int, int j, int number) { scores[0][j][number] = -INFINITY; });
    softmax.template weigh<n>(scores, p.scale * query_tiles::kLog2E, rescale);
  };

  wgmma_fence(scores[0]);
  start_scores();
  wgmma_wait<0>(scores[0]);
  KeyRing::release(stage);
  weigh(w.first_key);
  pack_rows<T, n>(weights, scores);
  // the warpgroups start their products in turns: the softmax of one then runs beside the products of the other
  const int turn = kTurn + consumer, other_turn = kTurn + 1 - consumer;
  if (consumer == 1) barrier_arrive(other_turn, kConsumers);
  stage ^= 1;
  for (int key = w.first_key + kKeys; all(key < w.end_key); key += kKeys, stage ^= 1) {
    KeyRing::wait(stage, consumer);
    ValueRing::wait(stage ^ 1, consumer);
    barrier_sync(turn, kConsumers);
    wgmma_fence(scores[0], sums[0], weights);
    start_scores();
    start_outputs();
    barrier_arrive(other_turn, kConsumers);
    wgmma_wait<1>(scores[0]);
    KeyRing::release(stage);
    weigh(key);
    finish_not_negative(softmax.sum[0][0] + softmax.sum[0][1]);
    wgmma_wait<0>(sums[0], weights);
    ValueRing::release(stage ^ 1);
    query_tiles::multiply_rows<1, Shape::kDvN>(sums, rescale);
    pack_rows<T, n>(weights, scores);
  }
  if (consumer == 0) barrier_sync(turn, kConsumers);
  ValueRing::wait(stage ^ 1, consumer);
  wgmma_fence(sums[0], weights);
  start_outputs();
  wgmma_wait<0>(sums[0], weights);
  ValueRing::release(stage ^ 1);

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
__global__ void __launch_bounds__(kRingThreads, 1)
    attend_row_tiles(Problem p, Tiles tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
                     Rows<float> lse) {
  auto& shared = *dynamic_shared<SharedTiles<T, Shape>>();
  if (warp_index() >= kConsumers / kWarpLanes) {
    give_registers<kProducerRegisters>();
    copy_tiles<T, Shape>(p, tiles, shared, q, k, v);
  } else {
    take_registers<kConsumerRegisters>();
    int stage = 0;
    for (int i = 0;; ++i, stage = shuffle(stage, 0)) {  // the same for all lanes
      KeyRing::wait(stage, warp_index() / 4);
      const int number = shuffle(shared.taken.numbers[i % 4], 0);
      if (number >= shared.taken.count(p, tiles)) break;
      attend_tile<T, Shape>(p, shared.taken.work(p, tiles, number), stage, shared, o, lse);
    }
    KeyRing::release(stage);
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
    launch(attend_row_tiles<T, Shape>, {{thread_blocks}, {kRingThreads}, sizeof(SharedTiles<T, Shape>)}, stream, p,
           row_tiles, q, k, v, o, lse);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                               \
  template void attend<T>(const Problem&, const Tiles&, Rows<const T>, Rows<const T>, Rows<const T>, Rows<T>, \
                          Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
