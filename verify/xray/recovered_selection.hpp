// The blocks that a row must have selected to give the weights that it gives.
#pragma once

#include <functional>
#include <optional>

#include "verify/judge/selection.hpp"

namespace attnspec::verify {

/// The admissible selection nearest to some blocks: with the most of them, and of these the one whose other blocks
/// weigh least. Nothing where there are more than can be tried. weight(blocks, b): of block b in a row that selected
/// `blocks`.
std::optional<Blocks> nearest_admissible(const SelectionRule& rule, const Blocks& blocks,
                                         const std::function<double(const Blocks&, std::int32_t)>& weight);

/// The blocks that a row selected which gives weight to these: they alone, or with others whose weights cannot be seen,
/// where a correct kernel may select that; else the nearest admissible selection, or these alone where too many are.
Blocks recovered_selection(const SelectionRule& rule, const Blocks& with_weight,
                           const std::function<double(const Blocks&, std::int32_t)>& weight);

}  // namespace attnspec::verify
