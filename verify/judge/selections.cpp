#include "verify/judge/selections.hpp"

#include <algorithm>
#include <optional>

namespace attnspec::verify {

using namespace reference;

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
