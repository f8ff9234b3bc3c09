// Judging a selection, of MoBA or NSA, before any value: is it one that a correct kernel may have made?
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reference/moba/moba.hpp"
#include "reference/noise/gate_noise.hpp"
#include "reference/noise/importance_noise.hpp"

namespace attnspec::verify {

using Blocks = std::vector<std::int32_t>;

/// What one query row may select.
struct SelectionRule {
  std::int64_t num_blocks = 0;  // visible blocks are 0 .. num_blocks - 1
  std::int64_t wanted = 0;      // how many blocks the row selects
  Blocks forced;                // always selected: the own block, what the window and sink gates fix, what NSA forces
  std::vector<double> scores,
      margins;  // [num_blocks], exact gate scores or importances, and how far a kernel's may lie from them
};

/// The rule for the query at position t of a sequence with num_keys keys. scores and margins of at least the blocks
/// wholly in the past; exact regimes pass margins of 0.
SelectionRule selection_rule(const reference::MobaProblem& problem, std::int64_t t, std::int64_t num_keys,
                             const reference::Vector& scores, const reference::Vector& margins);

/// The rule of NSA for the query at position t: importance and margins [c + 1].
SelectionRule importance_rule(const reference::NsaProblem& problem, std::int64_t t, const reference::Vector& importance,
                              const reference::Vector& margins);

/// Empty when the blocks are valid indices in distinct slots; otherwise what is wrong. -1 is an empty slot.
std::string malformed(std::span<const std::int32_t> row, std::int64_t num_blocks_of_sequence);

/// Empty when the selection is admissible; otherwise what is wrong, in a few words. Admissible: exactly `wanted`
/// blocks, every forced one, none invisible, and min over selected of (s + e) >= max over unselected of (s - e).
std::string inadmissible(const SelectionRule& rule, std::span<const std::int32_t> row);

/// How clearly the scores decide an admissible row: the score of its weakest block that is not forced less that of the
/// strongest block it leaves out, over the sum of both margins. Below 1 correct kernels may differ. Nothing where the
/// row has no choice, and where scores have no margin.
std::optional<double> clearance_of(const SelectionRule& rule, std::span<const std::int32_t> row);

/// Every admissible selection of the row, if there are at most `most`; empty when there are more.
std::vector<Blocks> admissible_selections(const SelectionRule& rule, std::size_t most);

}  // namespace attnspec::verify
