// shared_lists.cuh with products of warpgroups: a thread block is one. The products of a tile run one after the other;
// beside them the next tile is sent for, and the multiprocessor's other thread block computes.
#include "cuda/gathered_queries/backward_stages.cuh"
#include "cuda/gathered_queries/shared_lists.cuh"
#include "cuda/warpgroup_tiles/panels.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

using warpgroup_tiles::Packed;
using warpgroup_tiles::Panels;

namespace {

constexpr int kRows = 64;  // of a tile
static_assert(kSharedThreads == kWarpgroupThreads && kRows == kSharedTileKeys);

template <class T, int features>
__global__ void __launch_bounds__(kSharedThreads, kSharedBlocks)
    attend_shared_rows(Problem p, BackwardRows<T> rows, Rows<T> dk, Rows<T> dv) {
  constexpr int n16 = kRows / 16, d16 = features / 16;
  const Share share = share_of(p, block_index().x);
  if (share.tile < 0) return;
  const KeyTile tile = key_tile_of(p, share);
  if (tile.keys <= 0) return;
  using List = ListRows<T, features, kRows, Panels<T, kRows>>;
  const List list(p, rows, share, tile);
  list.start();
  Sums<1, d16> dk_sums, dv_sums;
  clear<1, d16>(dk_sums);
  clear<1, d16>(dv_sums);
  typename List::Scores weights, d_scores;
  Packed<n16> packed_weights, packed_scores;
  for (int n = 0; n < list.tiles(); ++n) {
    // phase 1 - the tile arrives, the next is sent for
    const auto queries = list.queries(n), d_outputs = list.d_outputs(n);
    warpgroup_tiles::publish_copies();
    wgmma_fence(weights[0], d_scores[0]);
    warpgroup_tiles::start_product_of_rows<T, features, n16>(weights, list.keys(), 0, queries);
    wgmma_commit();
    warpgroup_tiles::start_product_of_rows<T, features, n16>(d_scores, list.values(), 0, d_outputs);
    wgmma_commit();
    list.advance(n);

    // phase 2 - P and dv
    wgmma_wait<1>(weights[0]);
    list.weigh(n, weights);
    warpgroup_tiles::pack_rows<T, n16>(packed_weights, weights);
    wgmma_fence(dv_sums[0], packed_weights);
    warpgroup_tiles::start_product<T, n16, d16>(dv_sums, packed_weights, d_outputs);
    wgmma_commit();

    // phase 3 - dS and dk
    wgmma_wait<1>(d_scores[0]);
    list.differentiate(n, d_scores, weights);
    warpgroup_tiles::pack_rows<T, n16>(packed_scores, d_scores);
    wgmma_fence(dk_sums[0], packed_scores);
    warpgroup_tiles::start_product<T, n16, d16>(dk_sums, packed_scores, queries);
    wgmma_commit();
    list.keep_scores(n, d_scores);
    wgmma_wait<0>(dk_sums[0], dv_sums[0], packed_weights, packed_scores);
  }
  cp_async_wait_all();
  list.store(dk_sums, dv_sums, dk, dv);
}

}  // namespace

template <class T>
void attend_shared_lists_by_warpgroups(const Problem& p, const BackwardRows<T>& rows, Rows<T> dk, Rows<T> dv,
                                       void* stream) {
  launch_shared_lists<T, kRows>([](auto features) { return attend_shared_rows<T, features()>; }, p, rows, dk, dv,
                                stream);
}

#define ATTNSPEC_INSTANTIATE(T) \
  template void attend_shared_lists_by_warpgroups<T>(const Problem&, const BackwardRows<T>&, Rows<T>, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
