// What the errors of scores do to weights where they are too large for a prediction to first order. docs/numerics.md,
// tag A8.
#pragma once

#include <optional>

#include "reference/noise/noise.hpp"

namespace attnspec::reference {

/// The largest error of a score up to which exp(error) - 1 is taken for the error itself: 1/8 of it is left out.
inline constexpr double kFirstOrder = 0.25;

/// How far each score may lie from the exact one, [n], as a weight has it: what is subtracted before exp errs too.
/// offset: of the size of that.
Vector score_errors(const ScoreNoise& noise, const Vector& scores, double offset);

/// Between which limits softmax weights and their lse lie when every score may be anywhere within its error.
struct WeightRange {
  Vector errors;  // [n], of the scores
  Vector change;  // [n], the largest |change| of a weight; weights stay in 0 .. 1 and sum to 1
  double lse;     // the largest change
  double factor;  // by which the sum of a merge's weights exp(L_b - L) may differ from 1, L being rounded
};

/// Nothing where all errors are small enough for first order.
std::optional<WeightRange> weight_range(const ScoreNoise& noise, const AttendedRow& row, double offset);

/// The largest change of P = exp(score - lse) under errors of the scores, [n]; nothing bounds such a P by 1. Nothing
/// where all errors are small enough for first order.
std::optional<Vector> given_weight_range(const ScoreNoise& noise, const Vector& scores, double lse);

/// exp(score + error - lse) - exp(score - lse), [n], none above e^200.
Vector exponential_range(const Vector& scores, const Vector& errors, double lse);

/// How far the output [dim] moves when the weights of the rows y_j of a weighted mean change within a range. centre:
/// the exact output. Its rounding is not in it.
Vector moved(const WeightRange& range, const Rows& y, std::span<const KeyRange> visible, const Vector& centre);

}  // namespace attnspec::reference
