#include "reference/dsa/dsa.hpp"

#include <algorithm>

#include "reference/top_k.hpp"

namespace attnspec::reference {

void validate(const DsaProblem& problem) {
  validate(problem.attention);
  if (!problem.attention.causal) throw InvalidProblem("causal", "0", "DSA is causal");
  require_at_least_one("index_heads", problem.index_heads);
  require_at_least_one("index_features", problem.index_features);
  require_at_least_one("top_k", problem.top_k);
}

Matrix index_queries(const Tensor& qi, std::int64_t token) {
  Matrix queries(qi.heads, qi.dim);
  for (std::int64_t h = 0; h < qi.heads; ++h) queries.row(h) = qi.row(token, h);
  return queries;
}

Vector index_scores(const Matrix& qi, const Row& w, const Rows& ki) { return (ki * qi.transpose()).cwiseMax(0.0) * w; }

std::vector<std::int32_t> select_tokens(const DsaProblem& problem, const Vector& scores) {
  return select_top_k(scores, scores.size(), std::min(problem.top_k, scores.size()));
}

std::int64_t selection_slots(const DsaProblem& problem) {
  return std::min(problem.top_k, max_blocks(problem.attention, 1));
}

Selection dsa_select(const DsaProblem& problem, const Tensor& qi, const Tensor& w, const Tensor& ki) {
  AttentionProblem tokens = problem.attention;
  tokens.heads = tokens.kv_heads = 1;
  Selection selection(qi.tokens, 1, selection_slots(problem));
  for_each_query(tokens, [&](const Sequence& sequence, std::int64_t token, std::int64_t) {
    const std::int64_t visible = std::max<std::int64_t>(0, sequence.position(token) + 1);
    const Rows keys = ki.rows(sequence.k_begin, sequence.k_begin + visible, 0);
    const auto selected = select_tokens(problem, index_scores(index_queries(qi, token), w.row(token, 0), keys));
    std::copy(selected.begin(), selected.end(), selection.row(token, 0).begin());
  });
  return selection;
}

}  // namespace attnspec::reference
