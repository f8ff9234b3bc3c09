// The second oracle of MSA: the paper's rules as scalar loops, to test the reference. Like oracle.hpp, whose numbers
// and lists it uses, it shares nothing with reference/ but the sizes and parameters of a problem.
//
// Letters as in oracle.hpp, and: qi, ki queries and keys of the index branch, S_b what block b is worth.
//
// A maximum errs by no more than the largest error among its arguments, so that its terms are the largest terms.
#pragma once

#include "reference/msa/msa.hpp"
#include "reference/selftest/oracle.hpp"

namespace attnspec::oracle {

using reference::MsaProblem;

/// S_b = max over the keys j <= t of block b of <qi, ki_j>, for the blocks 0 .. c: their keys are visited one by one,
/// and a block begins with every B-th key.
///
/// qi [query tokens, Hkv, di]; ki [key tokens, 1, di]. t < 0: none.
template <class T>
std::vector<Sum<T>> msa_block_scores(const MsaProblem& problem, const Tensor<T>& qi, const Tensor<T>& ki,
                                     std::int64_t token, std::int64_t g) {
  const Place place = locate(problem.attention, token);
  std::vector<Sum<T>> scores;
  for (std::int64_t j = 0; j <= place.t; ++j) {
    Sum<T> score;
    for (std::int64_t d = 0; d < qi.dim; ++d) score += Sum<T>(qi(token, g, d)) * ki(place.first_key + j, 0, d);
    if (j % problem.block == 0) {
      scores.push_back(score);
      continue;
    }
    Sum<T>& best = scores.back();
    const long double terms = std::max(best.terms, score.terms);
    if (real_part(score.value) > real_part(best.value)) best = score;
    best.terms = terms;
  }
  return scores;
}

/// I(t), ascending: the last of the blocks that begin at t or before, and the K - 1 best of the others. K counts the
/// own block. t < 0: empty.
template <class T>
std::vector<std::int64_t> msa_blocks_of(const MsaProblem& problem, const std::vector<Sum<T>>& scores) {
  if (scores.empty()) return {};
  const auto own = static_cast<std::int64_t>(scores.size()) - 1;
  std::vector<std::int64_t> blocks = best_blocks(scores, own, problem.top_k - 1);
  blocks.push_back(own);
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

/// The blocks of every token and kv head under MSA.
template <class T>
Lists msa_blocks(const MsaProblem& problem, const Tensor<T>& qi, const Tensor<T>& ki) {
  Lists blocks(qi.tokens, qi.heads);
  for (std::int64_t token = 0; token < qi.tokens; ++token)
    for (std::int64_t g = 0; g < qi.heads; ++g)
      blocks.row(token, g) = msa_blocks_of(problem, msa_block_scores(problem, qi, ki, token, g));
  return blocks;
}

}  // namespace attnspec::oracle
