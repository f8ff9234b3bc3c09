// Judging the selections of a whole case.
#pragma once

#include <vector>

#include "verify/judge/key_chunks.hpp"
#include "verify/judge/selection.hpp"
#include "verify/judge/tally.hpp"

namespace attnspec::verify {

/// Judges an exported selection, over the queries of `problem` and the selection's own heads: whether rows are well
/// formed of every row, whether they are admissible of those in `rows`. Rows that are malformed are emptied and
/// returned.
std::vector<QueryRow> judge_selection(const reference::AttentionProblem& problem, std::int64_t block,
                                      const RuleOfRow& rule, const JudgedRows& rows, reference::Selection& exported,
                                      const RowObserver& observe, CaseResult& result);

}  // namespace attnspec::verify
