// Tiles of query rows and of keys, which keys a row sees, and how tiles come to shared memory. Row r of a key/value
// head in a sequence is head r % group of the group, of query r / group: rows are ordered by position, and those of a
// query lie together.
#pragma once

#include <cstdint>

#include "cuda/fragments.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/query_tiles/problem.hpp"
#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

inline constexpr float kLog2E = 1.44269504f;

/// Features of a row in shared memory: whole groups of 128 bytes, within which chunks are permuted.
constexpr int padded(int features) { return (features + 63) / 64 * 64; }

/// The lane's row among 16: the upper half or the lower.
__device__ __forceinline__ int lane_row(int half) { return 8 * half + lane_index() / 4; }

/// Rows of 16-bit numbers in shared memory.
template <class T, int features>
using SharedTile = SharedRows<T, padded(features)>;

/// Keys of a sequence, from the first to before the end.
struct KeyRange {
  int first, end;
};

/// A sequence whose keys are made of tokens.
struct TokenSequence : Sequence {
  std::int64_t num_tokens;
};

__device__ __forceinline__ TokenSequence token_sequence_of(const Problem& p, const Tiles& tiles, int tile) {
  const Sequence s = sequence_of(p.sequences, tiles.offsets, tile);
  return {s, p.reach.token_offsets[s.index + 1] - p.reach.token_offsets[s.index]};
}

/// How many tokens query i of a sequence sees.
__device__ __forceinline__ std::int64_t num_visible_tokens(const Problem& p, const TokenSequence& s, std::int64_t i) {
  Sequence tokens = s;
  tokens.num_keys = s.num_tokens;
  return num_visible_keys(p.sequences, tokens, i);
}

/// The keys that query i of a sequence sees; none: {0, 0}.
__device__ __forceinline__ KeyRange keys_of(const Problem& p, const TokenSequence& s, std::int64_t i) {
  const std::int64_t after_first = num_visible_tokens(p, s, i) - p.reach.tokens;
  const int end = after_first < 0 ? 0 : p.reach.by_stride.of(static_cast<int>(after_first)) + 1;
  return {end > p.reach.window ? end - static_cast<int>(p.reach.window) : 0, end};
}

/// Consecutive rows of a key/value head in a sequence.
struct RowTile {
  TokenSequence sequence;
  int kv_head, begin, count;

  __device__ __forceinline__ std::int64_t query(const Problem& p, int row) const { return p.by_group.of(begin + row); }
  __device__ __forceinline__ std::int64_t token(const Problem& p, int row) const {
    return sequence.q_begin + query(p, row);
  }
  __device__ __forceinline__ int head(const Problem& p, int row) const {
    return kv_head * p.group + (begin + row - p.by_group.of(begin + row) * p.group);
  }
  /// Where a row is in a tensor; nullptr: there is none.
  template <class T>
  __device__ __forceinline__ T* at(const Problem& p, const Rows<T>& rows, int row) const {
    return row < count ? rows.at(token(p, row), head(p, row)) : nullptr;
  }
  /// The keys that some of the rows see.
  __device__ __forceinline__ KeyRange seen(const Problem& p) const {
    return {keys_of(p, sequence, query(p, 0)).first, keys_of(p, sequence, query(p, count - 1)).end};
  }
};

/// A warp's rows of a tile, [from, to): what they see of the keys. Lane 4 g + t holds rows g and g + 8 of every 16, and
/// of every 8 keys the columns 2 t and 2 t + 1.
struct WarpRows {
  const Problem& p;
  const RowTile& tile;
  int from, to;
  KeyRange some{0, 0}, every{0, 0};  // keys that some of the rows see, and those that all of them see

  __device__ __forceinline__ WarpRows(const Problem& problem, const RowTile& row_tile, int rows)
      : p(problem), tile(row_tile), from(warp_index() * rows), to(from + rows < tile.count ? from + rows : tile.count) {
    if (from >= to) return;
    const KeyRange first = keys_of(p, tile.sequence, tile.query(p, from));
    const KeyRange last = keys_of(p, tile.sequence, tile.query(p, to - 1));
    some = {first.first, last.end}, every = {last.first, first.end};
  }

  __device__ __forceinline__ bool some_see(int key, int keys) const {
    return some.first < key + keys && key < some.end;
  }
  __device__ __forceinline__ bool all_see(int key, int keys) const {
    return every.first <= key && key + keys <= every.end;
  }
  /// Where the i-th 16 of the warp's rows are in a tensor, for the lane; nullptr: nowhere.
  template <class T>
  __device__ __forceinline__ T* at(const Rows<T>& rows, int i, int half) const {
    return tile.at(p, rows, from + 16 * i + lane_row(half));
  }
  /// Calls hide(i, j, number) for the sums of keys [key, ...) that are not seen.
  template <int m, int n, class Hide>
  __device__ __forceinline__ void for_each_unseen(int key, const Hide& hide) const {
    if (all_see(key, 16 * n)) return;
#pragma unroll
    for (int i = 0; i < m; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const KeyRange seen = keys_of(p, tile.sequence, tile.query(p, from + 16 * i + lane_row(half)));
        const int first = seen.first - key, end = seen.end - key;
#pragma unroll
        for (int j = 0; j < 2 * n; ++j)
#pragma unroll
          for (int number = 2 * half; number < 2 * half + 2; ++number) {
            const int column = 8 * j + lane_index() % 4 * 2 + number % 2;
            if (column < first || column >= end) hide(i, j, number);
          }
      }
  }
};

/// The tile of a thread block. Those with the most keys come first within a head, and a head's come together.
template <int rows>
__device__ __forceinline__ RowTile row_tile(const Problem& p, const Tiles& tiles, int thread_block) {
  const int kv_head = thread_block / tiles.count, tile = tiles.count - 1 - thread_block % tiles.count;
  const TokenSequence s = token_sequence_of(p, tiles, tile);
  const int begin = (tile - static_cast<int>(tiles.offsets[s.index])) * rows;
  const int left = static_cast<int>(s.num_queries) * p.group - begin;
  return {s, kv_head, begin, left < rows ? left : rows};
}

/// Starts to copy rows to shared memory: `filled` features of each, zeros elsewhere. row_at(n): where row n is;
/// nullptr: zeros alone. Eight threads copy 128 bytes of a row; `threads` that come after a multiple of as many do
/// alike.
template <int threads, int rows, int features, class Shared, class RowAt>
__device__ __forceinline__ void copy_rows(const Shared& to, int filled, const RowAt& row_at) {
  constexpr int kRowsAtOnce = threads / 8;
  static_assert(rows % kRowsAtOnce == 0);
  const int thread = thread_number() % threads;
#pragma unroll 4
  for (int first = 0; first < rows; first += kRowsAtOnce) {
    const int row = first + thread / 8;
    const auto* from = row_at(row);
#pragma unroll
    for (int column = 0; column < features; column += 64) {
      const int feature = column + thread % 8 * 8;
      const bool is_there = from != nullptr && feature < filled;
      cp_async<16>(to.chunk(row, feature / 8), is_there ? from + feature : nullptr, is_there ? 16 : 0);
    }
  }
}

/// The same for rows that follow one another `stride` numbers apart, of which the first `count` are there.
template <int threads, int rows, int features, class Shared, class T>
__device__ __forceinline__ void copy_run(const Shared& to, int filled, const T* first, std::int64_t stride, int count) {
  constexpr int kRowsAtOnce = threads / 8;
  static_assert(rows % kRowsAtOnce == 0);
  const int thread = thread_number() % threads;
  const T* from = first + thread / 8 * stride + thread % 8 * 8;
#pragma unroll 4
  for (int n = 0; n < rows; n += kRowsAtOnce, from += kRowsAtOnce * stride) {
    const int row = n + thread / 8, there = row < count ? filled - thread % 8 * 8 : 0;
#pragma unroll
    for (int column = 0; column < features; column += 64)
      cp_async<16>(to.chunk(row, column / 8 + thread % 8), from + column, column < there ? 16 : 0);
  }
}

/// The same for the rows of a tile.
template <int threads, int rows, int features, class Shared, class T>
__device__ __forceinline__ void copy_tile(const Shared& to, int filled, const Problem& p, const RowTile& tile,
                                          const Rows<const T>& from) {
  constexpr int kRowsAtOnce = threads / 8;
  static_assert(rows % kRowsAtOnce == 0);
  const int thread = thread_number() % threads, first = tile.begin + thread / 8;
  const int tokens = p.by_group.of(kRowsAtOnce), heads = kRowsAtOnce - tokens * p.group;  // from a row to the next
  const std::int64_t ahead = tokens * from.token_stride + heads * from.head_stride;
  const std::int64_t to_next_token = from.token_stride - p.group * from.head_stride;
  int head = first - p.by_group.of(first) * p.group;
  const T* at = from.at(tile.sequence.q_begin + p.by_group.of(first), tile.kv_head * p.group + head) + thread % 8 * 8;
#pragma unroll 4
  for (int n = 0; n < rows; n += kRowsAtOnce) {
    const int row = n + thread / 8, there = row < tile.count ? filled - thread % 8 * 8 : 0;
#pragma unroll
    for (int column = 0; column < features; column += 64)
      cp_async<16>(to.chunk(row, column / 8 + thread % 8), at + column, column < there ? 16 : 0);
    head += heads, at += ahead;
    if (head >= p.group) head -= p.group, at += to_next_token;
  }
}

/// Where keys [first, ...) of a sequence are, for copy_rows.
template <class T>
__device__ __forceinline__ auto rows_from(const Rows<const T>& keys, const Sequence& s, int kv_head,
                                          std::int64_t first) {
  return [=](int n) { return first + n < s.num_keys ? keys.at(s.k_begin + first + n, kv_head) : nullptr; };
}

/// Goes through [begin, end) in steps: copy(at, stage) starts to copy what use(at, stage) then finds in shared memory,
/// one step ahead. All threads do alike; what they copied before is there as well.
template <int step, class Copy, class Use>
__device__ __forceinline__ void walk(int begin, int end, const Copy& copy, const Use& use) {
  if (begin < end) copy(begin, 0);
  for (int at = begin, stage = 0; at < end; at += step, stage ^= 1) {
    cp_async_wait_all();
    sync_threads();  // this step's copies are there, and what the last one used is free
    if (at + step < end) copy(at + step, stage ^ 1);
    use(at, stage);
  }
  cp_async_wait_all();
}

/// sums += A B^T over `depth` features, with the matrices A of 16 rows and B of 8 in shared memory.
template <class T, int depth, int m, int n, int stride>
__device__ __forceinline__ void multiply_by_rows(Sums<m, n>& sums, const Matrices<T, stride>& left,
                                                 const Matrices<T, stride>& right) {
  multiply<T, depth, m, n>(
      sums, [&](auto& a, int row, int at) { ldmatrix(a, left.at(row, at)); },
      [&](auto& b, int at, int column) { ldmatrix(b, right.at(column, at)); });
}

/// sums += A B with A [16 m, 16 depth] in registers, rounded to 16 bits, and B's rows in shared memory.
template <class T, int m, int depth, int n, int stride>
__device__ __forceinline__ void multiply_packed(Sums<m, n>& sums, const Sums<m, depth>& left,
                                                const Matrices<T, stride>& right) {
  multiply<T, 16 * depth, m, n>(
      sums,
      [&](auto& a, int row, int at) {
#pragma unroll
        for (int number = 0; number < 4; ++number) {
          const float(&columns)[4] = left[row / 16][at / 8 + number / 2];
          a[number] = pack<T>(columns[number % 2 * 2], columns[number % 2 * 2 + 1]);
        }
      },
      [&](auto& b, int at, int column) { ldmatrix_transposed(b, right.at(at, column)); });
}

/// Rounds rows of sums times a factor and stores `features` of each. row_at(i, half): where the lane's row goes;
/// nullptr: nowhere.
template <class T, int m, int n, class RowAt>
__device__ __forceinline__ void store_rows(const Sums<m, n>& sums, int features, float factor, const RowAt& row_at) {
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      T* row = row_at(i, half);
      if (row == nullptr) continue;
#pragma unroll
      for (int j = 0; j < 2 * n; ++j) {
        const int d = 8 * j + lane_index() % 4 * 2;
        if (d < features)
          *reinterpret_cast<std::uint32_t*>(row + d) =
              pack<T>(sums[i][j][2 * half] * factor, sums[i][j][2 * half + 1] * factor);
      }
    }
}

/// Rows of q and k of at most so many features, and rows of v.
template <int dk, int dv>
struct Features {
  static constexpr int kDk = dk, kDv = dv;
};

/// Calls use(features) with the smallest that hold a call's.
template <class Use>
void with_features(int dk, int dv, const Use& use) {
  if (dk <= 64 && dv <= 64) return use(Features<64, 64>{});
  if (dk <= 96 && dv <= 96) return use(Features<96, 96>{});
  if (dk <= 128 && dv <= 128) return use(Features<128, 128>{});
  if (dk <= 192 && dv <= 128) return use(Features<192, 128>{});
  use(Features<256, 256>{});
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
