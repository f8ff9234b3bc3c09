// The fixed levels: which cases `check` judges. Values of the axes of the space of cases, combined so that every pair
// of values of different axes occurs in some case.
#pragma once

#include <vector>

#include "verify/case.hpp"

namespace attnspec::verify {

/// The cases of one operator. Level 1: every pair once, the captured activations, every law, every extreme once; a
/// minute for all operators; level 2: every pair under eight seeds, half of them with longer sequences, every extreme
/// four times, some minutes. Throws std::runtime_error when a captured file cannot be read.
std::vector<Case> level_cases(Operator op, int level);

inline constexpr int kMaxLevel = 2;

}  // namespace attnspec::verify
