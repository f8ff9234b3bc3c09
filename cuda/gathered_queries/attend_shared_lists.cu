// shared_lists.cuh with products of warps.
#include "cuda/gathered_queries/backward_stages.cuh"
#include "cuda/gathered_queries/shared_lists.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

using query_tiles::multiply_by_rows;
using query_tiles::multiply_packed;

namespace {

constexpr int kRows = 32;  // of a tile

template <class T, int features>
__global__ void __launch_bounds__(kSharedThreads, kSharedBlocks)
    attend_shared_rows(Problem p, BackwardRows<T> rows, Rows<T> dk, Rows<T> dv) {
  constexpr int n16 = kRows / 16, d16 = features / 16;
  const Share share = share_of(p, block_index().x);
  if (share.tile < 0) return;
  const KeyTile tile = key_tile_of(p, share);
  if (tile.keys <= 0) return;
  using List = ListRows<T, features, kRows, query_tiles::SharedTile<T, features>>;
  const List list(p, rows, share, tile);
  list.start();
  Sums<1, d16> dk_sums, dv_sums;
  clear<1, d16>(dk_sums);
  clear<1, d16>(dv_sums);
  for (int n = 0; n < list.tiles(); ++n) {
    // phase 1 - the tile arrives, the next is sent for
    cp_async_wait_all();
    sync_threads();
    list.advance(n);

    // phase 2 - P and dv
    const auto queries = list.queries(n), d_outputs = list.d_outputs(n);
    typename List::Scores weights, d_scores;
    clear<1, n16>(weights);
    multiply_by_rows<T, features, 1, n16>(weights, list.keys().down(list.warp_key, 0), queries.beside(0, 0));
    list.weigh(n, weights);
    multiply_packed<T, 1, n16, d16>(dv_sums, weights, d_outputs.down(0, 0));

    // phase 3 - dS and dk
    clear<1, n16>(d_scores);
    multiply_by_rows<T, features, 1, n16>(d_scores, list.values().down(list.warp_key, 0), d_outputs.beside(0, 0));
    list.differentiate(n, d_scores, weights);
    list.keep_scores(n, d_scores);
    multiply_packed<T, 1, n16, d16>(dk_sums, d_scores, queries.down(0, 0));
  }
  cp_async_wait_all();
  list.store(dk_sums, dv_sums, dk, dv);
}

}  // namespace

template <class T>
void attend_shared_lists(const Problem& p, const BackwardRows<T>& rows, Rows<T> dk, Rows<T> dv, void* stream) {
  launch_shared_lists<T, kRows>([](auto features) { return attend_shared_rows<T, features()>; }, p, rows, dk, dv,
                                stream);
}

#define ATTNSPEC_INSTANTIATE(T) \
  template void attend_shared_lists<T>(const Problem&, const BackwardRows<T>&, Rows<T>, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
