// The blocks of each query by its scores <q, kbar_b>: under causality its own block, then of the blocks before it the
// best; without causality the best of all. Of equal scores the earlier block wins. The score matrix is not written: it
// is made tile by tile on tensor cores, and each lane keeps lists of the best it has seen.
//
// q [query tokens, H, dk], rows on multiples of 16 bytes; means as in forward.hpp; selection [query tokens, H, slots].
// q is multiplied in fp16, which no product notices: fp16 as it is, and a row of bf16 times the power of two that
// brings its largest feature to 2^12, so that only features below 2^-26 of that one lose bits. A score is the sum of
// the products with both parts of the mean in one fp32 sum, times the mean's scale.
//
// A thread block owns 128 queries of one sequence and one head, a warp 32 or 16 of them, whose q it keeps in registers.
// A lane owns 2 of 8 columns of each of its rows, and for each row a sorted list of its best columns; in the end the
// lists of the four lanes of a row are merged. Where more blocks are wanted than a list holds, scores are made again,
// and what has been taken is passed over. Shared memory: the queries, and two tiles of 32 means: 67 KB for 128
// features; of 16 means for more features: 99 KB for 256.
#include <cmath>
#include <cstdint>

#include "cuda/gathered_queries/forward.hpp"
#include "cuda/gathered_queries/powers.cuh"
#include "cuda/gathered_queries/tiles.cuh"
#include "cuda/primitives/launch.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

/// Rows of at most max_dk features, lists of `list` blocks.
template <int max_dk, int list>
struct SelectSizes {
  static constexpr int kDk = max_dk, kList = list;
  static constexpr int kMeans = kDk > 128 ? 16 : 32;  // in a tile
  static constexpr bool kMayPassTwice = list == 15;   // the longest list
  static constexpr int kRowTiles = kDk > 128 || kList > 8 ? 1 : 2;
  static constexpr int kThreads = kSelectQueries / (16 * kRowTiles) * kWarpLanes;
};

template <class T, class Sizes>
struct SharedMeans {
  T q[kSelectQueries][Sizes::kDk + 8];
  fp16 means[2][Sizes::kMeans][2 * Sizes::kDk + 8];
};

template <class T>
struct Inputs {
  Attention a;
  SelectionRule rule;
  const std::int64_t *block_offsets, *tile_offsets;
  Rows<const T> q;
  MeanKeys means;
  Rows<std::int32_t> selection;
};

/// A block in the order of preference: higher scores first, then earlier blocks.
struct Scored {
  float score;
  int block;

  __device__ __forceinline__ bool is_before(const Scored& other) const {
    return score > other.score || (score == other.score && block < other.block);
  }
};

/// Comes after all blocks.
__device__ __forceinline__ Scored no_block() { return {-INFINITY, 0x7fffffff}; }

/// The best of the blocks that came, in order.
template <int size>
struct BestList {
  Scored best[size];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (Scored& entry : best) entry = no_block();
  }

  /// Adds a block later than all before, so that it goes behind its equals.
  __device__ __forceinline__ void add(const Scored& entry) {
    if (!(entry.score > best[size - 1].score)) return;
#pragma unroll
    for (int place = size - 1; place >= 0; --place) {
      const bool moves = place > 0 && entry.score > best[place - 1].score;
      if (moves)
        best[place] = best[place - 1];
      else if (entry.score > best[place].score)
        best[place] = entry;
    }
  }

  /// Takes the best of the lists of four lanes; all of them get it.
  __device__ __forceinline__ Scored take_best_of_four() {
    Scored first = best[0];
#pragma unroll
    for (int flip = 1; flip <= 2; flip *= 2) {
      const Scored other{shuffle_xor(first.score, flip), shuffle_xor(first.block, flip)};
      if (other.is_before(first)) first = other;
    }
    if (first.block == best[0].block) {
#pragma unroll
      for (int place = 0; place + 1 < size; ++place) best[place] = best[place + 1];
      best[size - 1] = no_block();
    }
    return first;
  }
};

/// A query row: what it may select from. Rows behind the sequence's end have no token and select nothing.
struct QueryRow {
  std::int64_t token;           // -1: none
  int candidates, wanted, own;  // own: -1 without causality, and where no key is seen
};

template <class T>
__device__ __forceinline__ QueryRow query_row(const Inputs<T>& in, const Sequence& s, std::int64_t query) {
  if (query >= s.num_queries) return {-1, 0, 0, -1};
  const SelectionRule& rule = in.rule;
  const auto blocks = static_cast<int>((num_visible_keys(in.a.sequences, s, query) + rule.block - 1) / rule.block);
  const bool has_own = in.a.sequences.is_causal && blocks > 0;
  const int candidates = has_own ? blocks - 1 : blocks;
  return {s.q_begin + query, candidates,
          static_cast<int>(min_of<std::int64_t>(rule.top_k - (has_own ? 1 : 0), candidates)),
          has_own ? blocks - 1 : -1};
}

/// A row's left operands in fp16.
template <class T, int k_steps>
__device__ __forceinline__ void convert_rows(std::uint32_t (&q)[k_steps][4]) {
  if constexpr (std::is_same_v<T, bf16>) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = 0;
#pragma unroll
      for (int step = 0; step < k_steps; ++step)
#pragma unroll
        for (int n = half; n < 4; n += 2)
          largest = fmaxf(largest, fmaxf(fabsf(unpack_low<T>(q[step][n])), fabsf(unpack_high<T>(q[step][n]))));
      const float scale = power_of_two(exponent_of_scale(max_lanes<4>(largest)));
#pragma unroll
      for (int step = 0; step < k_steps; ++step)
#pragma unroll
        for (int n = half; n < 4; n += 2)
          q[step][n] = pack<fp16>(unpack_low<T>(q[step][n]) * scale, unpack_high<T>(q[step][n]) * scale);
    }
  }
}

/// Starts to copy means [first, first + Sizes::kMeans) of a sequence that has num_means; zeros behind them.
template <class T, class Sizes>
__device__ __forceinline__ void copy_means(SharedMeans<T, Sizes>& shared, const Inputs<T>& in,
                                           std::int64_t sequence_mean, int g, int first, int num_means) {
  constexpr int kVectors = Sizes::kDk / kVectorFeatures, kMeans = Sizes::kMeans;
  for (int index = thread_index().x; index < kMeans * 2 * kVectors; index += Sizes::kThreads) {
    const int row = index / (2 * kVectors), part = index / kVectors % 2, mean = first + row;
    const bool is_there = mean < num_means;
    const fp16* from =
        in.means.parts + (((sequence_mean + (is_there ? mean : 0)) * in.a.kv_heads + g) * 2 + part) * in.a.dk;
    copy_vector(shared.means[first / kMeans % 2][row] + part * Sizes::kDk, from, index % kVectors, in.a.dk, is_there);
  }
}

template <class T, class Sizes>
__global__ void __launch_bounds__(Sizes::kThreads, 256 / Sizes::kThreads) select_tile(Inputs<T> in) {
  constexpr int kRowTiles = Sizes::kRowTiles, kSteps = Sizes::kDk / 16, kMeans = Sizes::kMeans;
  using Shared = SharedMeans<T, Sizes>;
  Shared& shared = *dynamic_shared<Shared>();
  const int lane = lane_index(), first_row = warp_index() * 16 * kRowTiles;

  // phase 1 - the thread block's queries, and the most that any of them, the last, may select from
  const int h = block_index().y, g = h / (in.a.heads / in.a.kv_heads);
  const Sequence s = sequence_of(in.a.sequences, in.tile_offsets, block_index().x);
  const std::int64_t first_query = (block_index().x - in.tile_offsets[s.index]) * kSelectQueries;
  const std::int64_t first_mean = in.block_offsets[s.index];
  const QueryRow last = query_row(in, s, min_of(first_query + kSelectQueries, s.num_queries) - 1);

  // phase 2 - queries to registers
  constexpr int kVectors = Sizes::kDk / kVectorFeatures;
  for (int index = thread_index().x; index < kSelectQueries * kVectors; index += Sizes::kThreads) {
    const std::int64_t query = first_query + index / kVectors;
    const bool is_there = query < s.num_queries;
    copy_vector(shared.q[index / kVectors], in.q.at(s.q_begin + (is_there ? query : 0), h), index % kVectors, in.a.dk,
                is_there);
  }
  cp_async_wait_all();
  sync_threads();
  std::uint32_t q[kRowTiles][kSteps][4];
  QueryRow rows[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) load_rows(q[tile][step], shared.q, first_row + 16 * tile, 16 * step);
    convert_rows<T>(q[tile]);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      rows[tile][half] = query_row(in, s, first_query + first_row + 16 * tile + 8 * half + lane / 4);
  }

  // phase 3 - passes over the means, each of which takes as many blocks as a list holds
  Scored taken_last[kRowTiles][2];
  for (auto& tile : taken_last) tile[0] = tile[1] = {INFINITY, -1};
  for (int taken = 0; taken < last.wanted; taken += Sizes::kList) {
    BestList<Sizes::kList> lists[kRowTiles][2];
#pragma unroll
    for (auto& tile : lists) tile[0].clear(), tile[1].clear();
    sync_threads();  // the pass before has read its means
    copy_means(shared, in, first_mean, g, 0, last.candidates);
    for (int first = 0; first < last.candidates; first += kMeans) {
      cp_async_wait_all();
      sync_threads();
      if (first + kMeans < last.candidates) copy_means(shared, in, first_mean, g, first + kMeans, last.candidates);
      const auto* means = shared.means[first / kMeans % 2];
#pragma unroll 1
      for (int column = 0; column < kMeans && first + column < last.candidates; column += 16) {
        float scales[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int mean = first + column + n / 2 * 8 + lane % 4 * 2 + n % 2;
          scales[n] =
              load_constant(in.means.scales + (first_mean + min_of(mean, last.candidates - 1)) * in.a.kv_heads + g);
        }
        float scores[kRowTiles][2][4] = {};
#pragma unroll
        for (int step = 0; step < 2 * kSteps; ++step) {
          std::uint32_t columns[4];
          load_keys(columns, means, column, 16 * step);
#pragma unroll
          for (int tile = 0; tile < kRowTiles; ++tile)
            multiply_pair<fp16>(scores[tile][0], scores[tile][1], q[tile][step % kSteps], columns);
        }
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < 4; ++n) {
              const Scored entry{scores[tile][n / 2][2 * half + n % 2] * scales[n],
                                 first + column + n / 2 * 8 + lane % 4 * 2 + n % 2};
              if (entry.block >= rows[tile][half].candidates) continue;
              if (Sizes::kMayPassTwice && !taken_last[tile][half].is_before(entry)) continue;
              lists[tile][half].add(entry);
            }
      }
    }
    // phase 4 - the lists of four lanes become one
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const QueryRow& row = rows[tile][half];
        std::int32_t* selected = in.selection.at(row.token < 0 ? 0 : row.token, h) + (row.own < 0 ? 0 : 1);
        for (int place = taken; place < taken + Sizes::kList && place < last.wanted; ++place) {
          taken_last[tile][half] = lists[tile][half].take_best_of_four();
          if (lane % 4 == 0 && place < row.wanted) selected[place] = taken_last[tile][half].block;
        }
      }
  }

  // phase 5 - the slots that need no score
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const QueryRow& row = rows[tile][half];
      if (row.token < 0) continue;
      std::int32_t* selected = in.selection.at(row.token, h);
      const int used = row.wanted + (row.own < 0 ? 0 : 1);
      if (lane % 4 == 0 && row.own >= 0) selected[0] = row.own;
      for (std::int64_t slot = used + lane % 4; slot < in.rule.slots; slot += 4) selected[slot] = -1;
    }
}

/// Calls use(sizes) with the smallest that hold so many features and, if any does, so many blocks.
template <class Use>
void with_sizes(int dk, std::int64_t wanted, const Use& use) {
  const auto with_list = [&]<int max_dk>(std::integral_constant<int, max_dk>) {
    if (wanted <= 3) return use(SelectSizes<max_dk, 3>{});
    if (wanted <= 7) return use(SelectSizes<max_dk, 7>{});
    use(SelectSizes<max_dk, 15>{});
  };
  if (dk <= 64) return with_list(std::integral_constant<int, 64>{});
  if (dk <= 128) return with_list(std::integral_constant<int, 128>{});
  with_list(std::integral_constant<int, 256>{});
}

}  // namespace

template <class T>
void select_blocks(const Attention& a, const SelectionRule& rule, const std::int64_t* block_offsets,
                   const std::int64_t* tile_offsets, std::int64_t num_tiles, Rows<const T> q, const MeanKeys& means,
                   Rows<std::int32_t> selection, void* stream) {
  if (num_tiles == 0) return;
  with_sizes(a.dk, rule.top_k - (a.sequences.is_causal ? 1 : 0), [&]<class Sizes>(Sizes) {
    LaunchShape shape;
    shape.grid = {static_cast<int>(num_tiles), a.heads, 1};
    shape.block.x = Sizes::kThreads;
    shape.shared_bytes = sizeof(SharedMeans<T, Sizes>);
    launch(select_tile<T, Sizes>, shape, stream, {a, rule, block_offsets, tile_offsets, q, means, selection});
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                    \
  template void select_blocks<T>(const Attention&, const SelectionRule&, const std::int64_t*, const std::int64_t*, \
                                 std::int64_t, Rows<const T>, const MeanKeys&, Rows<std::int32_t>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
