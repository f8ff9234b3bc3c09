#include "verify/operators/selection_rule.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "reference/moba/moba.hpp"
#include "reference/noise/gate_noise.hpp"
#include "reference/noise/importance_noise.hpp"
#include "reference/noise/operands.hpp"

namespace attnspec::verify {

using namespace reference;

SelectionRule rule_of(std::int64_t wanted, Blocks forced, const Vector& scores, const Vector& margins) {
  return {scores.size(),
          std::min<std::int64_t>(wanted, scores.size()),
          std::move(forced),
          {scores.begin(), scores.end()},
          {margins.begin(), margins.end()}};
}

namespace {

/// The n-th largest, from 1; minus infinity where there are fewer.
double nth_largest(std::vector<double> values, std::int64_t n) {
  if (n > std::ssize(values)) return -std::numeric_limits<double>::infinity();
  const auto nth = values.begin() + (n - 1);
  std::nth_element(values.begin(), nth, values.end(), std::greater<>());
  return *nth;
}

}  // namespace

SelectionRule rule_of(std::int64_t wanted, Blocks forced, const Vector& scores, const Vector& bounds,
                      const MarginsOf& margins_of) {
  SelectionRule rule = rule_of(wanted, std::move(forced), scores, bounds);
  std::vector<bool> is_forced(rule.scores.size());
  for (const std::int32_t b : rule.forced) is_forced[static_cast<std::size_t>(b)] = true;
  std::vector<double> low, high;
  for (Eigen::Index b = 0; b < scores.size(); ++b) {
    if (is_forced[static_cast<std::size_t>(b)]) continue;
    low.push_back(scores[b] - bounds[b]);
    high.push_back(scores[b] + bounds[b]);
  }
  const std::int64_t places = rule.wanted - std::ssize(rule.forced);
  if (places <= 0 || places >= std::ssize(low)) return rule;
  const double last_in = nth_largest(low, places), first_out = nth_largest(high, places + 1);
  std::vector<Eigen::Index> candidates;
  for (Eigen::Index b = 0; b < scores.size(); ++b)
    if (!is_forced[static_cast<std::size_t>(b)] && scores[b] + bounds[b] >= last_in &&
        scores[b] - bounds[b] <= first_out)
      candidates.push_back(b);
  const Vector margins = margins_of(candidates);
  for (std::size_t i = 0; i < candidates.size(); ++i)
    rule.margins[static_cast<std::size_t>(candidates[i])] = margins[static_cast<Eigen::Index>(i)];
  return rule;
}

SelectionRule selection_rule(const MobaProblem& problem, std::int64_t t, std::int64_t num_keys, const Vector& scores,
                             const Vector& margins) {
  SelectionRule rule;
  const bool causal = problem.attention.causal;
  if (num_keys == 0 || (causal && t < 0)) return rule;
  rule.num_blocks = causal ? t / problem.block + 1 : num_blocks(num_keys, problem.block);
  rule.wanted = std::min(problem.top_k, rule.num_blocks);
  if (problem.gate != Gate::top_k) {
    rule.forced = select_blocks(problem, scores, t, num_blocks(num_keys, problem.block));
  } else if (causal) {
    rule.forced = {static_cast<std::int32_t>(rule.num_blocks - 1)};
  }
  rule.scores.assign(static_cast<std::size_t>(rule.num_blocks), 0);
  rule.margins.assign(static_cast<std::size_t>(rule.num_blocks), 0);
  const auto scored = std::min<std::int64_t>(rule.num_blocks, scores.size());
  std::copy_n(scores.data(), scored, rule.scores.begin());
  std::copy_n(margins.data(), scored, rule.margins.begin());
  return rule;
}

SelectionRule importance_rule(const NsaProblem& problem, std::int64_t t, const Vector& importance,
                              const Vector& margins) {
  Blocks forced;
  for (std::int64_t j = 0; j < importance.size(); ++j)
    if (is_forced(problem, j, t / problem.block)) forced.push_back(static_cast<std::int32_t>(j));
  return rule_of(problem.top_n, std::move(forced), importance, margins);
}

RuleOfRow moba_rule(const Arithmetic& arithmetic, const MobaProblem& problem, const Tensor& q, const Tensor& k,
                    bool exact) {
  struct Pooled {
    Matrix means;
    PoolNoise noise;
  };
  const AttentionProblem& attention = problem.attention;
  const std::vector<Sequence> all = sequences(attention);
  auto pooled = std::make_shared<std::vector<Pooled>>(
      all.size() * static_cast<std::size_t>(attention.kv_heads));  // [sequences * Hkv]
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < pooled->size(); ++i) {
    const Sequence& sequence = all[i / static_cast<std::size_t>(attention.kv_heads)];
    const Rows keys = k.rows(sequence.k_begin, sequence.k_end, static_cast<std::int64_t>(i) % attention.kv_heads);
    auto& [means, noise] = (*pooled)[i];
    means = pool_keys(keys, problem.block);
    noise = pool_noise(keys, means, problem.block);
  }
  return [&q, arithmetic, problem, pooled, exact](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const std::int64_t g = kv_head(problem.attention, head);
    const auto& [means, noise] = (*pooled)[static_cast<std::size_t>(sequence.index * problem.attention.kv_heads + g)];
    const Vector scores = gate_scores(q.row(token, head), view(means));
    const Vector margins = exact ? Vector(Vector::Zero(scores.size()))
                                 : score_margins(arithmetic, q.row(token, head), means, noise, scores);
    return selection_rule(problem, sequence.position(token), sequence.num_keys(), scores, margins);
  };
}

RuleOfRow nsa_rule(const Arithmetic& arithmetic, const NsaProblem& problem, const Tensor& q, const Tensor& k) {
  struct Weighed {
    ScoreOperands operands;
    NsaProblem problem;            // with the scale of the operands
    std::vector<Matrix> overlaps;  // [sequences]
    std::vector<KeyValues> keys;   // [sequences * Hkv], whose values are the overlaps
  };
  const AttentionProblem& attention = problem.attention;
  const std::vector<std::int64_t> offsets = compressed_offsets(problem);
  auto weighed =
      std::make_shared<Weighed>(Weighed{forward_operands(arithmetic, attention.scale, q, k), problem, {}, {}});
  weighed->problem.attention.scale = weighed->operands.scale;
  for (const Sequence& sequence : sequences(attention)) {
    const auto s = static_cast<std::size_t>(sequence.index);
    weighed->overlaps.push_back(
        overlap_weights(problem, offsets[s + 1] - offsets[s], num_blocks(sequence.num_keys(), problem.block)));
  }
  for (const Sequence& sequence : sequences(attention)) {
    const auto s = static_cast<std::size_t>(sequence.index);
    for (std::int64_t g = 0; g < attention.kv_heads; ++g)
      weighed->keys.emplace_back(weighed->operands.k->rows(offsets[s], offsets[s + 1], g), view(weighed->overlaps[s]));
  }
  return [arithmetic, problem, weighed](const Sequence& sequence, std::int64_t token, std::int64_t g) {
    const KeyValues& keys = weighed->keys[static_cast<std::size_t>(sequence.index * problem.attention.kv_heads + g)];
    const std::int64_t t = sequence.position(token);
    const NsaProblem& scaled = weighed->problem;
    const Matrix queries = group_queries(scaled, *weighed->operands.q, token, g);
    const Vector importance = reference::importance(scaled, queries, keys.k, t).importance;
    return importance_rule(problem, t, importance,
                           importance_margins(arithmetic, scaled, queries, keys, t, importance));
  };
}

}  // namespace attnspec::verify
