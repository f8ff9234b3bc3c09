#include "verify/judge/selections.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "reference/noise/operands.hpp"

namespace attnspec::verify {

using namespace reference;

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
  return [&, pooled, exact](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const auto& [means, noise] =
        (*pooled)[static_cast<std::size_t>(sequence.index * attention.kv_heads + kv_head(attention, head))];
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
  return [&, weighed](const Sequence& sequence, std::int64_t token, std::int64_t g) {
    const KeyValues& keys = weighed->keys[static_cast<std::size_t>(sequence.index * attention.kv_heads + g)];
    const std::int64_t t = sequence.position(token);
    const NsaProblem& scaled = weighed->problem;
    const Matrix queries = group_queries(scaled, *weighed->operands.q, token, g);
    const Vector importance = reference::importance(scaled, queries, keys.k, t).importance;
    return importance_rule(problem, t, importance,
                           importance_margins(arithmetic, scaled, queries, keys, t, importance));
  };
}

std::vector<QueryRow> judge_selection(const AttentionProblem& problem, std::int64_t block, const RuleOfRow& rule,
                                      const JudgedRows& rows, Selection& exported, const RowObserver& observe,
                                      CaseResult& result) {
  Tally tally(observe, "selection", "selection");
  tally.sample(rows);
  std::vector<QueryRow> emptied;
  AttentionProblem every = problem;
  every.heads = exported.heads;
  for_each_query(every, [&](const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const Place place{sequence.index, token - sequence.q_begin, head};
    const auto row = exported.row(token, head);
    std::optional<double> clearance;
    std::string wrong = malformed(row, num_blocks(sequence.num_keys(), block));
    if (!wrong.empty()) {
      std::fill(row.begin(), row.end(), -1);
#pragma omp critical(attnspec_emptied)
      emptied.push_back({token, head});
    } else if (rows.contains(place)) {
      const SelectionRule of_row = rule(sequence, token, head);
      wrong = inadmissible(of_row, row);
      if (wrong.empty()) clearance = clearance_of(of_row, row);
    } else {
      return;
    }
    tally.add_selection(place, row, wrong, clearance);
  });
  tally.finish(result);
  return emptied;
}

}  // namespace attnspec::verify
