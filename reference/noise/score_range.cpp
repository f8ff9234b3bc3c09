#include "reference/noise/score_range.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attnspec::reference {

namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();
constexpr double kLargestExponent = 200;  // far above what fp32 holds, and products of it stay finite here

/// log(exp(a) + exp(b)).
double log_add(double a, double b) {
  const double larger = std::max(a, b);
  return larger == kNone ? kNone : larger + std::log1p(std::exp(std::min(a, b) - larger));
}

/// log sum_{i != j} exp(x_i) for every j, and of all x in the last place, without differences of sums.
Vector log_sums_of_others(const Vector& x) {
  const Eigen::Index n = x.size();
  Vector sums(n + 1);
  double before = kNone, after = kNone;
  for (Eigen::Index j = 0; j < n; ++j) {
    sums[j] = before;
    before = log_add(before, x[j]);
  }
  sums[n] = before;
  for (Eigen::Index j = n - 1; j >= 0; --j) {
    sums[j] = log_add(sums[j], after);
    after = log_add(after, x[j]);
  }
  return sums;
}

}  // namespace

Vector score_errors(const ScoreNoise& noise, const Vector& scores, double offset) {
  const double u32 = unit_roundoff(Format::fp32);
  return noise.worst.array().min(kKappa * noise.variance.array().sqrt()) +
         u32 * (2 * scores.array().abs() + 4 * std::abs(offset));
}

std::optional<WeightRange> weight_range(const ScoreNoise& noise, const AttendedRow& row, double offset) {
  WeightRange range{score_errors(noise, row.scores, offset), Vector(row.scores.size()), 0, 1};
  if (range.errors.maxCoeff() <= kFirstOrder) return std::nullopt;
  const Vector low = row.scores - range.errors, high = row.scores + range.errors;
  const Vector others_low = log_sums_of_others(low), others_high = log_sums_of_others(high);
  const Eigen::Index n = low.size();
  double near_the_top = 0;  // how many weights of a merge may be near 1
  for (Eigen::Index j = 0; j < n; ++j) {
    const double largest = 1 / (1 + std::exp(others_low[j] - high[j])),
                 smallest = 1 / (1 + std::exp(others_high[j] - low[j]));
    range.change[j] = std::max({0.0, largest - row.weights[j], row.weights[j] - smallest});
    near_the_top += std::exp(std::min(0.0, high[j] - low.maxCoeff()));
  }
  range.lse = std::max(others_high[n] - row.lse, row.lse - others_low[n]);
  range.factor = std::min(near_the_top, std::exp(range.lse));
  return range;
}

std::optional<Vector> given_weight_range(const ScoreNoise& noise, const Vector& scores, double lse) {
  const Vector errors = score_errors(noise, scores, lse);
  if (errors.maxCoeff() <= kFirstOrder) return std::nullopt;
  return exponential_range(scores, errors, lse);
}

Vector exponential_range(const Vector& scores, const Vector& errors, double lse) {
  const Eigen::ArrayXd exponents = scores.array() - lse;
  return (exponents + errors.array()).min(kLargestExponent).exp() - exponents.min(kLargestExponent).exp();
}

Vector moved(const WeightRange& range, const Rows& y, std::span<const KeyRange> visible, const Vector& centre) {
  Vector sum = Vector::Zero(centre.size()), farthest = sum;
  Eigen::Index n = 0;
  for (const auto& [begin, end] : visible) {
    for (std::int64_t j = begin; j < end; ++j, ++n) {
      const Vector distance = (y.row(j).transpose() - centre).cwiseAbs();
      sum += range.change[n] * distance;
      farthest = farthest.cwiseMax(distance);
    }
  }
  const Vector within = sum.cwiseMin(farthest);  // a mean of the rows stays among them
  return within + (range.factor - 1) * (centre.cwiseAbs() + within);
}

}  // namespace attnspec::reference
