// Attention to all keys, to a window of them, or to compressed rows, by tiles of queries; and the blocks that NSA
// selects. Query rows (queries times heads), key rows and the tokens of a sequence are counted in 32 bits; where they
// lie, in 64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/baseline/rows.hpp"
#include "cuda/divider.hpp"
#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

using baseline::BackwardRows;

/// Which keys a query sees. Key j of a sequence is made of its tokens j stride .. j stride + tokens - 1, and seen where
/// all of these are: a token, or a compressed row. Of those it sees the last ones.
struct Reach {
  const std::int64_t* token_offsets;  // [sequences + 1]
  std::int64_t tokens, stride;
  Divider by_stride;
  std::int64_t window;  // keys
};

/// What all kernels know of a call.
struct Problem {
  Sequences sequences;
  Reach reach;
  int heads, kv_heads, dk, dv;
  float scale;
  int group;  // rows of a query: the heads of a key/value head
  Divider by_group;
};

/// Tiles of rows or keys; sequence s has its own from offsets[s] on, on the device. They begin with the sequence.
struct Tiles {
  const std::int64_t* offsets;  // [sequences + 1]
  int count;
  int* taken;  // on the device, 0 before a launch: tiles that its thread blocks took beside their first
};

/// Rows of a forward's tile, rows of a tile of dq, and keys of a tile of dk and dv.
int forward_tile_rows(int dk, int dv);
int query_gradient_tile_rows(int dk, int dv);
int key_gradient_tile_keys(int dk, int dv);

/// Rows of a query and of a tile for a selection, where a query has 2^n rows: as many as heads of a group or more.
inline constexpr int kSelectRows = 128;
int select_rows_of_query(int group);

/// Bytes of shared memory that it needs.
std::size_t select_shared_bytes(int dk, int group, int slots);

/// The rows that see a tile of keys are cut into segments, which several thread blocks go through: one segment, or, of
/// tiles that more rows see than tiles could be found for (compressed rows), several, whose sums are then merged in
/// order. Where the cuts are is told by the sequence alone.
struct RowSegments {
  std::int64_t* offsets;  // [key tiles + 1], on the device: segments of the tiles before, of a key/value head
  int count;
  float* sums;  // [Hkv, count, keys of a tile, dk + dv], where a tile has several: dS^T q and P^T do
};

/// Their offsets, for tiles of so many keys. sequences and token_offsets: on the host.
std::vector<std::int64_t> row_segment_offsets(const Problem&, int keys, const Sequences& sequences,
                                              const std::int64_t* token_offsets);

/// What keys need to know of a row beside q and do: its lse to base 2, infinity if it sees no key, and delta = <do, o>.
struct alignas(8) RowTerms {
  float lse, delta;
};

/// o [query tokens, H, dv] and lse [query tokens, H, 1], T being bf16 or fp16. Features are multiples of 8 up to 256,
/// as below.
template <class T>
void attend(const Problem&, const Tiles& row_tiles, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream);

/// dq [query tokens, H, dk], dk and dv [key tokens, Hkv, dim]; terms [query tokens, H] is room.
template <class T>
void attend_backward(const Problem&, const Tiles& row_tiles, const Tiles& key_tiles, const RowSegments&,
                     const BackwardRows<T>&, RowTerms* terms, Rows<T> dq, Rows<T> dk, Rows<T> dv, void* stream);

/// dk and dv of tiles that have several segments.
template <class T>
void merge_segments(const Problem&, const Tiles& key_tiles, int keys, const RowSegments&, Rows<T> dk, Rows<T> dv,
                    void* stream);

/// How NSA selects.
struct ImportanceRule {
  Divider by_block;  // its tokens
  int rows;          // compressed rows that begin in a block
  Divider by_rows;
  int strides;  // that a compressed row is long
  int top_n, initial_blocks, local_blocks;
  int slots;
};

/// selection [query tokens, Hkv, slots]: the blocks that attention to compressed rows k, with this lse, says are
/// important; for groups of at most kSelectRows heads, and slots that fit into shared memory.
template <class T>
void select_important_blocks(const Problem&, const Tiles& row_tiles, const ImportanceRule&, Rows<const T> q,
                             Rows<const T> k, Rows<const float> lse, Rows<std::int32_t> selection, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
