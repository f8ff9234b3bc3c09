// Attention of a few queries to many keys: the keys of a query are cut into splits, thread blocks attend to one each,
// and what they found is merged in fp32. How a list of keys is cut depends on its length alone. Counted in 32 bits and
// 64 as in query_tiles.
#pragma once

#include <cstdint>

#include "cuda/divider.hpp"
#include "cuda/query_tiles/problem.hpp"
#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

using query_tiles::ImportanceRule;
using query_tiles::Problem;

/// The splits of a list are of equal length, all but the last; at least kMinKeys keys, a multiple of kKeyStep, and
/// kMaxSplits of them at most.
inline constexpr int kMaxSplits = 64, kMinKeys = 256, kKeyStep = 64;

/// How many splits a list of at most so many keys has, at most.
inline int max_splits(std::int64_t keys) {
  const std::int64_t splits = (keys + kMinKeys - 1) / kMinKeys;
  return static_cast<int>(splits < kMaxSplits ? splits : kMaxSplits);
}

/// Query tokens that are attended at once.
struct Tokens {
  std::int64_t first;
  int count;
};

/// A query token has a list of keys for each key/value head or for each query head: all keys in its reach; or those
/// of them in the blocks that it selected, in ascending order.
struct Lists {
  int count;                          // of a token: Hkv or H
  Rows<const std::int32_t> selected;  // [query tokens, count, slots], -1 is none; without data: all keys in reach
  int slots;
  int block;  // keys in a block; where none are selected, more than any list has
  Divider by_block;
};

/// The largest score of a row and a split, to base 2, and the sum of the weights relative to it.
struct alignas(8) SplitTotals {
  float largest, sum;
};

/// What rows found in splits of their keys. A split without keys has the sum 0, and o is not written.
struct Partials {
  float* o;             // [tokens, H, splits, dv], relative to the largest score as the sum is
  SplitTotals* totals;  // [tokens, H, splits]
  int splits;
};

/// Scores to base 2 of the keys in a row's list, [tokens, H, stride] with an even stride. Without data they are not
/// kept.
struct Scores {
  float* data;
  int stride;

  __device__ __forceinline__ float* row(const Problem& p, std::int64_t token, int head) const {
    return data + (token * p.heads + head) * stride;
  }
};

/// Partials and scores of the tokens, T being bf16 or fp16. Features are multiples of 8 up to 256.
template <class T>
void attend_splits(const Problem&, const Lists&, const Tokens&, Rows<const T> q, Rows<const T> k, Rows<const T> v,
                   const Partials&, const Scores&, void* stream);

/// o [query tokens, H, dv] and lse [query tokens, H, 1] of the tokens.
template <class T>
void merge_splits(const Problem&, const Tokens&, const Partials&, Rows<T> o, Rows<float> lse, void* stream);

/// selection [query tokens, Hkv, slots] of the tokens, from their scores against compressed rows, which it overwrites.
/// importances: room for [tokens, Hkv, blocks], as many blocks as any sequence has.
void select_important_blocks(const Problem&, const ImportanceRule&, const Tokens&, const Scores&, Rows<const float> lse,
                             float* importances, int blocks, Rows<std::int32_t> selection, void* stream);

/// How MoBA selects.
struct BlockSelectionRule {
  int block;  // keys in a block
  Divider by_block;
  const std::int64_t* block_offsets;  // [sequences + 1], on the device: run_offsets of the keys
  int num_blocks;                     // of all sequences
  int top_k, slots;
  int gate;  // of ATTNSPEC_GATE_
};

/// selection [query tokens, H, slots] of the tokens. scores: room for [tokens, H, stride], as many blocks as any
/// sequence has.
template <class T>
void select_blocks(const Problem&, const BlockSelectionRule&, const Tokens&, Rows<const T> q, Rows<const T> k,
                   const Scores& scores, Rows<std::int32_t> selection, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
