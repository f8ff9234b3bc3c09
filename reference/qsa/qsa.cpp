#include "reference/qsa/qsa.hpp"

#include <algorithm>
#include <cstddef>

#include "reference/dsa/dsa.hpp"
#include "reference/top_k.hpp"

namespace attnspec::reference {

void validate(const QsaProblem& problem) {
  validate(problem.attention);
  if (!problem.attention.causal) throw InvalidProblem("causal", "0", "QSA is causal");
  require_at_least_one("index_heads", problem.index_heads);
  require_at_least_one("index_features", problem.index_features);
  require_at_least_one("block", problem.block);
  require_at_least_one("top_k", problem.top_k);
}

std::int64_t num_complete_blocks(const QsaProblem& problem, std::int64_t tokens) {
  return std::max<std::int64_t>(0, tokens) / problem.block;
}

std::vector<std::int64_t> index_key_offsets(const QsaProblem& problem) {
  std::vector<std::int64_t> offsets{0};
  for (const Sequence& sequence : sequences(problem.attention))
    offsets.push_back(offsets.back() + num_complete_blocks(problem, sequence.num_keys()));
  return offsets;
}

Vector block_scores(const Matrix& qi, const Rows& kbar) { return index_scores(qi, Vector::Ones(qi.rows()), kbar); }

std::vector<std::int32_t> select_blocks(const QsaProblem& problem, const Vector& scores, std::int64_t t) {
  if (t < 0) return {};
  std::vector<std::int32_t> selected = select_top_k(scores, scores.size(), std::min(problem.top_k, scores.size()));
  if ((t + 1) % problem.block != 0) selected.push_back(static_cast<std::int32_t>(scores.size()));
  return selected;
}

std::int64_t selection_slots(const QsaProblem& problem) {
  return std::min(problem.top_k, max_blocks(problem.attention, problem.block) - 1) + 1;
}

Selection qsa_select(const QsaProblem& problem, const Tensor& qi, const Tensor& kbar) {
  AttentionProblem tokens = problem.attention;
  tokens.heads = tokens.kv_heads = 1;
  const std::vector<std::int64_t> offsets = index_key_offsets(problem);
  Selection selection(qi.tokens, 1, selection_slots(problem));
  for_each_query(tokens, [&](const Sequence& sequence, std::int64_t token, std::int64_t) {
    const std::int64_t t = sequence.position(token), first = offsets[static_cast<std::size_t>(sequence.index)];
    const Rows keys = kbar.rows(first, first + num_complete_blocks(problem, t + 1), 0);
    const auto blocks = select_blocks(problem, block_scores(index_queries(qi, token), keys), t);
    std::copy(blocks.begin(), blocks.end(), selection.row(token, 0).begin());
  });
  return selection;
}

}  // namespace attnspec::reference
