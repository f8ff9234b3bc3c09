// With P = exp(scale q k^T - lse), delta = <do, o>, dS = P (do v^T - delta): dq = scale dS k, dk = scale dS^T q and
// dv = P^T do, summed over the rows that see a key.
//   dq of each row, and its lse and delta for the keys    query_gradients
//   dk and dv of each key, or parts of their sums         key_gradients
//   the sums of these parts                               merge_segments
// Scores are computed twice, so that every sum has an order of its own: no atomics. Only keys that very many rows see
// are summed in parts.
#include <algorithm>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/gradients.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

namespace {

// ---- dq ----

/// How a thread block works on rows of so many features.
template <class Features>
struct RowShape : Features {
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes, kBlocks = 2;  // on a multiprocessor
  static constexpr int kWarpRows = Features::kDk > 128 ? 16 : 32, kRows = kWarps * kWarpRows;
  static constexpr int kKeys = Features::kDk > 192 ? 16 : Features::kDk > 64 ? 32 : 64;
  static constexpr int kM = kWarpRows / 16, kN = kKeys / 16, kDkN = Features::kDk / 16;  // in 16
};

template <class T, class Shape>
struct SharedRowTiles {
  T q[Shape::kRows * padded(Shape::kDk)], d_o[Shape::kRows * padded(Shape::kDv)];
  T k[2][Shape::kKeys * padded(Shape::kDk)], v[2][Shape::kKeys * padded(Shape::kDv)];
};

// A thread block of 4 warps owns a tile of rows, as in the forward. A warp owns 32 rows of dq, P and dS (16 where
// dk > 128), in registers. Shared memory: SharedRowTiles, 96 KB for 128 features.
template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    query_gradients(Problem p, Tiles tiles, BackwardRows<T> rows, Rows<RowTerms> terms, Rows<T> dq) {
  constexpr int kDk = Shape::kDk, kDv = Shape::kDv, kKeys = Shape::kKeys, m = Shape::kM, n = Shape::kN;
  auto& shared = *dynamic_shared<SharedRowTiles<T, Shape>>();

  // phase 1 - what the thread block and the warp own
  const RowTile tile = row_tile<Shape::kRows>(p, tiles, block_index().x);
  const WarpRows mine(p, tile, Shape::kWarpRows);
  const SharedTile<T, kDk> queries{shared.q};
  const SharedTile<T, kDv> d_outputs{shared.d_o};
  copy_rows<Shape::kThreads, Shape::kRows, kDk>(queries, p.dk, [&](int row) { return tile.at(p, rows.q, row); });
  copy_rows<Shape::kThreads, Shape::kRows, kDv>(d_outputs, p.dv, [&](int row) { return tile.at(p, rows.d_o, row); });

  // phase 2 - lse and delta of its rows
  RowTerms own[m][2];
  find_terms<m>(mine, rows, terms, own);

  // phase 3 - the keys that they see
  Sums<m, Shape::kDkN> sums;
  clear<m, Shape::kDkN>(sums);
  const float to_log2 = p.scale * kLog2E;
  const auto copy_keys = [&](int key, int stage) {
    const SharedTile<T, kDk> keys{shared.k[stage]};
    const SharedTile<T, kDv> values{shared.v[stage]};
    copy_rows<Shape::kThreads, kKeys, kDk>(keys, p.dk, rows_from(rows.k, tile.sequence, tile.kv_head, key));
    copy_rows<Shape::kThreads, kKeys, kDv>(values, p.dv, rows_from(rows.v, tile.sequence, tile.kv_head, key));
  };
  const auto add_keys = [&](int key, int stage) {
    if (!mine.some_see(key, kKeys)) return;
    const SharedTile<T, kDk> keys{shared.k[stage]};
    const SharedTile<T, kDv> values{shared.v[stage]};
    Sums<m, n> weights, d_scores;
    clear<m, n>(weights);
    clear<m, n>(d_scores);
    multiply_by_rows<T, kDk, m, n>(weights, queries.down(mine.from, 0), keys.beside(0, 0));
    weigh<m, n>(weights, to_log2, [&](int i, int, int number) { return own[i][number / 2].lse; });
    mine.template for_each_unseen<m, n>(key, [&](int i, int j, int number) { weights[i][j][number] = 0; });
    multiply_by_rows<T, kDv, m, n>(d_scores, d_outputs.down(mine.from, 0), values.beside(0, 0));
    differentiate<m, n>(d_scores, weights, [&](int i, int, int number) { return own[i][number / 2].delta; });
    multiply_packed<T, m, n, Shape::kDkN>(sums, d_scores, keys.down(0, 0));
  };
  const KeyRange seen = tile.seen(p);
  walk<kKeys>(seen.first / kKeys * kKeys, seen.end, copy_keys, add_keys);

  // phase 4 - dq
  store_rows<T, m, Shape::kDkN>(sums, p.dk, p.scale, [&](int i, int half) { return mine.at(dq, i, half); });
}

// ---- dk, dv ----

/// How a thread block works on keys of so many features.
template <class Features>
struct KeyShape : Features {
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes, kBlocks = 2;  // on a multiprocessor
  static constexpr int kWarpKeys = Features::kDk > 64 ? 16 : 32, kKeys = kWarps * kWarpKeys;
  static constexpr int kRows = Features::kDk > 192 ? 16 : Features::kDk > 128 ? 32 : 1024 / kWarpKeys;  // at a time
  static constexpr int kM = kWarpKeys / 16, kN = kRows / 16, kDkN = Features::kDk / 16,
                       kDvN = Features::kDv / 16;  // in 16
  // dk and dv are both in registers, or take turns
  static constexpr bool kHasRoomForBoth = kWarpKeys * (Features::kDk + Features::kDv) <= 160 * kWarpLanes;
};

template <class T, class Shape>
struct SharedKeyTiles {
  T k[Shape::kKeys * padded(Shape::kDk)], v[Shape::kKeys * padded(Shape::kDv)];
  T q[2][Shape::kRows * padded(Shape::kDk)], d_o[2][Shape::kRows * padded(Shape::kDv)];
  RowTerms terms[2][Shape::kRows];
};

constexpr std::int64_t kMaxSegments = 16, kMinSegmentRows = 16384;
constexpr int kMergeThreads = 256;

// A thread block of 4 warps owns 64 keys of a key/value head (128 where dk <= 64) and goes through a segment of the
// rows that see some of them. A warp owns 16 keys (32) of P^T, dS^T and of dk, dv or both, in registers. Shared memory:
// SharedKeyTiles, 97 KB for 128 features.
template <class T, class Shape, bool has_dk, bool has_dv>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    key_gradients(Problem p, Tiles tiles, RowSegments segments, BackwardRows<T> rows, Rows<const RowTerms> terms,
                  Rows<T> dk, Rows<T> dv) {
  constexpr int kDk = Shape::kDk, kDv = Shape::kDv, kRows = Shape::kRows, m = Shape::kM, n = Shape::kN;
  auto& shared = *dynamic_shared<SharedKeyTiles<T, Shape>>();

  // phase 1 - what the thread block and the warp own
  const Share share(segments, tiles, block_index().x);
  const KeyTile tile = key_tile(p, tiles, Shape::kKeys, share.kv_head, share.tile);
  const int warp_key = warp_index() * Shape::kWarpKeys, last_key = warp_key + Shape::kWarpKeys - 1;
  const RowRange all = share.of(tile.rows(p, 0, tile.count - 1));
  const RowRange some = tile.rows(p, warp_key, last_key);   // that see some of the warp's keys
  const RowRange every = tile.rows(p, last_key, warp_key);  // that see all of them
  const SharedTile<T, kDk> keys{shared.k};
  const SharedTile<T, kDv> values{shared.v};
  const auto key_at = [&](const Rows<const T>& from) { return [&](int key) { return tile.at(from, key); }; };
  copy_rows<Shape::kThreads, Shape::kKeys, kDk>(keys, p.dk, key_at(rows.k));
  if constexpr (has_dk) copy_rows<Shape::kThreads, Shape::kKeys, kDv>(values, p.dv, key_at(rows.v));

  // phase 2 - the rows that see its keys
  Sums<m, Shape::kDkN> dk_sums;
  Sums<m, Shape::kDvN> dv_sums;
  clear<m, Shape::kDkN>(dk_sums);
  clear<m, Shape::kDvN>(dv_sums);
  const float to_log2 = p.scale * kLog2E;
  const auto tile_from = [&](int row) {
    return RowTile{tile.sequence, tile.kv_head, row, all.end - row < kRows ? all.end - row : kRows};
  };
  const auto copy_row_tile = [&](int first, int stage) {
    const RowTile row_tile = tile_from(first);
    const SharedTile<T, kDk> queries{shared.q[stage]};
    const SharedTile<T, kDv> d_outputs{shared.d_o[stage]};
    copy_rows<Shape::kThreads, kRows, kDk>(queries, p.dk, [&](int row) { return row_tile.at(p, rows.q, row); });
    copy_rows<Shape::kThreads, kRows, kDv>(d_outputs, p.dv, [&](int row) { return row_tile.at(p, rows.d_o, row); });
    if (thread_number() >= kRows) return;
    const RowTerms* from = row_tile.at(p, terms, thread_number());
    cp_async<8>(shared.terms[stage] + thread_number(), from, from == nullptr ? 0 : 8);
  };
  const auto add_rows = [&](int first, int stage) {
    if (some.begin >= first + kRows || some.end <= first) return;
    const SharedTile<T, kDk> queries{shared.q[stage]};
    const SharedTile<T, kDv> d_outputs{shared.d_o[stage]};
    const auto term = [&](int j, int number) { return shared.terms[stage][8 * j + lane_index() % 4 * 2 + number % 2]; };
    Sums<m, n> weights;
    clear<m, n>(weights);
    multiply_by_rows<T, kDk, m, n>(weights, keys.down(warp_key, 0), queries.beside(0, 0));
    weigh<m, n>(weights, to_log2, [&](int, int j, int number) { return term(j, number).lse; });
    if (first < every.begin || first + kRows > every.end)
      hide_unseen<m, n>(p, tile_from(first), tile.begin + warp_key, weights);
    if constexpr (has_dv) multiply_packed<T, m, n, Shape::kDvN>(dv_sums, weights, d_outputs.down(0, 0));
    if constexpr (has_dk) {
      Sums<m, n> d_scores;
      clear<m, n>(d_scores);
      multiply_by_rows<T, kDv, m, n>(d_scores, values.down(warp_key, 0), d_outputs.beside(0, 0));
      differentiate<m, n>(d_scores, weights, [&](int, int j, int number) { return term(j, number).delta; });
      multiply_packed<T, m, n, Shape::kDkN>(dk_sums, d_scores, queries.down(0, 0));
    }
  };
  walk<kRows>(all.begin, all.end, copy_row_tile, add_rows);

  // phase 3 - dk and dv, or their sums
  if (share.segments > 1) {
    float* to = segments.sums + (share.place * Shape::kKeys + warp_key) * (p.dk + p.dv);
    if constexpr (has_dk) store_sums<m, Shape::kDkN>(dk_sums, p.dk, to, p.dk + p.dv);
    if constexpr (has_dv) store_sums<m, Shape::kDvN>(dv_sums, p.dv, to + p.dk, p.dk + p.dv);
    return;
  }
  const auto mine = [&](const Rows<T>& to) {
    return [&](int i, int half) { return tile.at(to, warp_key + 16 * i + lane_row(half)); };
  };
  if constexpr (has_dk) store_rows<T, m, Shape::kDkN>(dk_sums, p.dk, p.scale, mine(dk));
  if constexpr (has_dv) store_rows<T, m, Shape::kDvN>(dv_sums, p.dv, 1, mine(dv));
}

/// dk and dv of tiles that have several segments: the sums of these, in order. A thread block owns a key tile, a thread
/// 2 features of a key.
template <class T>
__global__ void merge_tile_segments(Problem p, Tiles tiles, int keys, RowSegments segments, Rows<T> dk, Rows<T> dv) {
  const int number = block_index().x % tiles.count, kv_head = block_index().x / tiles.count;
  const std::int64_t first = segments.offsets[number], end = segments.offsets[number + 1];
  if (end - first < 2) return;
  const KeyTile tile = key_tile(p, tiles, keys, kv_head, number);
  const int pairs = (p.dk + p.dv) / 2;
  for (int pair = thread_number(); pair < tile.count * pairs; pair += kMergeThreads) {
    const int key = pair / pairs, d = pair % pairs * 2;
    const float* sums =
        segments.sums + ((kv_head * std::int64_t{segments.count} + first) * keys + key) * (p.dk + p.dv) + d;
    float total[2] = {};
    for (std::int64_t segment = first; segment < end; ++segment, sums += std::int64_t{keys} * (p.dk + p.dv))
      total[0] += sums[0], total[1] += sums[1];
    const bool is_dk = d < p.dk;
    T* to = is_dk ? tile.at(dk, key) + d : tile.at(dv, key) + d - p.dk;
    const float factor = is_dk ? p.scale : 1;
    *reinterpret_cast<std::uint32_t*>(to) = pack<T>(total[0] * factor, total[1] * factor);
  }
}

}  // namespace

template <class T>
void merge_segments(const Problem& p, const Tiles& key_tiles, int keys, const RowSegments& segments, Rows<T> dk,
                    Rows<T> dv, void* stream) {
  if (segments.count > key_tiles.count)
    launch(merge_tile_segments<T>, {{key_tiles.count * p.kv_heads}, {kMergeThreads}}, stream, p, key_tiles, keys,
           segments, dk, dv);
}

std::vector<std::int64_t> row_segment_offsets(const Problem& p, int keys, const Sequences& sequences,
                                              const std::int64_t* token_offsets) {
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t s = 0; s < sequences.count; ++s) {
    const TokenSequence sequence{cuda::sequence(sequences, s), token_offsets[s + 1] - token_offsets[s]};
    for (int begin = 0; begin < sequence.num_keys; begin += keys) {
      const int count = static_cast<int>(std::min<std::int64_t>(keys, sequence.num_keys - begin));
      const RowRange rows = KeyTile{sequence, 0, begin, count}.rows(p, 0, count - 1);
      // as many as the sums of all tiles need no more room than q
      const std::int64_t most = std::min(kMaxSegments, sequence.num_queries * p.group / (4 * sequence.num_keys));
      const std::int64_t wanted = (std::int64_t{rows.end} - rows.begin) / kMinSegmentRows;
      offsets.push_back(offsets.back() + std::max<std::int64_t>(1, std::min(most, wanted)));
    }
  }
  return offsets;
}

int query_gradient_tile_rows(int dk, int dv) {
  int rows = 0;
  with_features(dk, dv, [&]<class Features>(Features) { rows = RowShape<Features>::kRows; });
  return rows;
}

int key_gradient_tile_keys(int dk, int dv) {
  int keys = 0;
  with_features(dk, dv, [&]<class Features>(Features) { keys = KeyShape<Features>::kKeys; });
  return keys;
}

template <class T>
void attend_backward(const Problem& p, const Tiles& row_tiles, const Tiles& key_tiles, const RowSegments& segments,
                     const BackwardRows<T>& rows, RowTerms* terms, Rows<T> dq, Rows<T> dk, Rows<T> dv, void* stream) {
  with_features(p.dk, p.dv, [&]<class Features>(Features) {
    using OfRows = RowShape<Features>;
    using OfKeys = KeyShape<Features>;
    const LaunchShape of_rows{{row_tiles.count * p.kv_heads}, {OfRows::kThreads}, sizeof(SharedRowTiles<T, OfRows>)};
    const LaunchShape of_keys{{segments.count * p.kv_heads}, {OfKeys::kThreads}, sizeof(SharedKeyTiles<T, OfKeys>)};
    const Rows<const RowTerms> given{terms, p.heads, 1};
    if (row_tiles.count > 0)
      launch(query_gradients<T, OfRows>, of_rows, stream, p, row_tiles, rows, {terms, p.heads, 1}, dq);
    if (key_tiles.count == 0) return;
    if constexpr (OfKeys::kHasRoomForBoth) {
      launch(key_gradients<T, OfKeys, true, true>, of_keys, stream, p, key_tiles, segments, rows, given, dk, dv);
    } else {
      launch(key_gradients<T, OfKeys, true, false>, of_keys, stream, p, key_tiles, segments, rows, given, dk, dv);
      launch(key_gradients<T, OfKeys, false, true>, of_keys, stream, p, key_tiles, segments, rows, given, dk, dv);
    }
    merge_segments<T>(p, key_tiles, OfKeys::kKeys, segments, dk, dv, stream);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                    \
  template void merge_segments<T>(const Problem&, const Tiles&, int, const RowSegments&, Rows<T>, Rows<T>, void*); \
  template void attend_backward<T>(const Problem&, const Tiles&, const Tiles&, const RowSegments&,                 \
                                   const BackwardRows<T>&, RowTerms*, Rows<T>, Rows<T>, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
