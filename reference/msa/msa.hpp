// MSA: MiniMax sparse attention (MiniMax, "MiniMax Sparse Attention", 2026). A small index branch scores keys, a block
// is worth its best key, and the operator `selected` attends to the blocks that win.
//
// Letters: qi, ki queries and keys of the index branch, di their features; B block size, K top_k, b block; g kv head,
// j position of a key, t position of the query, c = floor(t / B) its own block.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/attention.hpp"
#include "reference/problem.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// MiniMax sparse attention. Every kv head has one index head; all index heads share one index key per token.
struct MsaProblem {
  AttentionProblem attention;         // causal
  std::int64_t index_features = 128;  // features of index queries and index keys di
  std::int64_t block = 128;           // tokens in a key block B; the last block of a sequence may be short
  std::int64_t top_k = 16;            // blocks per query K, the query's own block included
};

/// Throws InvalidProblem as for AttentionProblem, and for: not causal; index_features, block or top_k below 1.
void validate(const MsaProblem& problem);

/// s_j = <qi, ki_j>: no ReLU, no weights, no scale. Paper, index branch. Equation Y1.
///
/// qi [di] of one kv head; ki [n, di], the keys 0 .. t of the query's sequence; result [n]. n = 0: no scores.
Vector index_scores(const Row& qi, const Rows& ki);

/// S_b = max of s_j over the keys of block b that are there, so that the query's own block ends at t. Paper,
/// index branch. Equation Y2.
///
/// scores [n], of the keys 0 .. t; block in tokens; result [ceil(n / B)]. n = 0: no blocks.
Vector block_maxima(const Vector& scores, std::int64_t block);

/// I(t): the query's own block c and the min(K - 1, c) past blocks with the largest S_b. Paper, block
/// selection (K counts the own block). Equation Y3.
///
/// maxima [c + 1]; that of the own block is not read. Result ascending. Ties: the higher maximum first, then the lower
/// index. c < K: all blocks. No blocks: empty.
std::vector<std::int32_t> select_blocks(const MsaProblem& problem, const Vector& maxima);

/// Slots per row in an MSA selection: top_k, but no more than the longest sequence has blocks, and at least 1.
std::int64_t selection_slots(const MsaProblem& problem);

/// Y1 to Y3 for every token and kv head: selection [query tokens, Hkv, selection_slots], ascending, then -1. Not
/// differentiated. Equation Y4.
///
/// qi [query tokens, Hkv, di]; ki [key tokens, 1, di]. t < 0: empty.
Selection msa_select(const MsaProblem& problem, const Tensor& qi, const Tensor& ki);

}  // namespace attnspec::reference
