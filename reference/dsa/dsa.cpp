#include "reference/dsa/dsa.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <utility>

namespace attnspec::reference {

void validate(const DsaProblem& problem) {
  validate(problem.attention);
  if (!problem.attention.causal) throw InvalidProblem("causal", "0", "DSA is causal");
  for (const auto& [field, value] :
       {std::pair("index_heads", problem.index_heads), std::pair("index_features", problem.index_features),
        std::pair("top_k", problem.top_k)})
    if (value < 1) throw InvalidProblem(field, std::to_string(value), "must be at least 1");
}

Matrix index_queries(const Tensor& qi, std::int64_t token) {
  Matrix queries(qi.heads, qi.dim);
  for (std::int64_t h = 0; h < qi.heads; ++h) queries.row(h) = qi.row(token, h);
  return queries;
}

Vector index_scores(const Matrix& qi, const Row& w, const Rows& ki) { return (ki * qi.transpose()).cwiseMax(0.0) * w; }

std::vector<std::int32_t> select_tokens(const DsaProblem& problem, const Vector& scores) {
  std::vector<std::int32_t> selected(static_cast<std::size_t>(scores.size()));
  std::iota(selected.begin(), selected.end(), 0);
  std::stable_sort(selected.begin(), selected.end(),
                   [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
  selected.resize(static_cast<std::size_t>(std::min(problem.top_k, scores.size())));
  std::sort(selected.begin(), selected.end());
  return selected;
}

std::int64_t selection_slots(const DsaProblem& problem) {
  return std::min(problem.top_k, max_blocks(problem.attention, 1));
}

Selection dsa_select(const DsaProblem& problem, const Tensor& qi, const Tensor& w, const Tensor& ki) {
  AttentionProblem tokens = problem.attention;
  tokens.heads = tokens.kv_heads = 1;
  Selection selection(qi.tokens, problem.attention.kv_heads, selection_slots(problem));
  for_each_query(tokens, [&](const Sequence& sequence, std::int64_t token, std::int64_t) {
    const std::int64_t visible = std::max<std::int64_t>(0, sequence.position(token) + 1);
    const Rows keys = ki.rows(sequence.k_begin, sequence.k_begin + visible, 0);
    const auto selected = select_tokens(problem, index_scores(index_queries(qi, token), w.row(token, 0), keys));
    for (std::int64_t g = 0; g < selection.heads; ++g)
      std::copy(selected.begin(), selected.end(), selection.row(token, g).begin());
  });
  return selection;
}

}  // namespace attnspec::reference
