// QSA: the sparse attention of Qwen3.8-Flash-Next (Qwen team, 2026; published as code, transformers' qwen4_exp). An
// indexer scores the complete blocks of a few tokens, and the operator `selected` attends to the best of them and to
// the tokens behind the last complete one.
//
// Letters: qi queries of the indexer, kbar its keys, one for each complete block; di features, Hi index heads; r tokens
// of a block, K top_k; b block, t position of the query, n(t) complete blocks visible to it; S_b score of a block.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/attention.hpp"
#include "reference/problem.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// QSA. All index heads share one index key per complete block.
struct QsaProblem {
  AttentionProblem attention;         // causal
  std::int64_t index_heads = 4;       // Hi
  std::int64_t index_features = 128;  // features of index queries and index keys di
  std::int64_t block = 4;             // tokens in a block r
  std::int64_t top_k = 512;           // complete blocks per query K; the incomplete one is beside them
};

/// Throws InvalidProblem as for AttentionProblem, and for: not causal; index_heads, index_features, block or top_k
/// below 1.
void validate(const QsaProblem& problem);

/// floor(tokens / r), 0 where tokens < 0: with tokens = t + 1 the blocks n(t) whose last token is at t or before; with
/// tokens = T those of a sequence. Equation Q1.
std::int64_t num_complete_blocks(const QsaProblem& problem, std::int64_t tokens);

/// The first row of kbar of every sequence, and behind them the number of rows: [num_sequences + 1].
std::vector<std::int64_t> index_key_offsets(const QsaProblem& problem);

/// S_b = sum_h ReLU(<qi_h, kbar_b>): no weights, no scale. It is V1 with all weights 1. Equation Q2.
///
/// qi [Hi, di]; kbar [n, di], the complete blocks visible to the query; result [n]. n = 0: no scores.
Vector block_scores(const Matrix& qi, const Rows& kbar);

/// I(t): the min(K, n) complete blocks with the largest S_b, and block n if t lies in it, that is where t + 1 is no
/// multiple of r. At t + 1 = n r the query's own block is complete: it competes, and may lose. Equation Q3.
///
/// scores [n(t)]; t in tokens; result ascending. Ties: the higher score first, then the lower index. n = 0: block 0
/// alone. t < 0: empty.
std::vector<std::int32_t> select_blocks(const QsaProblem& problem, const Vector& scores, std::int64_t t);

/// Slots per row in a QSA selection: top_k + 1, but no more than the longest sequence has blocks, the incomplete one
/// included, and at least 1.
std::int64_t selection_slots(const QsaProblem& problem);

/// Q1 to Q3 for every token: selection [query tokens, 1, selection_slots] of blocks of r tokens, ascending, then -1.
/// All heads of the attention that follows read the same row. Not differentiated. Equation Q4.
///
/// qi [query tokens, Hi, di]; kbar [complete blocks of all sequences, 1, di].
Selection qsa_select(const QsaProblem& problem, const Tensor& qi, const Tensor& kbar);

}  // namespace attnspec::reference
