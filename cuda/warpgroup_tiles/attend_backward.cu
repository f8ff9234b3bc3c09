// As in query_tiles: with P = exp(scale q k^T - lse), delta = <do, o>, dS = P (do v^T - delta): dq = scale dS k,
// dk = scale dS^T q and dv = P^T do, summed over the rows that see a key. For a positive scale.
//   dq of each row, and its lse and delta for the keys    query_gradients
//   dk and dv of each key, or segments of their sums        key_gradients
// Two warpgroups of a thread block compute, one block on a multiprocessor; for dq a third copies. Products run while
// the next ones are prepared.
#include <algorithm>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/query_tiles/gradients.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/warpgroup_tiles/panels.cuh"
#include "cuda/warpgroup_tiles/problem.hpp"
#include "cuda/warpgroup_tiles/ring.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

using query_tiles::copy_rows;
using query_tiles::copy_tile;
using query_tiles::KeyTile;
using query_tiles::kLog2E;
using query_tiles::lane_row;
using query_tiles::RowRange;
using query_tiles::RowTile;
using query_tiles::Share;
using query_tiles::WarpRows;

namespace {

// ---- dq ----

/// How a thread block works on rows of so many features.
template <class Features>
struct RowShape : Features {
  static constexpr int kRows = kGradientRows, kKeys = 64;
  static constexpr int kN = kKeys / 16, kDkN = Features::kDk / 16;  // in 16
};

/// Dynamic shared memory.
template <class T, class Shape>
struct SharedRowTiles {
  T q[2][Shape::kRows * Shape::kDk], d_o[2][Shape::kRows * Shape::kDv];
  T k[3][Shape::kKeys * Shape::kDk], v[3][Shape::kKeys * Shape::kDv];
  Taken<Shape::kRows, Shape::kKeys> taken;
};

using KeyRing = Ring<3, 1>;
constexpr int kTaken = KeyRing::end_barrier;  // the producers' barrier

/// The producers' part: of every tile of rows q and do, and keys with their values tile by tile.
template <class T, class Shape>
__device__ __forceinline__ void copy_row_tiles(const Problem& p, const Tiles& tiles, SharedRowTiles<T, Shape>& shared,
                                               const BackwardRows<T>& rows) {
  constexpr int kKeys = Shape::kKeys, kRows = Shape::kRows;
  KeyRing ring;
  Announcement announcement;
  unsigned first_step = 0;  // of the latest tile of rows
  shared.taken.for_each(p, tiles, kTaken, [&](const Work& w, int i) {
    for (int key = w.first_key; key < w.end_key; key += kKeys) {
      const int stage = ring.next_stage();
      copy_keys<kKeys, Shape::kDk>(shared.k[stage], rows.k, w.tile, key, p.dk);
      copy_keys<kKeys, Shape::kDv>(shared.v[stage], rows.v, w.tile, key, p.dv);
      if (key == w.first_key) {  // in the place of the tile of rows before the last
        announcement.pause();
        ring.wait_for_use(first_step);
        first_step = ring.copied;
        const Panels<T, kRows> queries{shared.q[i % 2]}, d_outputs{shared.d_o[i % 2]};
        copy_tile<kWarpgroupThreads, kRows, Shape::kDk>(queries, p.dk, p, w.tile, rows.q);
        copy_tile<kWarpgroupThreads, kRows, Shape::kDv>(d_outputs, p.dv, p, w.tile, rows.d_o);
      }
      announcement.add(ring);
    }
  });
  announcement.add(ring);
  announcement.pause();
  ring.wait_for_use(ring.copied);
}

/// The consumers' part: dq of a warp's rows, and their terms, from the stage of the first keys on, which are there.
/// `i`: tiles of rows that came before.
template <class T, class Shape>
__device__ __forceinline__ void find_query_gradients(const Problem& p, const Work& w, int i, int& stage,
                                                     SharedRowTiles<T, Shape>& shared, const BackwardRows<T>& rows,
                                                     const Rows<RowTerms>& terms, const Rows<T>& dq) {
  constexpr int kKeys = Shape::kKeys, kRows = Shape::kRows, n = Shape::kN;
  const WarpRows mine(p, w.tile, 16);
  const int consumer = mine.from / 64;
  RowTerms own[1][2];
  query_tiles::find_terms<1>(mine, rows, terms, own);
  Sums<1, Shape::kDkN> sums;
  clear<1, Shape::kDkN>(sums);
  Sums<1, n> weights, d_scores;
  Packed<n> packed;
  const Panels<T, kRows> queries{shared.q[i % 2]}, d_outputs{shared.d_o[i % 2]};
  int before = stage;
  const auto start_scores = [&] {
    start_product_of_rows<T, Shape::kDk, n>(weights, queries, 64 * consumer, Panels<T, kKeys>{shared.k[stage]});
    wgmma_commit();
    start_product_of_rows<T, Shape::kDv, n>(d_scores, d_outputs, 64 * consumer, Panels<T, kKeys>{shared.v[stage]});
    wgmma_commit();
  };
  const auto start_gradients = [&] {  // of the keys before
    start_product<T, n, Shape::kDkN>(sums, packed, Panels<T, kKeys>{shared.k[before]});
    wgmma_commit();
  };
  const auto weigh = [&](int key) {
    query_tiles::weigh<1, n>(weights, p.scale * kLog2E, [&](int, int, int number) { return own[0][number / 2].lse; });
    mine.template for_each_unseen<1, n>(key, [&](int, int j, int number) { weights[0][j][number] = 0; });
    finish(weights[0]);
  };
  const auto differentiate = [&] {
    query_tiles::differentiate<1, n>(d_scores, weights, [&](int, int, int number) { return own[0][number / 2].delta; });
    finish(d_scores[0]);
  };

  wgmma_fence(weights[0], d_scores[0]);
  start_scores();
  wgmma_wait<1>(weights[0]);
  weigh(w.first_key);
  wgmma_wait<0>(d_scores[0]);
  differentiate();
  pack_rows<T, n>(packed, d_scores);
  stage = KeyRing::after(stage);
  for (int key = w.first_key + kKeys; all(key < w.end_key);
       key += kKeys, before = stage, stage = KeyRing::after(stage)) {
    KeyRing::wait(stage, consumer);
    wgmma_fence(weights[0], d_scores[0], sums[0], packed);
    start_scores();
    start_gradients();
    wgmma_wait<2>(weights[0]);
    weigh(key);
    wgmma_wait<1>(d_scores[0]);
    differentiate();
    wgmma_wait<0>(sums[0], packed);
    KeyRing::release(before);
    pack_rows<T, n>(packed, d_scores);
  }
  wgmma_fence(sums[0], packed);
  start_gradients();
  wgmma_wait<0>(sums[0], packed);
  KeyRing::release(before);
  query_tiles::store_rows<T, 1, Shape::kDkN>(sums, p.dk, p.scale, [&](int, int half) { return mine.at(dq, 0, half); });
}

// A thread block takes tiles of rows one after the other, as in the forward. A warp owns 16 rows of q, do, dq, P and
// dS, in registers. Shared memory: SharedRowTiles, 160 KB for 128 features.
template <class T, class Shape>
__global__ void __launch_bounds__(kRingThreads, 1)
    query_gradients(Problem p, Tiles tiles, BackwardRows<T> rows, Rows<RowTerms> terms, Rows<T> dq) {
  auto& shared = *dynamic_shared<SharedRowTiles<T, Shape>>();
  if (warp_index() >= kConsumers / kWarpLanes) {
    give_registers<kProducerRegisters>();
    copy_row_tiles<T, Shape>(p, tiles, shared, rows);
  } else {
    take_registers<kConsumerRegisters>();
    int stage = 0;
    for (int i = 0;; ++i, stage = shuffle(stage, 0)) {  // the same for all lanes
      KeyRing::wait(stage, warp_index() / 4);
      const int number = shuffle(shared.taken.numbers[i % 4], 0);
      if (number >= shared.taken.count(p, tiles)) break;
      find_query_gradients<T, Shape>(p, shared.taken.work(p, tiles, number), i, stage, shared, rows, terms, dq);
    }
    KeyRing::release(stage);
  }
}

// ---- dk, dv ----

/// How a thread block works on keys of so many features.
template <class Features>
struct KeyShape : Features {
  static constexpr int kThreads = 2 * kWarpgroupThreads;
  static constexpr int kKeys = kGradientKeys, kRows = 64;                                      // at a time
  static constexpr int kN = kRows / 16, kDkN = Features::kDk / 16, kDvN = Features::kDv / 16;  // in 16
};

/// Dynamic shared memory.
template <class T, class Shape>
struct SharedKeyTiles {
  T k[Shape::kKeys * Shape::kDk], v[Shape::kKeys * Shape::kDv];
  T q[3][Shape::kRows * Shape::kDk], d_o[3][Shape::kRows * Shape::kDv];
  RowTerms terms[3][Shape::kRows];
};

// A thread block owns 128 keys of a key/value head and goes through a segment of the rows that see some of them. A warp
// owns 16 keys of P^T, dS^T, dk and dv, in registers. Shared memory: SharedKeyTiles, 162 KB for 128 features.
template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    key_gradients(Problem p, Tiles tiles, RowSegments segments, BackwardRows<T> rows, Rows<const RowTerms> terms,
                  Rows<T> dk, Rows<T> dv) {
  constexpr int kDk = Shape::kDk, kDv = Shape::kDv, kRows = Shape::kRows, n = Shape::kN;
  auto& shared = *dynamic_shared<SharedKeyTiles<T, Shape>>();

  // phase 1 - what the thread block and the warp own
  const Share share(segments, tiles, block_index().x);
  const KeyTile tile = query_tiles::key_tile(p, tiles, Shape::kKeys, share.kv_head, share.tile);
  const int warp_key = warp_index() * 16, last_key = warp_key + 15, group_key = warp_key / 64 * 64;
  const RowRange all = share.of(tile.rows(p, 0, tile.count - 1));
  const RowRange every = tile.rows(p, last_key, warp_key);  // that see all keys of the warp
  const Panels<T, Shape::kKeys> keys{shared.k}, values{shared.v};
  const auto key_at = [&](const Rows<const T>& from) { return [&](int key) { return tile.at(from, key); }; };
  copy_rows<Shape::kThreads, Shape::kKeys, kDk>(keys, p.dk, key_at(rows.k));
  copy_rows<Shape::kThreads, Shape::kKeys, kDv>(values, p.dv, key_at(rows.v));

  // phase 2 - the rows that see its keys
  Sums<1, Shape::kDkN> dk_sums;
  Sums<1, Shape::kDvN> dv_sums;
  clear<1, Shape::kDkN>(dk_sums);
  clear<1, Shape::kDvN>(dv_sums);
  const auto tile_from = [&](int row) {
    return RowTile{tile.sequence, tile.kv_head, row, all.end - row < kRows ? all.end - row : kRows};
  };
  const auto copy_row_tile = [&](int first, int stage) {
    const RowTile row_tile = tile_from(first);
    copy_tile<Shape::kThreads, kRows, kDk>(Panels<T, kRows>{shared.q[stage]}, p.dk, p, row_tile, rows.q);
    copy_tile<Shape::kThreads, kRows, kDv>(Panels<T, kRows>{shared.d_o[stage]}, p.dv, p, row_tile, rows.d_o);
    if (thread_number() >= kRows) return;
    const RowTerms* from = row_tile.at(p, terms, thread_number());
    cp_async<8>(shared.terms[stage] + thread_number(), from, from == nullptr ? 0 : 8);
  };
  Sums<1, n> weights, d_scores;
  Packed<n> packed_weights, packed_scores;
  int stage = 0;
  if (all.begin < all.end) copy_row_tile(all.begin, 0);
  for (int first = all.begin; first < all.end; first += kRows) {
    const Panels<T, kRows> queries{shared.q[stage]}, d_outputs{shared.d_o[stage]};
    const RowTerms* row_terms = shared.terms[stage];
    const auto term = [&](int j, int number) { return row_terms[8 * j + lane_index() % 4 * 2 + number % 2]; };
    publish_copies();
    wgmma_fence(weights[0], d_scores[0]);
    start_product_of_rows<T, kDk, n>(weights, keys, group_key, queries);
    wgmma_commit();
    start_product_of_rows<T, kDv, n>(d_scores, values, group_key, d_outputs);
    wgmma_commit();
    stage = stage == 2 ? 0 : stage + 1;
    if (first + kRows < all.end) copy_row_tile(first + kRows, stage);
    wgmma_wait<1>(weights[0], dk_sums[0], dv_sums[0], packed_weights, packed_scores);
    query_tiles::weigh<1, n>(weights, p.scale * kLog2E, [&](int, int j, int number) { return term(j, number).lse; });
    if (first < every.begin || first + kRows > every.end)
      query_tiles::hide_unseen<1, n>(p, tile_from(first), tile.begin + warp_key, weights);
    pack_rows<T, n>(packed_weights, weights);
    wgmma_fence(dv_sums[0], packed_weights);
    start_product<T, n, Shape::kDvN>(dv_sums, packed_weights, d_outputs);
    wgmma_commit();
    wgmma_wait<1>(d_scores[0]);
    query_tiles::differentiate<1, n>(d_scores, weights, [&](int, int j, int number) { return term(j, number).delta; });
    pack_rows<T, n>(packed_scores, d_scores);
    wgmma_fence(dk_sums[0], packed_scores);
    start_product<T, n, Shape::kDkN>(dk_sums, packed_scores, queries);
    wgmma_commit();
  }
  wgmma_wait<0>(dk_sums[0], dv_sums[0]);
  cp_async_wait_all();

  // phase 3 - dk and dv, or their sums
  if (share.segments > 1) {
    float* to = segments.sums + (share.place * Shape::kKeys + warp_key) * (p.dk + p.dv);
    query_tiles::store_sums<1, Shape::kDkN>(dk_sums, p.dk, to, p.dk + p.dv);
    query_tiles::store_sums<1, Shape::kDvN>(dv_sums, p.dv, to + p.dk, p.dk + p.dv);
    return;
  }
  const auto mine = [&](const Rows<T>& to) {
    return [&](int, int half) { return tile.at(to, warp_key + lane_row(half)); };
  };
  query_tiles::store_rows<T, 1, Shape::kDkN>(dk_sums, p.dk, p.scale, mine(dk));
  query_tiles::store_rows<T, 1, Shape::kDvN>(dv_sums, p.dv, 1, mine(dv));
}

}  // namespace

template <class T>
void attend_backward(const Problem& p, const Tiles& row_tiles, const Tiles& key_tiles, const RowSegments& segments,
                     const BackwardRows<T>& rows, RowTerms* terms, Rows<T> dq, Rows<T> dk, Rows<T> dv, void* stream) {
  with_gradient_features(p.dk, p.dv, [&]<class Features>(Features) {
    using OfRows = RowShape<Features>;
    using OfKeys = KeyShape<Features>;
    const int row_blocks = std::min(row_tiles.count * p.kv_heads, multiprocessors());
    const LaunchShape of_rows{{row_blocks}, {kRingThreads}, sizeof(SharedRowTiles<T, OfRows>)};
    const LaunchShape of_keys{{segments.count * p.kv_heads}, {OfKeys::kThreads}, sizeof(SharedKeyTiles<T, OfKeys>)};
    if (row_tiles.count > 0)
      launch(query_gradients<T, OfRows>, of_rows, stream, p, row_tiles, rows, {terms, p.heads, 1}, dq);
    if (key_tiles.count == 0) return;
    launch(key_gradients<T, OfKeys>, of_keys, stream, p, key_tiles, segments, rows, {terms, p.heads, 1}, dk, dv);
    query_tiles::merge_segments<T>(p, key_tiles, OfKeys::kKeys, segments, dk, dv, stream);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                    \
  template void attend_backward<T>(const Problem&, const Tiles&, const Tiles&, const RowSegments&, \
                                   const BackwardRows<T>&, RowTerms*, Rows<T>, Rows<T>, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
