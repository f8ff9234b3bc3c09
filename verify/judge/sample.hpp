// Which rows of a case are judged: every one, or the sample that a case too large for that asks for. docs/numerics.md,
// "Large cases".
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "reference/attention.hpp"
#include "verify/cases/case.hpp"
#include "verify/judge/result.hpp"

namespace attnspec::verify {

/// The rows of one output that are judged.
struct JudgedRows {
  std::vector<std::int64_t> offsets{0};  // [num_sequences + 1], rows of the packed output
  std::int64_t heads = 0;
  std::vector<Place> places;  // by sequence, head and token, ascending

  /// How many rows the output has.
  std::int64_t all() const { return offsets.back() * heads; }
  bool are_all() const { return std::ssize(places) == all(); }
  bool contains(const Place& place) const;
};

/// Of an output with a row for each query and each of `heads` heads: all of them, or of every sequence and head the
/// first and the last, both sides of some edges of blocks and of usual tiles, and some anywhere, which the case's seed
/// chooses. At most c.sample if they are c.heads heads, and fewer in proportion if they are fewer: a row then costs as
/// many times more. Long sequences get more of them than short ones.
JudgedRows judged_queries(const Case& c, const reference::AttentionProblem& problem, std::int64_t heads);

/// The same of an output with a row for each row of k and kv head. A key is seen by the queries of its group, on the
/// average by as many of each head as a query sees keys; so these rows cost what those of the queries do.
JudgedRows judged_keys(const Case& c, const reference::AttentionProblem& problem);

/// Calls visit(sequence, token, head) for every query row that is judged, in parallel; token as in the packed tensors.
/// visit must not throw.
void for_each_query(
    const reference::AttentionProblem& problem, const JudgedRows& rows,
    const std::function<void(const reference::Sequence&, std::int64_t token, std::int64_t head)>& visit);

}  // namespace attnspec::verify
