// dq = scale dS k of each row, over the keys that it sees in the blocks of its query, where dS is kept.
//
// Tensors and tiles as in attend.cu. A warp owns 16 heads of a token, and has dq in its registers. dS comes through
// shared memory with the keys. Shared memory: ScoreTiles for 4 warps, 54 KB for 128 features.
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/token_tiles/problem.hpp"
#include "cuda/token_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles {

namespace {

constexpr int kStages = 3, kBlocks = 4;  // blocks on a multiprocessor

/// Keys on their way through a warp's shared memory, and dS of its rows: [2, 16 keys, 8 heads].
template <class T, int features>
struct ScoreTiles {
  T keys[kStages][kKeys * padded(features)], scores[kStages][kKeys * kRows];
};

template <class T, int features>
__global__ void __launch_bounds__(kThreads, kBlocks)
    multiply_scores(Problem p, Selection selection, ScoreGradients scores, Rows<const T> k, Rows<T> dq) {
  constexpr int d16 = features / 16;
  auto& shared = dynamic_shared<ScoreTiles<T, features>>()[warp_index()];

  // phase 1 - the warp's rows
  const TokenTile tile = token_tile(p, selection, 1);
  if (tile.count == 0) return;
  const KeyRows<T, padded(features)> keys(tile, k, p.dk);
  const int lane = lane_index(), octet = (tile.first_head - tile.kv_head * p.group) / 8 + lane / kKeys;
  const bool has_heads = lane / kKeys * 8 < tile.count;
  Sums<1, d16> sums;
  clear<1, d16>(sums);

  // phase 2 - the keys of their blocks
  KeyCursor cursor(selection, tile), ahead = cursor;
  const auto copy = [&](int stage) {
    keys.copy(SharedTile<T, features>{shared.keys[stage]}, ahead.key(), ahead.count());
    const std::int64_t place = scores.place_of(tile.kv_head, tile.token * selection.slots + ahead.slot(), octet);
    cp_async<16>(shared.scores[stage] + lane * 8, scores.numbers + place + (ahead.key_in_block() + lane % kKeys) * 8,
                 has_heads && ahead.has_keys() ? 16 : 0);
    cp_async_commit();
  };
  for (int stage = 0; stage < kStages; ++stage, ahead.advance()) copy(stage);
  for (int stage = 0; cursor.has_keys(); stage = stage + 1 < kStages ? stage + 1 : 0) {
    cp_async_wait<kStages - 1>();
    sync_warp();
    const SharedTile<T, features> rows{shared.keys[stage]};
    const auto right = rows.down(0, 0);
    multiply<T, kKeys, 1, d16>(
        sums,
        [&](auto& a, int, int) {
          ldmatrix_transposed(a, shared.scores[stage] + (lane / 8 % 2 * kKeys + lane / 16 * 8 + lane % 8) * 8);
        },
        [&](auto& b, int at, int column) { ldmatrix_transposed(b, right.at(at, column)); });
    sync_warp();
    copy(stage);
    cursor.advance(), ahead.advance();
  }
  cp_async_wait_all();

  // phase 3 - dq
  query_tiles::store_rows<T, 1, d16>(sums, p.dk, p.scale, [&](int, int half) { return tile.at(dq, half); });
}

}  // namespace

template <class T>
void multiply_score_gradients(const Problem& whole, const Selection& all, const ScoreGradients& scores, Rows<const T> k,
                              Rows<T> dq, void* stream) {
  // the chunk's heads, counted from its first
  Problem p = whole;
  p.kv_heads = scores.kv_count;
  Selection selection = all;
  selection.selected.data += scores.kv_begin * all.selected.head_stride;
  ScoreGradients own = scores;
  own.kv_begin = 0;
  k.data += scores.kv_begin * k.head_stride;
  dq.data += scores.kv_begin * p.group * dq.head_stride;
  with_features(p.dk, 0, [&]<class Features>(Features) {
    constexpr int kDk = Features::kDk;
    if constexpr (kDk <= gathered_queries::kMaxApartFeatures) {
      const LaunchShape shape{
          {static_cast<int>(thread_blocks(p, selection, 1))}, {kThreads}, kWarps * sizeof(ScoreTiles<T, kDk>)};
      if (shape.grid.x > 0) launch(multiply_scores<T, kDk>, shape, stream, p, selection, own, k, dq);
    }
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                     \
  template void multiply_score_gradients<T>(const Problem&, const Selection&, const ScoreGradients&, Rows<const T>, \
                                            Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles
