// Calls that no fp32 kernel can answer, because numbers on the way may be larger than fp32 holds. docs/numerics.md, tag
// A8.
#pragma once

#include "reference/tensor.hpp"

namespace attnspec::verify {

/// Throws reference::InvalidProblem, naming the scale, when a score or a partial sum of one may be beyond fp32.
void refuse_overflowing_scores(double scale, const reference::Tensor& q, const reference::Tensor& k);

/// The largest length of a row; rows that are not finite count for nothing.
double longest_row(const reference::Tensor& x);

}  // namespace attnspec::verify
