// dsa_select: the tokens that each query of DSA attends to.
#pragma once

#include "reference/dsa/dsa.hpp"
#include "reference/noise/dsa_noise.hpp"
#include "verify/operators/parts.hpp"

namespace attnspec::verify {

/// Heads of the case are index heads, and dk the features of qi and ki.
inline reference::DsaProblem dsa_problem_of(const Case& c) {
  reference::DsaProblem problem{problem_of(c).attention, c.heads, c.dk, c.top_k};
  problem.attention.heads = 1;  // of the attention that follows
  return problem;
}

/// V1 and V2 with the margins of G6. Kernels may multiply scores by a number before they add them, so that no input
/// pattern makes all sums exact.
inline RuleOfRow dsa_rule(const Case& c, const reference::Arithmetic& arithmetic, const Inputs& inputs) {
  using namespace reference;
  return [arithmetic, problem = dsa_problem_of(c), &inputs, norms = row_norms(inputs.k)](
             const Sequence& sequence, std::int64_t token, std::int64_t) {
    const std::int64_t visible = std::max<std::int64_t>(0, sequence.position(token) + 1);
    const Matrix qi = index_queries(inputs.q, token);
    const Row w = inputs.w.row(token, 0);
    const Rows ki = inputs.k.rows(sequence.k_begin, sequence.k_begin + visible, 0);
    return rule_of(problem.top_k, {}, index_scores(qi, w, ki),
                   score_bounds(arithmetic, qi, w, norms.segment(sequence.k_begin, visible)),
                   [&](const std::vector<Eigen::Index>& tokens) {
                     const Matrix keys = rows_of_blocks(ki, tokens, 1);
                     return score_margins(arithmetic, qi, w, view(keys), max_ties_of_rows(view(keys)));
                   });
  };
}

inline OperatorPage dsa_select_page() {
  return {.name = "dsa_select",
          .summary = "qi, w, ki -> selection: the tokens each query of DSA attends to",
          .keys = keys({kKeysOfAll, kKeysOfQueries, {"top_k"}}),
          .tensors = tensors({index_tensors<AttnspecDsaSelect>(offsetof(AttnspecDsaSelect, ki)),
                              {{.name = "w",
                                .heads = Heads::kv,
                                .dim = Dim::heads,
                                .format = Stored::fp32,
                                .offset = offsetof(AttnspecDsaSelect, w),
                                .input = &Inputs::w},
                               written_selection(offsetof(AttnspecDsaSelect, selection), Heads::kv)}}),
          .slots = [](const Case& c) { return reference::selection_slots(dsa_problem_of(c)); },
          .rule = dsa_rule,
          .bit = ATTNSPEC_DSA_SELECT,
          .forward = c_function<&AttnspecKernel::dsa_select>(),
          .set_sizes = [](const AnyCall& call, const AttnspecNsaSizes&,
                          void* forward) { static_cast<AttnspecDsaSelect*>(forward)->top_k = call.problem.top_k; }};
}

}  // namespace attnspec::verify
