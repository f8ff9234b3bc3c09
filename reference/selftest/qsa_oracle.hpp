// The second oracle of QSA: the published code's rules as scalar loops, to test the reference. Like oracle.hpp, whose
// numbers and lists it uses, it shares nothing with reference/ but the sizes and parameters of a problem.
//
// Letters as in oracle.hpp, and: qi queries of the indexer, kbar its keys, r tokens of a block. A block is complete for
// a query once the query sees all its tokens.
#pragma once

#include "reference/qsa/qsa.hpp"
#include "reference/selftest/dsa_oracle.hpp"

namespace attnspec::oracle {

using reference::QsaProblem;

/// The complete blocks of the first sequences, counted token by token: every r-th token of a sequence completes one.
inline std::int64_t qsa_rows_before(const QsaProblem& problem, std::size_t num_sequences) {
  std::int64_t rows = 0;
  for (std::size_t s = 0; s < num_sequences; ++s)
    for (std::int64_t j = problem.attention.k_offsets[s], tokens = 1; j < problem.attention.k_offsets[s + 1]; ++j) {
      const bool completes = tokens == problem.block;
      rows += completes;
      tokens = completes ? 1 : tokens + 1;
    }
  return rows;
}

/// S_b = sum_h max(0, <qi_h, kbar_b>) for the blocks whose last token b r + r - 1 is at t or before.
///
/// qi [query tokens, Hi, di]; kbar [complete blocks, 1, di].
template <class T>
std::vector<Sum<T>> qsa_block_scores(const QsaProblem& problem, const Tensor<T>& qi, const Tensor<T>& kbar,
                                     std::int64_t token) {
  std::size_t s = 0;
  while (problem.attention.q_offsets[s + 1] <= token) ++s;
  std::vector<Sum<T>> scores;
  std::int64_t row = qsa_rows_before(problem, s);
  for (std::int64_t last = problem.block - 1; last <= locate(problem.attention, token).t; last += problem.block) {
    Sum<T> score;
    for (std::int64_t h = 0; h < qi.heads; ++h) score += positive_part(dot<T>(qi, token, h, kbar, row, 0));
    scores.push_back(score);
    ++row;
  }
  return scores;
}

/// A(t), ascending: the complete blocks of which fewer than K are better.
template <class T>
std::vector<std::int64_t> qsa_best(const QsaProblem& problem, const std::vector<Sum<T>>& scores) {
  std::vector<std::int64_t> blocks;
  for (std::size_t b = 0; b < scores.size(); ++b)
    if (rank(scores, b) < problem.top_k) blocks.push_back(static_cast<std::int64_t>(b));
  return blocks;
}

/// J(t), ascending, counted within the sequence: the tokens of the best complete blocks, and the tokens up to t that
/// are in no complete block.
template <class T>
std::vector<std::int64_t> qsa_keys_of(const QsaProblem& problem, const std::vector<Sum<T>>& scores, std::int64_t t) {
  std::vector<std::int64_t> keys;
  for (const std::int64_t b : qsa_best(problem, scores))
    for (std::int64_t j = b * problem.block; j < b * problem.block + problem.block; ++j) keys.push_back(j);
  for (std::int64_t j = static_cast<std::int64_t>(scores.size()) * problem.block; j <= t; ++j) keys.push_back(j);
  return keys;
}

}  // namespace attnspec::oracle
