// msa_select: the blocks that each query of MSA attends to.
#pragma once

#include "reference/msa/msa.hpp"
#include "reference/noise/msa_noise.hpp"
#include "verify/operators/parts.hpp"

namespace attnspec::verify {

/// Heads of the case are index heads, and dk the features of qi and ki.
inline reference::MsaProblem msa_problem_of(const Case& c) {
  reference::MsaProblem problem{problem_of(c).attention, c.dk, c.block, c.top_k};
  problem.attention.kv_heads = c.heads;  // of the attention that follows
  return problem;
}

/// Y1 to Y3 with the margins of G5. exact: scores have none.
inline RuleOfRow msa_rule(const Case& c, const reference::Arithmetic& arithmetic, const Inputs& inputs) {
  using namespace reference;
  return [arithmetic, problem = msa_problem_of(c), exact = has_exact_scores(c), &inputs, norms = row_norms(inputs.k)](
             const Sequence& sequence, std::int64_t token, std::int64_t head) {
    const std::int64_t visible = std::max<std::int64_t>(0, sequence.position(token) + 1);
    if (visible == 0) return SelectionRule{};
    const Row qi = inputs.q.row(token, head);
    const Rows ki = inputs.k.rows(sequence.k_begin, sequence.k_begin + visible, 0);
    const Vector maxima = block_maxima(index_scores(qi, ki), problem.block);
    Blocks own{static_cast<std::int32_t>(maxima.size() - 1)};
    if (exact) return rule_of(problem.top_k, std::move(own), maxima, Vector::Zero(maxima.size()));
    const Vector bounds = score_bounds(arithmetic, problem, qi, norms.segment(sequence.k_begin, visible));
    return rule_of(problem.top_k, std::move(own), maxima, bounds, [&](const std::vector<Eigen::Index>& blocks) {
      const Matrix keys = rows_of_blocks(ki, blocks, problem.block);  // whole ones, since they are past
      return score_margins(arithmetic, problem, qi, view(keys), max_ties_of_rows(view(keys)));
    });
  };
}

inline OperatorPage msa_select_page() {
  return {.name = "msa_select",
          .summary = "qi, ki -> selection: the blocks each index head of MSA attends to",
          .keys = keys({kKeysOfAll, kKeysOfQueries, {"block", "top_k"}}),
          .tensors = tensors({index_tensors<AttnspecMsaSelect>(offsetof(AttnspecMsaSelect, ki)),
                              {written_selection(offsetof(AttnspecMsaSelect, selection), Heads::query)}}),
          .slots = [](const Case& c) { return reference::selection_slots(msa_problem_of(c)); },
          .rule = msa_rule,
          .bit = ATTNSPEC_MSA_SELECT,
          .forward = c_function<&AttnspecKernel::msa_select>(),
          .set_sizes = set_index_sizes<AttnspecMsaSelect>};
}

}  // namespace attnspec::verify
