// The second oracle of DSA: the report's rules as scalar loops, to test the reference. Like oracle.hpp, whose numbers
// and lists it uses, it shares nothing with reference/ but the sizes and parameters of a problem.
//
// Letters as in oracle.hpp, and: qi, ki, w queries, keys and head weights of the indexer, I_j the score of token j.
#pragma once

#include "reference/dsa/dsa.hpp"
#include "reference/selftest/oracle.hpp"

namespace attnspec::oracle {

using reference::DsaProblem;

/// max(0, a). It errs by at most the error of a; and by none where a is negative beyond any error of a double, so that
/// tokens which no head likes tie exactly.
template <class T>
Sum<T> positive_part(const Sum<T>& a) {
  if (real_part(a.value) < -1e-12L * a.terms) return Sum<T>();
  return {real_part(a.value) > 0 ? a.value : T(0), a.terms};
}

/// I_j = sum_h w_h max(0, <qi_h, ki_j>) for the keys j <= t. DeepSeek-V3.2 eq. 1.
///
/// qi [query tokens, Hi, di]; w [query tokens, 1, Hi]; ki [key tokens, 1, di]. t < 0: none.
template <class T>
std::vector<Sum<T>> dsa_token_scores(const DsaProblem& problem, const Tensor<T>& qi, const Tensor<T>& w,
                                     const Tensor<T>& ki, std::int64_t token) {
  const Place place = locate(problem.attention, token);
  std::vector<Sum<T>> scores;
  for (std::int64_t j = 0; j <= place.t; ++j) {
    Sum<T> score;
    for (std::int64_t h = 0; h < qi.heads; ++h)
      score += Sum<T>(w(token, 0, h)) * positive_part(dot<T>(qi, token, h, ki, place.first_key + j, 0));
    scores.push_back(score);
  }
  return scores;
}

/// How many scores are better than that of token j: the higher ones, and of equal ones those of a lower index.
template <class T>
std::int64_t rank(const std::vector<Sum<T>>& scores, std::size_t j) {
  std::int64_t better = 0;
  for (std::size_t other = 0; other < scores.size(); ++other) {
    const long double difference = real_part(scores[other].value) - real_part(scores[j].value);
    better += difference > 0 || (difference == 0 && other < j);
  }
  return better;
}

/// S(t), ascending: the tokens of which fewer than K are better. DeepSeek-V3.2 eq. 2.
template <class T>
std::vector<std::int64_t> dsa_tokens_of(const DsaProblem& problem, const std::vector<Sum<T>>& scores) {
  std::vector<std::int64_t> tokens;
  for (std::size_t j = 0; j < scores.size(); ++j)
    if (rank(scores, j) < problem.top_k) tokens.push_back(static_cast<std::int64_t>(j));
  return tokens;
}

/// The tokens of every query under DSA, counted within its sequence, for all heads.
template <class T>
Lists dsa_tokens(const DsaProblem& problem, const Tensor<T>& qi, const Tensor<T>& w, const Tensor<T>& ki) {
  Lists tokens(qi.tokens, 1);
  for (std::int64_t token = 0; token < qi.tokens; ++token)
    tokens.row(token, 0) = dsa_tokens_of(problem, dsa_token_scores(problem, qi, w, ki, token));
  return tokens;
}

}  // namespace attnspec::oracle
