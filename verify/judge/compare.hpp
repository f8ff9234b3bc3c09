// Comparing one row of an output with its expected value and predicted noise: class, then element, then row.
#pragma once

#include <cstdint>

#include "reference/noise/noise.hpp"

namespace attnspec::verify {

using reference::Format;
using reference::Matrix;
using reference::RowNoise;
using reference::Vector;

enum class RowFault {
  none,
  wrong_class,  // NaN, an infinity where a finite number belongs, or the reverse
  element,      // |error| > min(worst, kappa sqrt(variance)) + floor
  row,          // R above its limit
};

struct RowComparison {
  RowFault fault = RowFault::none;
  Eigen::Index d = 0;        // the element with the wrong class, or the largest error over its bound
  double bound = 0;          // of that element
  double r = 0;              // ||error|| less the floor's, over sqrt(sum of variances); near 1 for a correct kernel
  double limit = 0;          // of r, where it was needed
  double z = 0;              // the largest error less its floor, in deviations
  double trace = 0;          // sum of the variances
  double floor_squares = 0;  // of the floor
};

/// expected and observed [n]; noise of the same row, and its covariance [n, n]; format of the output. Every test is
/// written `error <= bound`, so that NaN fails.
///
/// An infinity is right if and only if the expected number moved by the bound in its direction reaches the
/// rounding-to-infinity threshold.
RowComparison compare_row(const Vector& expected, const Vector& observed, const RowNoise& noise, Format format,
                          const reference::Covariance& covariance);

/// The same for a row of one number, such as lse.
RowComparison compare_number(double expected, double observed, const RowNoise& noise, Format format);

/// The length of an error above which no correct kernel may err, whichever way: row_limit(1) sqrt(trace) + |floor|.
double smallest_error(double trace, double floor_length);

}  // namespace attnspec::verify
