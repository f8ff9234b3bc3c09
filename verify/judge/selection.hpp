// Judging a selection before any value: is it one that a correct kernel may have made?
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "verify/operators/selection_rule.hpp"

namespace attnspec::verify {

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
