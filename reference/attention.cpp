#include "reference/attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "reference/softmax.hpp"

namespace attnspec::reference {

namespace {

std::int64_t count(std::span<const KeyRange> visible) {
  std::int64_t keys = 0;
  for (const KeyRange& range : visible) keys += range.end - range.begin;
  return keys;
}

}  // namespace

std::vector<Sequence> sequences(const AttentionProblem& problem) {
  std::vector<Sequence> result;
  for (std::size_t s = 0; s + 1 < problem.q_offsets.size(); ++s)
    result.push_back({static_cast<std::int64_t>(s), problem.q_offsets[s], problem.q_offsets[s + 1],
                      problem.k_offsets[s], problem.k_offsets[s + 1]});
  return result;
}

std::int64_t kv_head(const AttentionProblem& problem, std::int64_t head) {
  return head / (problem.heads / problem.kv_heads);
}

std::int64_t num_blocks(std::int64_t num_keys, std::int64_t block) {
  return num_keys / block + (num_keys % block != 0 ? 1 : 0);
}

std::int64_t max_blocks(const AttentionProblem& problem, std::int64_t block) {
  std::int64_t most = 1;
  for (const Sequence& sequence : sequences(problem)) most = std::max(most, num_blocks(sequence.num_keys(), block));
  return most;
}

void for_each_query(const AttentionProblem& problem,
                    const std::function<void(const Sequence&, std::int64_t, std::int64_t)>& visit) {
  for (const Sequence& sequence : sequences(problem)) {
    const std::int64_t rows = sequence.num_queries() * problem.heads;
#pragma omp parallel for schedule(dynamic, 16)
    for (std::int64_t row = 0; row < rows; ++row)  // one head's queries together, so that they share its keys
      visit(sequence, sequence.q_begin + row % sequence.num_queries(), row / sequence.num_queries());
  }
}

KeyRange causal_reach(std::int64_t t, std::int64_t num_keys, bool causal) { return {0, causal ? t + 1 : num_keys}; }

std::vector<KeyRange> visible_keys(std::span<const std::int32_t> blocks, KeyRange reach, std::int64_t num_keys,
                                   std::int64_t block) {
  std::vector<KeyRange> visible;
  for (const std::int64_t b : blocks) {
    if (b < 0 || b >= num_blocks(num_keys, block)) continue;
    const std::int64_t block_begin = b * block;
    const std::int64_t block_end = num_keys - block_begin < block ? num_keys : block_begin + block;
    const std::int64_t begin = std::max(block_begin, reach.begin), end = std::min(block_end, reach.end);
    if (begin < end) visible.push_back({begin, end});
  }
  return visible;
}

Vector products(const Row& x, const Rows& rows, std::span<const KeyRange> visible) {
  Vector result(count(visible));
  std::int64_t n = 0;
  for (const auto& [begin, end] : visible) {
    result.segment(n, end - begin).noalias() = rows.middleRows(begin, end - begin) * x;
    n += end - begin;
  }
  return result;
}

Vector combination(const Vector& weights, const Rows& rows, std::span<const KeyRange> visible) {
  Vector result = Vector::Zero(rows.cols());
  std::int64_t n = 0;
  for (const auto& [begin, end] : visible) {
    result.noalias() += rows.middleRows(begin, end - begin).transpose() * weights.segment(n, end - begin);
    n += end - begin;
  }
  return result;
}

AttendedRow attend(const QkvRows& in, std::span<const KeyRange> visible, double scale) {
  Vector scores = scale * products(in.q, in.k, visible);
  Softmax probabilities = softmax(scores);
  Vector o = combination(probabilities.weights, in.v, visible);
  return {std::move(scores), std::move(probabilities.weights), std::move(o), probabilities.lse};
}

RowGradient attend_backward(const QkvRows& in, std::span<const KeyRange> visible, double scale, const Row& d_o,
                            const Row& o, double lse) {
  RowGradient row;
  row.scores = scale * products(in.q, in.k, visible);
  row.weights = lse == -std::numeric_limits<double>::infinity() ? Vector::Zero(row.scores.size())
                                                                : Vector((row.scores.array() - lse).exp());
  row.d_weights = products(d_o, in.v, visible);
  set_delta(d_o.dot(o), row);
  return row;
}

void set_delta(double delta, RowGradient& row) {
  row.delta = delta;
  row.d_scores = row.weights.array() * (row.d_weights.array() - delta);
}

Vector query_gradient(const RowGradient& row, const Rows& k, std::span<const KeyRange> visible, double scale) {
  return scale * combination(row.d_scores, k, visible);
}

void add_key_gradient(const RowGradient& row, std::span<const KeyRange> visible, const Row& q, const Row& d_o,
                      double scale, KeyGradient& sum) {
  std::int64_t n = 0;
  for (const auto& [begin, end] : visible) {
    const std::int64_t keys = end - begin;
    sum.dv.middleRows(begin, keys).noalias() += row.weights.segment(n, keys) * d_o.transpose();
    sum.dk.middleRows(begin, keys).noalias() += (scale * row.d_scores.segment(n, keys)) * q.transpose();
    n += keys;
  }
}

}  // namespace attnspec::reference
