// The predicted noise of a row that is a sum of rows: what gradient_noise, compression_noise and nsa_gate_noise share.
// docs/numerics.md, tags A2, A6, E5, E6, P1.
#pragma once

#include <functional>
#include <memory>

#include "reference/noise/noise.hpp"

namespace attnspec::reference {

/// Noise of one row and the errors it is made of; the rounding to the format it is stored in is added last.
struct SumNoise {
  RowErrors errors;
  RowNoise noise;
};

/// A row that a kernel stores, with everything it is compared by.
struct PredictedRow {
  Vector expected;  // [dim]
  SumNoise sum;
  std::shared_ptr<const Matrix> y;  // [n, dim], the rows that the errors run along; empty: none do
  KeyRange all{0, y ? y->rows() : 0};

  /// Of this row, which it must not outlive.
  Covariance covariance() const {
    return {sum.errors, y ? view(*y) : Rows(nullptr, 0, expected.size()), {&all, 1}, expected, sum.noise.rounding};
  }
};

/// The row with the rounding of its stored form, that of what the floor may add included. A3.
PredictedRow stored(Vector expected, SumNoise sum, Format format, std::shared_ptr<const Matrix> y = {});

/// Groups of equal rows.
Groups equal_rows(const Rows& y);

/// Groups of rows that their sum cannot tell apart: in every feature they differ by less than u of its magnitudes. A6.
Groups alike_rows(const Rows& y);

/// One error for each group: together its members move the sum along sum_g weights_j y_j. E6. A member that takes no
/// part has variance 0.
void add_shared(const Groups& groups, const Vector& weights, const Vector& variances, double scale,
                const std::function<Vector(Eigen::Index)>& y, RowErrors& errors);

/// The noise of a sum of n terms from its variance, worst case and floor. factor: the largest a kernel multiplies a sum
/// with at its end.
RowNoise finished(const Arithmetic& arithmetic, Vector variance, const Vector& worst, const Vector& floor, double n,
                  double factor);

/// Adds what a sum of parts [n, dim] suffers whose parts are stored before they are added: every part its rounding, and
/// the sum those of its partial sums where they are stored as well. Parts that are equal within a spacing round alike.
/// A single part in the format of the output is the output. Tag E7.
void add_part_roundings(const Arithmetic& arithmetic, const Matrix& parts, const Vector& sum, SumNoise& noise);

/// Adds a move that is known as a direction of its own, where independent errors hardly move the sum that far. Tag P1.
/// variance: of the sum, [dim].
void add_move(const Vector& move, Vector& variance, RowErrors& errors);

/// A sum of weights_t y_t over rows, and the errors of the weights. move: P1.
struct WeightedRows {
  const Matrix &y, &squares, &magnitudes;            // [rows, dim]
  Vector weights, variance, worst, floor, rounding;  // [rows]
  double scale;
  Groups equal;              // rows with equal weights
  const Groups& equal_rows;  // of y
  Vector move = {};          // [dim], of the sum by errors that are known; empty: none are
};

/// The noise of such a sum of n terms, before its rounding. errors: those that it has beside them; centre: the sum.
/// Tags E5, E6, P1.
SumNoise sum_noise(const Arithmetic& arithmetic, const WeightedRows& sum, double n, RowErrors errors,
                   const Vector& centre);

/// What the order of a sum's terms weights_t y_t adds to A2, [dim]: partial sums may wander farther than those of
/// random signs do on average, and terms of equal rows may round the same way every time. bias: a term that kernels add
/// before or after all others; empty: none. Tag A7.
Vector order_variance(double roundoff, const Vector& weights, const Matrix& y, const Groups& equal_rows,
                      const Vector& bias = {});

/// A sum of rows [n, dim] that is accumulated feature by feature: A2 and A6, for errors that are independent from
/// feature to feature. In the order of the rows: A7.
struct FeatureSum {
  Vector variance, worst;  // [dim]
};
FeatureSum feature_sum(double roundoff, const Matrix& terms, const Groups& equal_rows, const Vector& sum);

}  // namespace attnspec::reference
