#include "reference/moba/moba.hpp"

#include <algorithm>
#include <numeric>

namespace attnspec::reference {

Matrix pool_keys(const Rows& k, std::int64_t block) {
  Matrix pooled(num_blocks(k.rows(), block), k.cols());
  for (std::int64_t b = 0; b < pooled.rows(); ++b)
    pooled.row(b) = k.middleRows(b * block, std::min(block, k.rows() - b * block)).colwise().mean();
  return pooled;
}

Vector gate_scores(const Row& q, const Rows& pooled) { return pooled * q; }

std::vector<std::int32_t> select_window(std::int64_t past, std::int64_t wanted) {
  std::vector<std::int32_t> selected(static_cast<std::size_t>(wanted));
  std::iota(selected.begin(), selected.end(), static_cast<std::int32_t>(past - wanted));
  return selected;
}

std::vector<std::int32_t> select_sink(std::int64_t past, std::int64_t wanted) {
  std::vector<std::int32_t> selected = select_window(past, wanted);
  if (wanted > 0) selected.front() = 0;
  return selected;
}

namespace {

std::vector<std::int32_t> select_by_gate(Gate gate, const Vector& scores, std::int64_t past, std::int64_t wanted) {
  if (gate == Gate::window) return select_window(past, wanted);
  if (gate == Gate::sink) return select_sink(past, wanted);
  return select_top_k(scores, past, wanted);
}

}  // namespace

std::vector<std::int32_t> select_blocks(const MobaProblem& problem, const Vector& scores, std::int64_t t,
                                        std::int64_t num_blocks) {
  const bool causal = problem.attention.causal;
  if (num_blocks == 0 || (causal && t < 0)) return {};
  const std::int64_t own = causal ? t / problem.block : num_blocks;  // without causality no block is the query's own
  const std::int64_t wanted = std::min(causal ? problem.top_k - 1 : problem.top_k, own);
  std::vector<std::int32_t> selected = select_by_gate(problem.gate, scores, own, wanted);
  if (causal) selected.push_back(static_cast<std::int32_t>(own));
  return selected;
}

std::int64_t selection_slots(const MobaProblem& problem) {
  return std::min(problem.top_k, max_blocks(problem.attention, problem.block));
}

Selection moba_select(const MobaProblem& problem, const Tensor& q, const Tensor& k) {
  const AttentionProblem& attention = problem.attention;
  std::vector<Matrix> pooled;  // of (sequence, kv head)
  for (const Sequence& sequence : sequences(attention))
    for (std::int64_t g = 0; g < attention.kv_heads; ++g)
      pooled.push_back(pool_keys(k.rows(sequence.k_begin, sequence.k_end, g), problem.block));
  Selection selection(q.tokens, attention.heads, selection_slots(problem));
  for_each_query(attention, [&](const Sequence& sequence, std::int64_t token, std::int64_t h) {
    const Matrix& means = pooled[static_cast<std::size_t>(sequence.index * attention.kv_heads + kv_head(attention, h))];
    const std::int64_t t = sequence.position(token);
    const std::int64_t candidates = !attention.causal ? means.rows() : t < 0 ? 0 : t / problem.block;
    const Rows past(means.data(), candidates, means.cols());
    const auto blocks = select_blocks(problem, gate_scores(q.row(token, h), past), t, means.rows());
    std::copy(blocks.begin(), blocks.end(), selection.row(token, h).begin());
  });
  return selection;
}

MobaOutputs moba(const MobaProblem& problem, const Qkv& in) {
  Selection selection = moba_select(problem, in.q, in.k);
  AttentionOutputs attention = selected(problem.attention, problem.block, in, selection);
  return {std::move(selection), std::move(attention)};
}

}  // namespace attnspec::reference
