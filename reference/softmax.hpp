// Softmax and log-sum-exp of one row of scores.
#pragma once

#include "reference/tensor.hpp"

namespace attnspec::reference {

struct Softmax {
  Vector weights;  // [n], sums to 1
  double lse;      // natural logarithm of sum_j exp(scores_j)
};

/// weights_j = exp(scores_j - lse), lse = log sum_j exp(scores_j). Equation S1.
///
/// scores [n], finite, in nats. A row without scores (n = 0) has no weights and lse = -infinity: masking chooses
/// the keys before this function, and never adds a large negative number.
Softmax softmax(const Vector& scores);

}  // namespace attnspec::reference
