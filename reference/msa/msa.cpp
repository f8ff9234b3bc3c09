#include "reference/msa/msa.hpp"

#include <algorithm>

#include "reference/top_k.hpp"

namespace attnspec::reference {

void validate(const MsaProblem& problem) {
  validate(problem.attention);
  if (!problem.attention.causal) throw InvalidProblem("causal", "0", "MSA is causal");
  require_at_least_one("index_features", problem.index_features);
  require_at_least_one("block", problem.block);
  require_at_least_one("top_k", problem.top_k);
}

Vector index_scores(const Row& qi, const Rows& ki) { return ki * qi; }

Vector block_maxima(const Vector& scores, std::int64_t block) {
  Vector maxima(num_blocks(scores.size(), block));
  for (std::int64_t b = 0; b < maxima.size(); ++b)
    maxima[b] = scores.segment(b * block, std::min(block, scores.size() - b * block)).maxCoeff();
  return maxima;
}

std::vector<std::int32_t> select_blocks(const MsaProblem& problem, const Vector& maxima) {
  if (maxima.size() == 0) return {};
  const std::int64_t own = maxima.size() - 1;
  std::vector<std::int32_t> selected = select_top_k(maxima, own, std::min(problem.top_k - 1, own));
  selected.push_back(static_cast<std::int32_t>(own));
  return selected;
}

std::int64_t selection_slots(const MsaProblem& problem) {
  return std::min(problem.top_k, max_blocks(problem.attention, problem.block));
}

Selection msa_select(const MsaProblem& problem, const Tensor& qi, const Tensor& ki) {
  AttentionProblem groups = problem.attention;
  groups.heads = groups.kv_heads;
  Selection selection(qi.tokens, groups.kv_heads, selection_slots(problem));
  for_each_query(groups, [&](const Sequence& sequence, std::int64_t token, std::int64_t g) {
    const std::int64_t visible = std::max<std::int64_t>(0, sequence.position(token) + 1);
    const Rows keys = ki.rows(sequence.k_begin, sequence.k_begin + visible, 0);
    const auto blocks = select_blocks(problem, block_maxima(index_scores(qi.row(token, g), keys), problem.block));
    std::copy(blocks.begin(), blocks.end(), selection.row(token, g).begin());
  });
  return selection;
}

}  // namespace attnspec::reference
