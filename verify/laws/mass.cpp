#include "verify/laws/mass.hpp"

#include <algorithm>
#include <optional>

#include "reference/attention.hpp"
#include "reference/nsa/nsa_selection.hpp"
#include "verify/judge/selections.hpp"

namespace attnspec::verify {

namespace {

/// Whether every block has a feature.
bool has_features(const Case& c) { return reference::num_blocks(longest(c), c.block) <= c.dv; }

/// The importances of the blocks of a rule as o has them: the sum over the heads of a group.
std::optional<NoisyRow> importances(const JudgedCall& call, const Place& of_group) {
  const std::int64_t group = call.c.heads / call.c.kv_heads;
  const auto& rows = call.rows("o");
  NoisyRow sum;
  for (std::int64_t head = of_group.head * group; head < (of_group.head + 1) * group; ++head) {
    const auto found = rows.find({of_group.sequence, of_group.token, head});
    if (found == rows.end()) return {};
    sum += found->second;
  }
  return sum;
}

}  // namespace

void prepare_mass(const Case& c, Inputs& inputs) {
  if (!has_features(c)) return;
  inputs = normal_inputs(c);
  const reference::NsaProblem problem = nsa_problem_of(c);
  for_each_row(c, RowsOf::compressed_rows, inputs.v.tokens, inputs.v.heads, [&](const RowPlace& row, std::int64_t i) {
    const auto s = static_cast<std::size_t>(row.sequence);
    inputs.v.row(i, row.head).setZero();
    for (std::int64_t j = 0; j < reference::num_blocks(c.lens[s], c.block); ++j)
      inputs.v.row(i, row.head)[j] = reference::overlap_weight(problem, j, row.token);
  });
}

void check_mass(const JudgedCall& call, RoundedComparison& comparison) {
  const Case& c = call.c;
  if (!has_features(c)) return;
  const double whole = static_cast<double>(c.compress_block) / static_cast<double>(c.compress_stride);
  const reference::NsaProblem problem = nsa_problem_of(c);
  for (const auto& [place, row] : call.rows("o")) {
    const auto s = static_cast<std::size_t>(place.sequence);
    const std::int64_t t = place.token + c.lens[s] - c.q_lens[s];
    // Errors of weights are shared by the features of a row, which are sums of the same weights.
    comparison.compare("o", place, Vector::Constant(1, row.observed.sum()),
                       Vector::Constant(1, t >= c.compress_block - 1 ? whole : 0),
                       Vector::Constant(1, row.bound().sum()));
  }
  const reference::Arithmetic arithmetic = make_arithmetic(c.dtype, call.kernel.arithmetic);
  const RuleOfRow rule_of = nsa_rule(arithmetic, problem, call.inputs.q, call.inputs.k);
  const std::vector<reference::Sequence> all = sequences(problem.attention);
  for (const auto& [place, selected] : call.selection) {
    const reference::Sequence& sequence = all[static_cast<std::size_t>(place.sequence)];
    const auto sum = importances(call, place);
    if (!sum) continue;
    SelectionRule rule = rule_of(sequence, sequence.q_begin + place.token, place.head);
    const Vector bound = sum->bound();
    for (std::size_t j = 0; j < rule.scores.size(); ++j) {
      rule.scores[j] = sum->observed[static_cast<Eigen::Index>(j)];
      rule.margins[j] += bound[static_cast<Eigen::Index>(j)];
    }
    comparison.compare("selection", place, inadmissible(rule, selected.blocks));
  }
}

}  // namespace attnspec::verify
