// Covering arrays of strength two.
#pragma once

#include <vector>

namespace attnspec::verify {

/// Rows of value indices, one per axis, such that every pair of values of two axes occurs in some row; deterministic.
/// sizes: how many values each axis has, each at least 1.
std::vector<std::vector<int>> pairwise(const std::vector<int>& sizes);

}  // namespace attnspec::verify
