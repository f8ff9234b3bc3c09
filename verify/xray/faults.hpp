// What is wrong with the weights of an attention, key by key, and of which kind.
#pragma once

#include <vector>

#include "verify/xray/xray.hpp"

namespace attnspec::verify {

/// is_wrong: [query rows * columns], whether a weight is further off than rounding explains. Fills the findings of the
/// weights and what is counted of them.
void find_weight_faults(const Attention& attention, const reference::Selection& selection,
                        const std::vector<char>& is_wrong, Weights& weights);

/// Rows whose exported selection no correct kernel makes; those that cannot be one are emptied.
std::vector<WeightFinding> find_selection_faults(const Attention& attention, const std::vector<SelectionRule>& rules,
                                                 reference::Selection& selection);

}  // namespace attnspec::verify
