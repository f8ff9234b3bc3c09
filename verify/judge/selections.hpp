// Judging the selections of a whole case, and the rules of its rows.
#pragma once

#include <functional>
#include <vector>

#include "reference/noise/gate_noise.hpp"
#include "reference/noise/importance_noise.hpp"
#include "verify/judge/key_chunks.hpp"
#include "verify/judge/selection.hpp"
#include "verify/judge/tally.hpp"

namespace attnspec::verify {

/// What a row of a selection may hold: of a token and a query head, or of a token and a kv head.
using RuleOfRow =
    std::function<SelectionRule(const reference::Sequence& sequence, std::int64_t token, std::int64_t head)>;

/// The rule of every (token, query head) of MoBA, from its exact gate scores. exact: they have no margin. arithmetic,
/// problem, q and k must outlive the rule.
RuleOfRow moba_rule(const reference::Arithmetic& arithmetic, const reference::MobaProblem& problem,
                    const reference::Tensor& q, const reference::Tensor& k, bool exact);

/// The rule of every (token, kv head) of NSA, from the exact importances of the compressed rows k the kernel had.
/// Arguments must outlive the rule.
RuleOfRow nsa_rule(const reference::Arithmetic& arithmetic, const reference::NsaProblem& problem,
                   const reference::Tensor& q, const reference::Tensor& k);

/// Judges an exported selection, over the queries of `problem` and the selection's own heads: whether rows are well
/// formed of every row, whether they are admissible of those in `rows`. Rows that are malformed are emptied and
/// returned.
std::vector<QueryRow> judge_selection(const reference::AttentionProblem& problem, std::int64_t block,
                                      const RuleOfRow& rule, const JudgedRows& rows, reference::Selection& exported,
                                      const RowObserver& observe, CaseResult& result);

}  // namespace attnspec::verify
