// dq = scale dS k of each row, with P = exp(scale q k^T - lse), dS = P (do v^T - delta) and delta = <do, o>, over the
// keys that it sees in the blocks of its query.
//
// Tensors and tiles as in attend.cu. A warp owns up to 16 heads of a token, and has q, do and dq in its registers.
// Shared memory: KeyTiles for 4 warps, 96 KB for 128 features.
#include <cmath>
#include <cstdint>

#include "cuda/gathered_queries/attend_backward.hpp"
#include "cuda/primitives/launch.cuh"
#include "cuda/token_tiles/problem.hpp"
#include "cuda/token_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles {

using gathered_queries::kMaxApartFeatures;

namespace {

/// How a warp works on rows of so many features.
template <class Features>
struct Shape : Features {
  static constexpr int kStages = stages_of(Features::kDv, Features::kDk);
  static constexpr int kBlocks = Features::kDk > 64 ? 2 : 3;  // on a multiprocessor
  static constexpr int kDkN = Features::kDk / 16;
};

/// Values, which are used first, and keys.
template <class T, class Shape>
using SharedTiles = KeyTiles<T, Shape::kDv, Shape::kDk, Shape::kStages>;

template <class T, class Shape>
__global__ void __launch_bounds__(kThreads, Shape::kBlocks)
    query_gradients(Problem p, Selection selection, BackwardRows<T> rows, Rows<T> dq) {
  auto& shared = dynamic_shared<SharedTiles<T, Shape>>()[warp_index()];

  // phase 1 - the warp's rows
  const TokenTile tile = token_tile(p, selection, 1);
  if (tile.count == 0) return;
  RowFragments<Shape::kDk> queries;
  RowFragments<Shape::kDv> d_outputs;
  queries.load(tile, rows.q, p.dk);
  d_outputs.load(tile, rows.d_o, p.dv);
  float lse[2], delta[2];  // lse: to base 2, infinity if the row sees no key
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* given = tile.at(rows.lse, half);
    lse[half] = given == nullptr || *given == -INFINITY ? INFINITY : *given * kLog2E;
    delta[half] = dot_of_lanes<4>(tile.at(rows.o, half), tile.at(rows.d_o, half), p.dv);
  }

  // phase 2 - the keys of their blocks
  Sums<1, 1> d_scores;
  Sums<1, Shape::kDkN> sums;
  clear<1, Shape::kDkN>(sums);
  const float to_log2 = p.scale * kLog2E;
  walk(
      selection, tile, shared, {tile, rows.v, p.dv}, {tile, rows.k, p.dk},
      [&](const auto& values, int) { multiply_by_keys<T>(d_scores, d_outputs, values.beside(0, 0)); },
      [&](const auto& keys, int count) {
        Sums<1, 1> scores;
        multiply_by_keys<T>(scores, queries, keys.beside(0, 0));
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
          for (int number = 0; number < 4; ++number) {
            const int half = number / 2;
            const float weight = exp2_approx(scores[0][j][number] * to_log2 - lse[half]);
            const bool is_seen = 8 * j + lane_index() % 4 * 2 + number % 2 < count;
            d_scores[0][j][number] = is_seen ? weight * (d_scores[0][j][number] - delta[half]) : 0;
          }
        multiply_packed<T, 1, 1, Shape::kDkN>(sums, d_scores, keys.down(0, 0));
      });

  // phase 3 - dq
  query_tiles::store_rows<T, 1, Shape::kDkN>(sums, p.dk, p.scale, [&](int, int half) { return tile.at(dq, half); });
}

}  // namespace

template <class T>
void attend_query_gradients(const Problem& p, const Selection& selection, const BackwardRows<T>& rows, Rows<T> dq,
                            void* stream) {
  with_features(p.dk, p.dv, [&]<class Features>(Features) {
    if constexpr (Features::kDk <= kMaxApartFeatures && Features::kDv <= kMaxApartFeatures) {
      using Shape = Shape<Features>;
      const LaunchShape shape{
          {static_cast<int>(thread_blocks(p, selection, 1))}, {kThreads}, kWarps * sizeof(SharedTiles<T, Shape>)};
      if (shape.grid.x > 0) launch(query_gradients<T, Shape>, shape, stream, p, selection, rows, dq);
    }
  });
}

#define ATTNSPEC_INSTANTIATE(T) \
  template void attend_query_gradients<T>(const Problem&, const Selection&, const BackwardRows<T>&, Rows<T> dq, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles
