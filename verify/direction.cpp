#include "verify/direction.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attnspec::verify {

using reference::Vector;

double Direction::z() const {
  const double excess = std::max(0.0, std::abs(projection) - allowance);
  return excess == 0 ? 0 : std::copysign(excess / std::sqrt(variance), projection);
}

void DirectionTest::add(const reference::RowInputs& in, const reference::AttendedRow& row,
                        const reference::Covariance& covariance, double trace, const Vector& error, const Vector& floor,
                        std::int64_t next_key) {
  const Vector scores = row.scores.array() - row.scores.maxCoeff();  // so that large ones do not cancel
  const double mean = row.weights.dot(scores);
  const double spread = std::sqrt(std::max(0.0, row.weights.dot(scores.cwiseAbs2()) - mean * mean));
  if (!(spread > 8 * reference::unit_roundoff(arithmetic_.weights)) || !(trace > floor.squaredNorm())) return;
  const reference::Rows& v = in.kv.v;
  const reference::KeyRange first = in.visible.front(), last = in.visible.back();
  const std::int64_t keys = first.end - first.begin;
  const Vector scale = reference::combination(row.weights.cwiseProduct(scores), v, in.visible) - mean * row.o;
  std::array<Vector, 5> moves{
      scale, row.weights[0] * (row.o - v.row(first.begin).transpose()),
      row.weights[row.weights.size() - 1] * (row.o - v.row(last.end - 1).transpose()),
      row.weights.head(keys).sum() * row.o - v.middleRows(first.begin, keys).transpose() * row.weights.head(keys),
      Vector::Zero(row.o.size())};
  if (next_key >= 0)
    moves[4] =
        (v.row(next_key).transpose() - row.o) / (1 + std::exp(row.lse - in.scale * in.q.dot(in.kv.k.row(next_key))));
  // What every row may share: the rounding of the scale and of its product with log2 e, and sums that are truncated.
  const double shared_scale = 2 * reference::unit_roundoff(reference::Format::fp32);
  const double shared_sum = static_cast<double>(row.weights.size()) * reference::accumulator_roundoff(arithmetic_);
  // The expected row itself is rounded, in double.
  const double exact = static_cast<double>(row.weights.size()) * std::numeric_limits<double>::epsilon() *
                       reference::combination(row.weights, reference::view(in.kv.v_magnitudes), in.visible).norm();
  std::array<double, 5> variances;
  for (std::size_t i = 0; i < moves.size(); ++i) {
    if (!(moves[i].norm() > exact)) moves[i].setZero();
    variances[i] = covariance.along(moves[i]);
  }
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < moves.size(); ++i) {
    directions_[i].projection += moves[i].dot(error) / trace;
    directions_[i].variance += variances[i] / (trace * trace);
    directions_[i].allowance += (shared_scale * std::abs(moves[i].dot(scale)) +
                                 shared_sum * std::abs(moves[i].dot(row.o)) + moves[i].cwiseAbs().dot(floor)) /
                                trace;
  }
}

}  // namespace attnspec::verify
