#include "verify/judge/compare.hpp"

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
    return std::copysign(1.0, observed) * expected + bound >= threshold ? Class::right_infinite : Class::wrong;
  return magnitude - bound < threshold ? Class::right_finite : Class::wrong;
}

/// Class and element of every number, and R.
RowComparison compare_elements(const Vector& expected, const Vector& observed, const RowNoise& noise, Format format) {
  RowComparison result;
  double squares = 0, worst_ratio = -1;
  for (Eigen::Index d = 0; d < expected.size(); ++d) {
    const double bound = std::min(noise.worst[d], reference::kKappa * std::sqrt(noise.variance[d])) + noise.floor[d];
    const Class kind = classify(expected[d], observed[d], bound, format);
    if (kind == Class::wrong) return {RowFault::wrong_class, d, bound};
    if (kind == Class::right_infinite) continue;
    const double error = std::abs(observed[d] - expected[d]);
    const double ratio = error == 0 ? 0 : error / bound;
    if (ratio > worst_ratio) {
      worst_ratio = ratio;
      result.d = d;
      result.bound = bound;
    }
    if (error > noise.floor[d]) result.z = std::max(result.z, (error - noise.floor[d]) / std::sqrt(noise.variance[d]));
    squares += error * error;
    result.floor_squares += noise.floor[d] * noise.floor[d];
    result.trace += noise.variance[d];
  }
  const double excess = std::max(0.0, std::sqrt(squares) - std::sqrt(result.floor_squares));
  result.r = excess == 0 ? 0 : excess / std::sqrt(result.trace);
  if (!(worst_ratio <= 1)) result.fault = RowFault::element;
  return result;
}

}  // namespace

double smallest_error(double trace, double floor_length) {
  return reference::row_limit(1) * std::sqrt(trace) + floor_length;
}

RowComparison compare_number(double expected, double observed, const RowNoise& noise, Format format) {
  return compare_elements(Vector::Constant(1, expected), Vector::Constant(1, observed), noise, format);
}

RowComparison compare_row(const Vector& expected, const Vector& observed, const RowNoise& noise, Format format,
                          const reference::Covariance& covariance) {
  RowComparison result = compare_elements(expected, observed, noise, format);
  if (result.fault != RowFault::none) return result;
  // The limit follows from the largest eigenvalue of the covariance. Most rows are decided by bounds that cost less:
  // it is at least the mean of all eigenvalues, and at least the variance along the error itself.
  result.limit = reference::row_limit(static_cast<double>(expected.size()));
  if (result.r <= result.limit) return result;
  const Vector error = (observed - expected).unaryExpr([](double x) { return std::isfinite(x) ? x : 0; });
  result.limit = reference::row_limit(result.trace * error.squaredNorm() / covariance.along(error));
  if (result.r <= result.limit) return result;
  result.limit = reference::row_limit(reference::effective_terms(covariance.matrix()));
  if (!(result.r <= result.limit)) result.fault = RowFault::row;
  return result;
}

}  // namespace attnspec::verify
