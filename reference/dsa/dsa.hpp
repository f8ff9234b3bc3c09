// DSA: DeepSeek sparse attention (DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2.1). A lightning indexer scores every
// visible token with a few light heads, and the operator `selected`, with blocks of one token, attends to the best.
//
// Letters: qi, ki queries and keys of the indexer, w weights of its heads, di features, Hi index heads; K top_k; j
// position of a key, t position of the query; I_j score of a token, S(t) the tokens selected.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/attention.hpp"
#include "reference/problem.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// DeepSeek sparse attention. All index heads share one index key per token.
struct DsaProblem {
  AttentionProblem attention;         // causal
  std::int64_t index_heads = 64;      // Hi
  std::int64_t index_features = 128;  // features of index queries and index keys di
  std::int64_t top_k = 2048;          // tokens per query K
};

/// Throws InvalidProblem as for AttentionProblem, and for: not causal; index_heads, index_features or top_k below 1.
void validate(const DsaProblem& problem);

/// The index queries of all index heads at one token, [Hi, di].
Matrix index_queries(const Tensor& qi, std::int64_t token);

/// I_j = sum_h w_h ReLU(<qi_h, ki_j>): no scale. Report eq. 1. Equation V1.
///
/// qi [Hi, di]; w [Hi], of any sign; ki [n, di], the keys 0 .. t of the query's sequence; result [n]. n = 0: no scores.
Vector index_scores(const Matrix& qi, const Row& w, const Rows& ki);

/// S(t): the min(K, t + 1) tokens of 0 .. t with the largest I_j. No token is forced, not even t itself. Report eq. 2.
/// Equation V2.
///
/// scores [t + 1]; result ascending. Ties: the higher score first, then the lower index. No scores: empty.
std::vector<std::int32_t> select_tokens(const DsaProblem& problem, const Vector& scores);

/// Slots per row in a DSA selection: top_k, but no more than the longest sequence has keys, and at least 1.
std::int64_t selection_slots(const DsaProblem& problem);

/// V1 and V2 for every token: selection [query tokens, 1, selection_slots] of blocks of one token, ascending, then -1.
/// All heads of the attention that follows read the same row. Not differentiated. Equation V3.
///
/// qi [query tokens, Hi, di]; w [query tokens, 1, Hi]; ki [key tokens, 1, di]. t < 0: empty.
Selection dsa_select(const DsaProblem& problem, const Tensor& qi, const Tensor& w, const Tensor& ki);

}  // namespace attnspec::reference
