// Which of a query's blocks NSA forces, how many their importance selects, and what that is.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#include "cuda/query_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

/// The blocks of a query, with its own. Importance selects `wanted` of [initial_blocks, end), beside the forced ones.
struct Candidates {
  int blocks, end, forced, wanted;
};

__device__ __forceinline__ Candidates candidates_of(const ImportanceRule& rule, std::int64_t visible_tokens) {
  const int blocks = visible_tokens > 0 ? rule.by_block.of(static_cast<int>(visible_tokens - 1)) + 1 : 0;
  const int end = blocks - rule.local_blocks;
  const int forced = end > rule.initial_blocks ? rule.initial_blocks + rule.local_blocks : blocks;
  return {blocks, end, forced, (rule.top_n < blocks ? rule.top_n : blocks) - forced};
}

/// The forced block in a slot, of as many as there are: the first of the sequence, then the last.
__device__ __forceinline__ int forced_block(const ImportanceRule& rule, const Candidates& candidates, int slot) {
  return slot < rule.initial_blocks ? slot : candidates.blocks - candidates.forced + slot;
}

/// The sum over the compressed rows [begin, end) that overlap a block, in order, of weight_of(row) times the strides in
/// both.
template <class WeightOf>
__device__ __forceinline__ float importance(const ImportanceRule& rule, int block, int begin, int end,
                                            const WeightOf& weight_of) {
  const int block_begin = block * rule.rows, block_end = block_begin + rule.rows, strides = rule.strides;
  const int first = block_begin - strides + 1 > begin ? block_begin - strides + 1 : begin;
  const int last = block_end < end ? block_end : end;
  const float most = static_cast<float>(strides < rule.rows ? strides : rule.rows);
  float from_begin = static_cast<float>(first + strides - block_begin), to_end = static_cast<float>(block_end - first);
  float sum = 0;
  for (int i = first; i < last; ++i, from_begin += 1, to_end -= 1)
    sum += fminf(fminf(from_begin, to_end), most) * weight_of(i);
  return sum;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
