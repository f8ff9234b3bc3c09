// Attention to all keys or to a window of them, by tiles of queries. Query rows (queries times heads) and key rows are
// counted in 32 bits; where they lie, in 64.
#pragma once

#include <cstdint>

#include "cuda/divider.hpp"
#include "cuda/tensors.cuh"
#include "cuda/thread_per_row/rows.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

using thread_per_row::BackwardRows;

/// What all kernels know of a call.
struct Problem {
  Sequences sequences;
  std::int64_t window;  // keys that a query sees at most
  int heads, kv_heads, dk, dv;
  float scale;
  int group;  // query heads of a key/value head
  Divider by_group;
};

/// Tiles of rows or keys; sequence s has its own from offsets[s] on, on the device. They begin with the sequence.
struct Tiles {
  const std::int64_t* offsets;  // [sequences + 1]
  int count;
};

/// Rows of a forward's tile, rows of a tile of dq, and keys of a tile of dk and dv.
int forward_tile_rows(int dk, int dv);
int query_gradient_tile_rows(int dk, int dv);
int key_gradient_tile_keys(int dk, int dv);

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
void attend_backward(const Problem&, const Tiles& row_tiles, const Tiles& key_tiles, const BackwardRows<T>&,
                     RowTerms* terms, Rows<T> dq, Rows<T> dk, Rows<T> dv, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
