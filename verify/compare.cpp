#include "verify/compare.hpp"

#include <algorithm>
#include <cmath>

namespace attnspec::verify {

namespace {

enum class Class { right_finite, right_infinite, wrong };

/// Whether an observed element may be finite, infinite, or neither, given what is expected.
Class classify(double expected, double observed, double bound, Format format) {
  if (std::isinf(expected)) return observed == expected ? Class::right_infinite : Class::wrong;
  if (std::isnan(observed)) return Class::wrong;
  const double threshold = reference::overflow_threshold(format), magnitude = std::abs(expected);
  if (std::isinf(observed))
    return std::signbit(observed) == std::signbit(expected) && magnitude + bound >= threshold ? Class::right_infinite
                                                                                              : Class::wrong;
  return magnitude - bound < threshold ? Class::right_finite : Class::wrong;
}

}  // namespace

RowComparison compare_row(const Vector& expected, const Vector& observed, const RowNoise& noise, Format format,
                          const std::function<Matrix()>& covariance) {
  RowComparison result;
  double squares = 0, floor = 0, trace = 0, worst_ratio = -1;
  for (Eigen::Index d = 0; d < expected.size(); ++d) {
    const double bound = std::min(noise.worst[d], reference::kKappa * std::sqrt(noise.variance[d])) + noise.floor[d];
    const Class kind = classify(expected[d], observed[d], bound, format);
    if (kind == Class::wrong) return {RowFault::wrong_class, d, bound, 0, 0};
    if (kind == Class::right_infinite) continue;
    const double error = std::abs(observed[d] - expected[d]);
    const double ratio = error == 0 ? 0 : error / bound;
    if (ratio > worst_ratio) {
      worst_ratio = ratio;
      result.d = d;
      result.bound = bound;
    }
    squares += error * error;
    floor += noise.floor[d] * noise.floor[d];
    trace += noise.variance[d];
  }
  const double excess = std::max(0.0, std::sqrt(squares) - std::sqrt(floor));
  result.r = excess == 0 ? 0 : excess / std::sqrt(trace);
  if (!(worst_ratio <= 1)) {
    result.fault = RowFault::element;
    return result;
  }
  result.limit = reference::row_limit(static_cast<double>(expected.size()));
  if (!(result.r <= result.limit)) {
    result.limit = reference::row_limit(reference::effective_terms(covariance()));
    if (!(result.r <= result.limit)) result.fault = RowFault::row;
  }
  return result;
}

}  // namespace attnspec::verify
