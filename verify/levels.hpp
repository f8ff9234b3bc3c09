// The fixed levels: which cases `check` judges. Axes of sizes on edges, parameters and regimes, combined so that every
// pair of values of different axes occurs in some case.
#pragma once

#include <vector>

#include "verify/case.hpp"

namespace attnspec::verify {

/// Rows of value indices, one per axis, such that every pair of values of two axes occurs in some row; deterministic.
/// sizes: how many values each axis has, each at least 1.
std::vector<std::vector<int>> pairwise(const std::vector<int>& sizes);

/// The cases of one operator. Level 1: every pair once, the captured activations, and every law; a minute for all
/// operators; level 2: every pair under eight seeds, half of them with longer sequences, some minutes. Throws
/// std::runtime_error when a captured file cannot be read.
std::vector<Case> level_cases(Operator op, int level);

inline constexpr int kMaxLevel = 2;

}  // namespace attnspec::verify
