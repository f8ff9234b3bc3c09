// o = softmax(scale q k^T) v over the keys that each row sees in the blocks of its query, and
// lse = log sum exp(scale q k^T); o = 0 and lse = -infinity where there is none.
//
// q [query tokens, H, dk], k and v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of 16
// bytes; a selection for each key/value head, problem.hpp. A warp owns up to 16 heads of a token and up to 128 features
// of o: q and o are in its registers. It goes through the token's blocks in the order of its slots, 16 keys at a time,
// which come through shared memory of its own, two or three tiles in advance: warps do not meet. Shared memory:
// KeyTiles for 4 warps, 96 KB for 128 features.
//
// A row's bits depend on its own keys and their order alone.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/softmax.cuh"
#include "cuda/token_tiles/problem.hpp"
#include "cuda/token_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles {

using query_tiles::RunningSoftmax;

namespace {

/// How a warp works on rows of so many features.
template <class Features>
struct Shape : Features {
  static constexpr int kDvPart = Features::kDv > 128 ? 128 : Features::kDv, kDvParts = Features::kDv / kDvPart;
  static constexpr int kDvN = kDvPart / 16;
  static constexpr int kStages = stages_of(Features::kDk, kDvPart);
  static constexpr int kBlocks = Features::kDk > 64 ? 2 : 3;  // on a multiprocessor
};

template <class T, class Shape>
using SharedTiles = KeyTiles<T, Shape::kDk, Shape::kDvPart, Shape::kStages>;

template <class T, class Shape>
__global__ void __launch_bounds__(kThreads, Shape::kBlocks)
    attend_tokens(Problem p, Selection selection, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
                  Rows<float> lse) {
  auto& shared = dynamic_shared<SharedTiles<T, Shape>>()[warp_index()];

  // phase 1 - the warp's rows
  const TokenTile tile = token_tile(p, selection, Shape::kDvParts);
  if (tile.count == 0) return;
  RowFragments<Shape::kDk> queries;
  queries.load(tile, q, p.dk);

  // phase 2 - the keys of their blocks
  Sums<1, 1> scores;
  Sums<1, Shape::kDvN> sums;
  clear<1, Shape::kDvN>(sums);
  RunningSoftmax<1> softmax;
  softmax.clear();
  const float to_log2 = p.scale * kLog2E;
  const int first_value = tile.part * Shape::kDvPart;
  walk(
      selection, tile, shared, {tile, k, p.dk},
      {tile, {v.data + first_value, v.token_stride, v.head_stride}, p.dv - first_value},
      [&](const auto& keys, int) { multiply_by_keys<T>(scores, queries, keys.beside(0, 0)); },
      [&](const auto& values, int count) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
          for (int number = 0; number < 4; ++number) {
            float& score = scores[0][j][number];
            score = 8 * j + lane_index() % 4 * 2 + number % 2 < count ? score * to_log2 : -INFINITY;
          }
        softmax.template weigh<1, Shape::kDvN>(scores, sums);
        multiply_packed<T, 1, 1, Shape::kDvN>(sums, scores, values.down(0, 0));
      });

  // phase 3 - o and lse
  float row_lse[1][2];
  softmax.template finish<Shape::kDvN>(sums, row_lse);
  query_tiles::store_rows<T, 1, Shape::kDvN>(sums, p.dv - first_value, 1, [&](int, int half) {
    T* row = tile.at(o, half);
    return row == nullptr ? nullptr : row + first_value;
  });
  if (tile.part > 0 || lane_index() % 4 > 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (float* to = tile.at(lse, half)) *to = row_lse[0][half];
}

}  // namespace

template <class T>
void attend(const Problem& p, const Selection& selection, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream) {
  with_features(p.dk, p.dv, [&]<class Features>(Features) {
    using Shape = Shape<Features>;
    const LaunchShape shape{{static_cast<int>(thread_blocks(p, selection, Shape::kDvParts))},
                            {kThreads},
                            kWarps * sizeof(SharedTiles<T, Shape>)};
    if (shape.grid.x > 0) launch(attend_tokens<T, Shape>, shape, stream, p, selection, q, k, v, o, lse);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                   \
  template void attend<T>(const Problem&, const Selection&, Rows<const T>, Rows<const T>, Rows<const T>, Rows<T>, \
                          Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles
