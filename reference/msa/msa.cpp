#include "reference/msa/msa.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <utility>

namespace attnspec::reference {

void validate(const MsaProblem& problem) {
  validate(problem.attention);
  if (!problem.attention.causal) throw InvalidProblem("causal", "0", "MSA is causal");
  for (const auto& [field, value] : {std::pair("index_features", problem.index_features),
                                     std::pair("block", problem.block), std::pair("top_k", problem.top_k)})
    if (value < 1) throw InvalidProblem(field, std::to_string(value), "must be at least 1");
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
  std::vector<std::int32_t> selected(static_cast<std::size_t>(own));
  std::iota(selected.begin(), selected.end(), 0);
  std::stable_sort(selected.begin(), selected.end(),
                   [&](std::int32_t a, std::int32_t b) { return maxima[a] > maxima[b]; });
  selected.resize(static_cast<std::size_t>(std::min(problem.top_k - 1, own)));
  std::sort(selected.begin(), selected.end());
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
