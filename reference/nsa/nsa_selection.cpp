#include "reference/nsa/nsa_selection.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace attnspec::reference {

Softmax compressed_weights(const NsaProblem& problem, const Row& q, const Rows& k, std::int64_t t) {
  return softmax(problem.attention.scale * (k.topRows(num_visible_compressed(problem, t)) * q));
}

double overlap_weight(const NsaProblem& problem, std::int64_t j, std::int64_t i) {
  const std::int64_t begin = std::max(i * problem.compress_stride, j * problem.block);
  const std::int64_t end = std::min(i * problem.compress_stride + problem.compress_block, (j + 1) * problem.block);
  return static_cast<double>(std::max<std::int64_t>(0, end - begin)) / static_cast<double>(problem.compress_stride);
}

namespace {

/// The selection blocks that compression block i overlaps.
struct Overlap {
  std::int64_t first, last;
};

Overlap overlap(const NsaProblem& problem, std::int64_t i) {
  const std::int64_t first = i * problem.compress_stride, last = first + problem.compress_block - 1;
  return {first / problem.block, last / problem.block};
}

}  // namespace

Matrix overlap_weights(const NsaProblem& problem, std::int64_t num_compressed, std::int64_t num_blocks) {
  Matrix weights = Matrix::Zero(num_compressed, num_blocks);
  for (std::int64_t i = 0; i < num_compressed; ++i)
    for (auto [j, last] = overlap(problem, i); j <= last; ++j) weights(i, j) = overlap_weight(problem, j, i);
  return weights;
}

Vector block_weights(const NsaProblem& problem, const Vector& p_cmp, std::int64_t t) {
  Vector p_slc = Vector::Zero(t < 0 ? 0 : t / problem.block + 1);
  for (std::int64_t i = 0; i < p_cmp.size(); ++i)
    for (auto [j, last] = overlap(problem, i); j <= last; ++j) p_slc[j] += overlap_weight(problem, j, i) * p_cmp[i];
  return p_slc;
}

Matrix group_queries(const NsaProblem& problem, const Tensor& q, std::int64_t token, std::int64_t g) {
  const std::int64_t group = problem.attention.heads / problem.attention.kv_heads;
  Matrix queries(group, q.dim);
  for (std::int64_t h = 0; h < group; ++h) queries.row(h) = q.row(token, g * group + h);
  return queries;
}

ImportanceRow importance(const NsaProblem& problem, const Matrix& q, const Rows& k, std::int64_t t) {
  ImportanceRow row;
  row.p_cmp.resize(q.rows(), num_visible_compressed(problem, t));
  row.p_slc.resize(q.rows(), t < 0 ? 0 : t / problem.block + 1);
  for (std::int64_t h = 0; h < q.rows(); ++h) {
    row.p_cmp.row(h) = compressed_weights(problem, q.row(h).transpose(), k, t).weights;
    row.p_slc.row(h) = block_weights(problem, row.p_cmp.row(h).transpose(), t);
  }
  row.importance = row.p_slc.colwise().sum();
  return row;
}

bool is_forced(const NsaProblem& problem, std::int64_t j, std::int64_t c) {
  return j < problem.initial_blocks || (c - problem.local_blocks < j && j <= c);
}

std::vector<std::int32_t> select_blocks(const NsaProblem& problem, const Vector& importance) {
  const std::int64_t blocks = importance.size(), c = blocks - 1;
  std::vector<std::int32_t> selected(static_cast<std::size_t>(blocks));
  std::iota(selected.begin(), selected.end(), 0);
  std::stable_sort(selected.begin(), selected.end(), [&](std::int32_t a, std::int32_t b) {
    if (is_forced(problem, a, c) != is_forced(problem, b, c)) return is_forced(problem, a, c);
    return importance[a] > importance[b];
  });
  selected.resize(static_cast<std::size_t>(std::min(problem.top_n, blocks)));
  std::sort(selected.begin(), selected.end());
  return selected;
}

std::int64_t selection_slots(const NsaProblem& problem) {
  return std::min(problem.top_n, max_blocks(problem.attention, problem.block));
}

Selection nsa_select(const NsaProblem& problem, const Tensor& q, const Tensor& k) {
  AttentionProblem groups = problem.attention;
  groups.heads = groups.kv_heads;
  const std::vector<std::int64_t> offsets = compressed_offsets(problem);
  Selection selection(q.tokens, groups.kv_heads, selection_slots(problem));
  for_each_query(groups, [&](const Sequence& sequence, std::int64_t token, std::int64_t g) {
    const auto s = static_cast<std::size_t>(sequence.index);
    const ImportanceRow row = importance(problem, group_queries(problem, q, token, g),
                                         k.rows(offsets[s], offsets[s + 1], g), sequence.position(token));
    const auto blocks = select_blocks(problem, row.importance);
    std::copy(blocks.begin(), blocks.end(), selection.row(token, g).begin());
  });
  return selection;
}

}  // namespace attnspec::reference
