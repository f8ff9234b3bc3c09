// Input patterns with the largest and the smallest numbers of a format. docs/cases.md says how far they go.
#pragma once

#include "verify/cases/case.hpp"
#include "verify/cases/regimes.hpp"

namespace attnspec::verify {

/// Values around the smallest normal number.
void fill_subnormal(const Case& c, Inputs& in);
/// Every row of every tensor around the smallest normal number.
void fill_smallest(const Case& c, Inputs& in);
void fill_largest_values(const Case& c, Inputs& in);
/// One row of do is half of the largest number; all others together are less, so that no sum of them overflows.
void fill_largest_gradients(const Case& c, Inputs& in);
/// Keys, queries or both are as large as can be where their products with the scale are about 1; v and do so small that
/// the gradients of q and k are finite.
void fill_largest_keys(const Case& c, Inputs& in);

}  // namespace attnspec::verify
