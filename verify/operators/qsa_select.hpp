// qsa_select: the blocks that each query of QSA attends to.
#pragma once

#include "reference/noise/qsa_noise.hpp"
#include "reference/qsa/qsa.hpp"
#include "verify/operators/parts.hpp"

namespace attnspec::verify {

/// Heads of the case are index heads, and dk the features of qi and kbar.
inline reference::QsaProblem qsa_problem_of(const Case& c) {
  reference::QsaProblem problem{problem_of(c).attention, c.heads, c.dk, c.block, c.top_k};
  problem.attention.heads = 1;  // of the attention that follows
  return problem;
}

/// Q1 to Q3 with the margins of G6; as for DSA no input pattern makes them 0.
inline RuleOfRow qsa_rule(const Case& c, const reference::Arithmetic& arithmetic, const Inputs& inputs) {
  using namespace reference;
  return [arithmetic, problem = qsa_problem_of(c), offsets = index_key_offsets(qsa_problem_of(c)), &inputs,
          norms = row_norms(inputs.k)](const Sequence& sequence, std::int64_t token, std::int64_t) {
    const std::int64_t t = sequence.position(token), complete = num_complete_blocks(problem, t + 1),
                       first = offsets[static_cast<std::size_t>(sequence.index)];
    const bool has_tail = t >= 0 && (t + 1) % problem.block != 0;
    const Matrix qi = index_queries(inputs.q, token);
    const Rows kbar = inputs.k.rows(first, first + complete, 0);
    Vector scores = Vector::Zero(complete + has_tail), bounds = scores;
    scores.head(complete) = block_scores(qi, kbar);
    bounds.head(complete) = score_bounds(arithmetic, qi, norms.segment(first, complete));
    return rule_of(std::min(problem.top_k, complete) + has_tail,
                   has_tail ? Blocks{static_cast<std::int32_t>(complete)} : Blocks{}, scores, bounds,
                   [&](const std::vector<Eigen::Index>& blocks) {
                     const Matrix keys = rows_of_blocks(kbar, blocks, 1);
                     return score_margins(arithmetic, qi, view(keys), max_ties_of_rows(view(keys)));
                   });
  };
}

inline OperatorPage qsa_select_page() {
  return {.name = "qsa_select",
          .summary = "qi, kbar -> selection: the blocks each query of QSA attends to",
          .keys = keys({kKeysOfAll, kKeysOfQueries, {"block", "top_k"}}),
          .tensors = tensors(
              {index_tensors<AttnspecQsaSelect>(offsetof(AttnspecQsaSelect, kbar), "kbar", RowsOf::complete_blocks),
               {written_selection(offsetof(AttnspecQsaSelect, selection), Heads::kv)}}),
          .slots = [](const Case& c) { return reference::selection_slots(qsa_problem_of(c)); },
          .rule = qsa_rule,
          .bit = ATTNSPEC_QSA_SELECT,
          .forward = c_function<&AttnspecKernel::qsa_select>(),
          .set_sizes = set_index_sizes<AttnspecQsaSelect>};
}

}  // namespace attnspec::verify
