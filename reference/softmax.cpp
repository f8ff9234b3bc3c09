#include "reference/softmax.hpp"

#include <cmath>
#include <limits>

namespace attnspec::reference {

Softmax softmax(const Vector& scores) {
  if (scores.size() == 0) return {Vector(), -std::numeric_limits<double>::infinity()};
  const double largest = scores.maxCoeff();
  Vector weights = (scores.array() - largest).exp();
  const double sum = weights.sum();
  weights /= sum;
  return {std::move(weights), largest + std::log(sum)};
}

}  // namespace attnspec::reference
