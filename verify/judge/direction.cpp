#include "verify/judge/direction.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

namespace attnspec::verify {

using reference::Vector;

/// From here on the errors of all rows go one way.
constexpr double kMinConsistency = 4;
/// Of errors beyond the noise, squared, that a fault must explain where rows are wrong by themselves. It is supposed to
/// be small: its move is of first order.
constexpr double kMinShare = 0.5;
/// Squared error that a factor of o may leave, in noises of the rows.
constexpr double kMaxLeftOfFactor = 4;

double Direction::z() const {
  const double excess = std::max(0.0, std::abs(projection) - allowance);
  return excess == 0 ? 0 : std::copysign(excess / std::sqrt(variance), projection);
}

double Direction::consistency() const { return observed > 0 ? projection / std::sqrt(observed) : 0; }

namespace {

/// How the mean of truncated weights moves a row of o: each weight loses half a spacing, but for the heaviest, which is
/// 1 and loses nothing.
Vector truncation(const reference::Arithmetic& arithmetic, const reference::AttendedRow& row,
                  const reference::Rows& values, std::span<const reference::KeyRange> visible) {
  if (arithmetic.weights != reference::Format::bf16 && arithmetic.weights != reference::Format::fp16)
    return Vector::Zero(row.o.size());
  const double largest = arithmetic.normaliser == reference::Normaliser::divides_first ? 1 : row.weights.maxCoeff();
  Vector lost = row.weights;
  for (double& weight : lost) {
    const double stored = weight / largest;
    weight = stored == 1 || !(stored > 0)
                 ? 0
                 : largest * reference::unit_roundoff(arithmetic.weights) * std::exp2(std::floor(std::log2(stored)));
  }
  const bool sums_lost = arithmetic.normaliser == reference::Normaliser::sums_rounded;
  return (sums_lost ? lost.sum() : 0) * row.o - reference::combination(lost, values, visible);
}

}  // namespace

void DirectionTest::add(const reference::RowInputs& in, const reference::AttendedRow& row,
                        const reference::Covariance& covariance, double trace, const Vector& error, const Vector& floor,
                        std::int64_t next_key) {
  const Vector scores = row.scores.array() - row.scores.maxCoeff();  // so that large ones do not cancel
  const double mean = row.weights.dot(scores);
  const double spread = std::sqrt(std::max(0.0, row.weights.dot(scores.cwiseAbs2()) - mean * mean));
  const double coarsest =
      std::max(reference::unit_roundoff(arithmetic_.weights), reference::unit_roundoff(arithmetic_.output));
  if (!(spread > 8 * coarsest) || !(trace > floor.squaredNorm())) return;
  const reference::Rows& v = in.kv.v;
  const reference::KeyRange first = in.visible.front(), last = in.visible.back();
  const std::int64_t keys = first.end - first.begin;
  const Vector scale = reference::combination(row.weights.cwiseProduct(scores), v, in.visible) - mean * row.o;
  std::array<Vector, kSuspects> moves{
      scale,
      row.weights[0] * (row.o - v.row(first.begin).transpose()),
      row.weights[row.weights.size() - 1] * (row.o - v.row(last.end - 1).transpose()),
      row.weights.head(keys).sum() * row.o - v.middleRows(first.begin, keys).transpose() * row.weights.head(keys),
      Vector::Zero(row.o.size()),
      row.o,
      truncation(arithmetic_, row, v, in.visible)};
  if (next_key >= 0)
    moves[4] =
        (v.row(next_key).transpose() - row.o) / (1 + std::exp(row.lse - in.scale * in.q.dot(in.kv.k.row(next_key))));
  // What every row may share: the rounding of the scale and of its product with log2 e, and sums that are truncated.
  const double shared_scale = 2 * reference::unit_roundoff(reference::Format::fp32);
  const double shared_sum = static_cast<double>(row.weights.size()) * reference::accumulator_roundoff(arithmetic_);
  // exp and the division by the normaliser, where they are a GPU's.
  const double shared_output = 8 * reference::unit_roundoff(reference::Format::fp32);
  // The expected row itself is rounded, in double.
  const double exact = static_cast<double>(row.weights.size()) * std::numeric_limits<double>::epsilon() *
                       reference::combination(row.weights, reference::view(in.kv.v_magnitudes), in.visible).norm();
  std::array<double, kSuspects> variances;
  for (std::size_t i = 0; i < moves.size(); ++i) {
    if (!(moves[i].norm() > exact)) moves[i].setZero();
    variances[i] = covariance.along(moves[i]);
  }
  const std::lock_guard lock(mutex_);
  energy_ += error.squaredNorm() / trace;
  ++rows_;
  for (std::size_t i = 0; i < moves.size(); ++i) {
    const double projection = moves[i].dot(error) / trace;
    directions_[i].projection += projection;
    directions_[i].observed += projection * projection;
    for (std::size_t j = 0; j < moves.size(); ++j) products_[i][j] += moves[i].dot(moves[j]) / trace;
    directions_[i].variance += variances[i] / (trace * trace);
    directions_[i].allowance +=
        (shared_scale * std::abs(moves[i].dot(scale)) + (shared_sum + shared_output) * std::abs(moves[i].dot(row.o)) +
         moves[i].cwiseAbs().dot(floor)) /
        trace;
  }
}

std::string DirectionTest::describe(std::size_t fault) const {
  const Direction& direction = directions_[fault];
  const std::string what = fault == static_cast<std::size_t>(Suspect::scaled_output)
                               ? fmt::format("o scaled by {:.4g}", 1 + amount(fault))
                               : direction.fault;
  return fmt::format("{}; {:.3g} deviations", what, direction.z());
}

std::vector<std::string> DirectionTest::faults(double limit, bool rows_fail) const {
  constexpr auto kTruncated = static_cast<std::size_t>(Suspect::truncated_weights),
                 kScaled = static_cast<std::size_t>(Suspect::scaled_output);
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < kSuspects; ++i)
    if (std::abs(directions_[i].z()) > limit) order.push_back(i);
  if (order.empty()) return {};
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return std::abs(directions_[a].z()) > std::abs(directions_[b].z()); });
  // Errors that are large without going one way point everywhere a little.
  const auto is_consistent = [&](std::size_t i) { return std::abs(directions_[i].consistency()) > kMinConsistency; };
  if (rows_fail || std::any_of(order.begin(), order.end(), is_consistent))
    std::erase_if(order, [&](std::size_t i) { return !is_consistent(i); });
  if (rows_fail) {
    const auto rows = static_cast<double>(rows_);
    std::erase_if(order, [&](std::size_t i) { return explained(i) < kMinShare * (energy_ - rows); });
    // A factor of o is all that is wrong with it, or it is none: weights that are too even make o smaller, too.
    const double factor = 1 + amount(kScaled);
    if (energy_ - explained(kScaled) > kMaxLeftOfFactor * std::max(1.0, factor * factor) * rows)
      std::erase(order, kScaled);
  }
  if (order.empty()) return {};
  std::size_t main = order.front();
  // Truncation moves o by a known amount; another factor of o is a scale.
  const auto truncated = std::find(order.begin(), order.end(), kTruncated);
  if (truncated != order.end()) {
    const double lost = amount(kTruncated);
    const bool is_likely =
        lost > 0.5 && lost < 1.5 && std::abs(directions_[kTruncated].z()) > 0.8 * std::abs(directions_[main].z());
    if (is_likely && main == kScaled) main = kTruncated;
    if (!is_likely) order.erase(truncated);
    if (!is_likely && main == kTruncated) main = order.empty() ? kTruncated : order.front();
  }
  std::vector<std::string> texts{describe(main)};
  std::optional<std::size_t> next;
  double most = limit;
  for (const std::size_t i : order) {
    if (i == main) continue;
    const Direction &direction = directions_[i], &taken = directions_[main];
    const double part = share(i, main), left = std::abs(direction.projection - part * taken.projection);
    const double deviation = std::sqrt(direction.variance + part * part * taken.variance);
    const double z = std::max(0.0, left - direction.allowance - std::abs(part) * taken.allowance) / deviation;
    if (z > most && left > 0.5 * std::abs(direction.projection)) next = i, most = z;
  }
  if (next) texts.push_back(describe(*next));
  return texts;
}

}  // namespace attnspec::verify
