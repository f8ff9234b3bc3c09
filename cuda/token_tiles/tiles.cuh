// What a warp owns of a token's rows, and the keys that it goes through. Lane 4 g + t holds rows g and g + 8.
#pragma once

#include <cstdint>

#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/token_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles {

using query_tiles::kLog2E;
using query_tiles::lane_row;
using query_tiles::multiply_packed;
using query_tiles::padded;
using query_tiles::SharedTile;
using query_tiles::with_features;

inline constexpr int kRows = 16, kKeys = 16;                      // of a warp at a time
inline constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes;  // of a thread block

/// Up to 16 heads of a group, of a token: a warp's rows. `part` of their output is what it makes.
struct TokenTile {
  int kv_head, first_head, count, part;
  std::int64_t token, k_begin;  // k_begin: the first key of its sequence
  int visible;                  // keys of its sequence

  /// Where the lane's row is in a tensor; nullptr: there is none.
  template <class T>
  __device__ __forceinline__ T* at(const Rows<T>& rows, int half) const {
    return lane_row(half) < count ? rows.at(token, first_head + lane_row(half)) : nullptr;
  }
};

/// Warps that a token has for a key/value head, where so many share the output of 16 rows.
__host__ __device__ __forceinline__ int warps_of_token(const Problem& p, int parts) {
  return (p.group + kRows - 1) / kRows * parts;
}

inline std::int64_t thread_blocks(const Problem& p, const Selection& selection, int parts) {
  return (selection.num_queries * warps_of_token(p, parts) + kWarps - 1) / kWarps * p.kv_heads;
}

/// The tile of a warp; without rows, where there are more warps than tiles. Those of a head come together, the last
/// tokens, which see the most, first.
__device__ __forceinline__ TokenTile token_tile(const Problem& p, const Selection& selection, int parts) {
  const int of_head = grid_size().x / p.kv_heads, kv_head = block_index().x / of_head;
  const int number = block_index().x % of_head * kWarps + warp_index(), of_token = warps_of_token(p, parts);
  const std::int64_t token = selection.num_queries - 1 - number / of_token;
  if (token < 0) return {};
  const Sequence s = sequence_of(p.sequences, p.sequences.q_offsets, token);
  const int first = number % of_token / parts * kRows, left = p.group - first;
  return {kv_head,
          kv_head * p.group + first,
          left < kRows ? left : kRows,
          number % parts,
          token,
          s.k_begin,
          static_cast<int>(num_visible_keys(p.sequences, s, token - s.q_begin))};
}

/// Goes through the keys that a token sees of its blocks, 16 at a time, in the order of its slots. All lanes do alike.
class KeyCursor {
 public:
  __device__ __forceinline__ KeyCursor(const Selection& s, const TokenTile& tile)
      : block_(s.block),
        visible_(tile.visible),
        slots_(s.selected.at(tile.token, tile.kv_head)),
        num_slots_(static_cast<int>(s.slots)) {
    advance();
  }

  __device__ __forceinline__ bool has_keys() const { return key_ < end_; }
  /// The first of the keys, and how many from there on are its block's and seen, which may be more than 16.
  __device__ __forceinline__ int key() const { return key_; }
  __device__ __forceinline__ int count() const { return end_ - key_; }
  /// The slot of their block, and where in the block they begin.
  __device__ __forceinline__ int slot() const { return slot_; }
  __device__ __forceinline__ int key_in_block() const { return key_ - begin_; }

  __device__ __forceinline__ void advance() {
    key_ += kKeys;
    if (key_ < end_) return;
    while (left_ == 0) {
      if (next_slot_ >= num_slots_) {
        key_ = end_ = 0;
        return;
      }
      const int slot = next_slot_ + lane_index();
      selected_ = slot < num_slots_ ? load_constant(slots_ + slot) : -1;
      left_ = ballot(selected_ >= 0 && selected_ * block_ < visible_);
      next_slot_ += kWarpLanes;
    }
    const int lane = lowest_bit(left_);
    const std::int64_t begin = shuffle(selected_, lane) * block_, end = begin + block_;
    left_ &= left_ - 1;
    slot_ = next_slot_ - kWarpLanes + lane;
    key_ = begin_ = static_cast<int>(begin), end_ = end < visible_ ? static_cast<int>(end) : visible_;
  }

 private:
  std::int64_t block_;
  int visible_;
  const std::int32_t* slots_;
  int num_slots_, next_slot_ = 0;  // next: to be looked at
  std::int32_t selected_ = -1;     // what the lane looked at,
  std::uint32_t left_ = 0;         // and the lanes whose blocks are still to come
  int slot_ = 0, begin_ = 0, key_ = 0, end_ = 0;
};

/// The lane's fragments of 16 rows of so many features.
template <int features>
struct RowFragments {
  std::uint32_t numbers[features / 16][4];

  /// `filled` features, and zeros beyond.
  template <class T>
  __device__ __forceinline__ void load(const TokenTile& tile, const Rows<const T>& rows, int filled) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* row = tile.at(rows, half);
#pragma unroll
      for (int n = 0; n < features / 16; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int feature = 16 * n + 8 * c + lane_index() % 4 * 2;
          const bool is_there = row != nullptr && feature < filled;
          numbers[n][half + 2 * c] =
              is_there ? load_constant(reinterpret_cast<const std::uint32_t*>(row + feature)) : 0;
        }
    }
  }
};

/// rows B^T, of 16 rows and the matrices B of keys in shared memory, as two sums: products that wait for each other are
/// half as many.
template <class T, int features, int stride>
__device__ __forceinline__ void multiply_by_keys(Sums<1, 1>& sums, const RowFragments<features>& rows,
                                                 const Matrices<T, stride>& keys) {
  Sums<1, 1> others;
  clear<1, 1>(sums);
  clear<1, 1>(others);
#pragma unroll
  for (int n = 0; n < features / 16; ++n) {
    std::uint32_t b[4];
    ldmatrix(b, keys.at(0, 16 * n));
    Sums<1, 1>& to = n % 2 == 0 ? sums : others;
    mma_m16n8k16<T>(to[0][0], rows.numbers[n], {b[0], b[1]});
    mma_m16n8k16<T>(to[0][1], rows.numbers[n], {b[2], b[3]});
  }
#pragma unroll
  for (int j = 0; j < 2; ++j)
#pragma unroll
    for (int number = 0; number < 4; ++number) sums[0][j][number] += others[0][j][number];
}

/// Keys and values, or values and keys, on their way through a warp's shared memory: tiles of 16 rows.
template <class T, int a, int b, int stages>
struct KeyTiles {
  T first[stages][kKeys * padded(a)], second[stages][kKeys * padded(b)];
};

/// As many tiles as 4 warps have room for in 96 KB, up to 3.
constexpr int stages_of(int a, int b) {
  const int most = 768 / (padded(a) + padded(b));
  return most < 3 ? most : 3;
}

/// A lane's way from a tensor of keys to shared memory: rows follow one another, and 16 lanes copy 256 bytes of a row
/// (8 lanes 128, where rows are no multiple of that).
template <class T, int features>
struct KeyRows {
  static constexpr int kLanes = features % 128 == 0 ? 16 : 8, kRowsAtOnce = kWarpLanes / kLanes;

  int row = lane_index() / kLanes, feature = lane_index() % kLanes * 8;
  const T* first;  // where the lane begins in the sequence's first keys
  std::int64_t stride;
  int filled;  // features

  __device__ __forceinline__ KeyRows(const TokenTile& tile, const Rows<const T>& rows, int num_features)
      : first(rows.at(tile.k_begin + row, tile.kv_head) + feature), stride(rows.token_stride), filled(num_features) {}

  /// Starts to copy 16 keys, zeros for those from `count` on.
  __device__ __forceinline__ void copy(const SharedRows<T, features>& to, int key, int count) const {
#pragma unroll
    for (int column = 0; column < features; column += kLanes * 8) {
      const int there = feature + column < filled ? count : 0;
      const T* from = first + key * stride + column;
#pragma unroll
      for (int n = 0; n < kKeys; n += kRowsAtOnce, from += kRowsAtOnce * stride)
        cp_async<16>(to.chunk(n + row, (column + feature) / 8), from, n + row < there ? 16 : 0);
    }
  }
};

/// Goes through the tiles of a token's keys: use_first(tile, count) finds those of one tensor in shared memory, of
/// which the row sees `count` if that is less than 16, and then use_second(tile, count) those of the other. What a tile
/// leaves free is at once filled anew.
template <class T, int a, int b, int stages, class UseFirst, class UseSecond>
__device__ __forceinline__ void walk(const Selection& selection, const TokenTile& tile,
                                     KeyTiles<T, a, b, stages>& shared, const KeyRows<T, padded(a)>& first,
                                     const KeyRows<T, padded(b)>& second, const UseFirst& use_first,
                                     const UseSecond& use_second) {
  KeyCursor cursor(selection, tile), ahead = cursor;
  const auto first_tile = [&](int stage) { return SharedTile<T, a>{shared.first[stage]}; };
  const auto second_tile = [&](int stage) { return SharedTile<T, b>{shared.second[stage]}; };
  const auto copy_first = [&](int stage) {
    first.copy(first_tile(stage), ahead.key(), ahead.count());
    cp_async_commit();
  };
  const auto copy_second = [&](int stage) {
    second.copy(second_tile(stage), ahead.key(), ahead.count());
    cp_async_commit();
  };
  for (int stage = 0; stage < stages; ++stage, ahead.advance()) copy_first(stage), copy_second(stage);
  for (int stage = 0; cursor.has_keys(); stage = stage + 1 < stages ? stage + 1 : 0) {
    cp_async_wait<2 * stages - 1>();
    sync_warp();
    use_first(first_tile(stage), cursor.count());
    sync_warp();
    copy_first(stage);
    cp_async_wait<2 * stages - 1>();
    sync_warp();
    use_second(second_tile(stage), cursor.count());
    sync_warp();
    copy_second(stage);
    cursor.advance(), ahead.advance();
  }
  cp_async_wait_all();
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles
