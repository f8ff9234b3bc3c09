#include "reference/noise/sum_noise.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace attnspec::reference {

PredictedRow stored(Vector expected, SumNoise sum, Format format, std::shared_ptr<const Matrix> y) {
  add_output_rounding(expected, format, sum.noise);
  sum.noise.floor *= 1 + unit_roundoff(format);
  return {std::move(expected), std::move(sum), std::move(y)};
}

Groups equal_rows(const Rows& y) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(y.rows()));
  std::iota(rows.begin(), rows.end(), 0);
  return repeated(rows, repeated_rows(y));
}

Groups alike_rows(const Rows& y) {
  const Vector tolerance = unit_roundoff(Format::fp32) * y.cwiseAbs().colwise().sum().transpose();
  const auto are_alike = [&](Eigen::Index a, Eigen::Index b) {
    return ((y.row(a) - y.row(b)).cwiseAbs().array() <= tolerance.transpose().array()).all();
  };
  const Vector sums = y.rowwise().sum();  // of alike rows they lie together, with few others between them
  std::vector<Eigen::Index> order(static_cast<std::size_t>(y.rows()));
  std::iota(order.begin(), order.end(), 0);
  Groups groups;
  if (!sums.allFinite()) return groups;
  std::sort(order.begin(), order.end(), [&](Eigen::Index a, Eigen::Index b) { return sums[a] < sums[b]; });
  for (auto first = order.begin(), next = first; first != order.end(); first = next) {
    for (++next; next != order.end() && are_alike(*first, *next); ++next) continue;
    if (next - first > 1 && !y.row(*first).isZero(0)) groups.emplace_back(first, next);
  }
  return groups;
}

void add_shared(const Groups& groups, const Vector& weights, const Vector& variances, double scale,
                const std::function<Vector(Eigen::Index)>& y, RowErrors& errors) {
  for (const auto& group : groups) {
    Vector sum = Vector::Zero(y(group[0]).size());
    double variance = 0;
    for (const Eigen::Index j : group) {
      sum += weights[j] * y(j);
      variance = std::max(variance, variances[j]);
    }
    errors.shared.push_back(scale * std::sqrt(variance) * sum);
  }
}

RowNoise finished(const Arithmetic& arithmetic, Vector variance, const Vector& worst, const Vector& floor, double n,
                  double factor) {
  RowNoise noise(variance.size());
  noise.variance = std::move(variance);
  noise.worst = (1 + 4 * unit_roundoff(arithmetic.weights)) * worst;  // products of two roundings
  noise.floor = floor.array() + (n + 2) * kFlushed * factor;
  return noise;
}

namespace {

/// Errors of the features of a row that is summed from parts [n, dim]. Features with the same parts, but for a sign,
/// are computed alike: their errors are one. E7.
void add_feature_errors(const Matrix& parts, const Vector& variance, RowErrors& errors) {
  Matrix features = parts.transpose();
  Vector signs = Vector::Ones(features.rows());
  for (Eigen::Index d = 0; d < features.rows(); ++d) {
    Eigen::Index i = 0;
    while (i + 1 < features.cols() && features(d, i) == 0) ++i;
    signs[d] = std::copysign(1.0, features(d, i));
    features.row(d) *= signs[d];
  }
  Vector separate = variance;
  for (const auto& group : equal_rows(view(features))) {
    Vector direction = Vector::Zero(variance.size());
    for (const Eigen::Index d : group) {
      direction[d] = signs[d] * std::sqrt(variance[d]);
      separate[d] = 0;
    }
    errors.shared.push_back(std::move(direction));
  }
  errors.separate += separate;
}

}  // namespace

void add_part_roundings(const Arithmetic& arithmetic, const Matrix& parts, const Vector& sum, SumNoise& noise) {
  const Format format = arithmetic.gradient_part;
  const double n = static_cast<double>(parts.rows()), u = unit_roundoff(format);
  if (parts.rows() == 0 || (parts.rows() == 1 && format == arithmetic.output)) return;
  Vector variances(sum.size());
  for (Eigen::Index d = 0; d < sum.size(); ++d) {
    const Vector x = sorted(parts.col(d));
    const double magnitude = x.cwiseAbs().sum(), largest = (magnitude + std::abs(sum[d])) / 2;
    double variance = 0, worst = 0, floor = 0;
    for (Eigen::Index first = 0, next; first < x.size(); first = next) {
      double alike = 0, total = 0;  // of parts that are equal within a spacing
      for (next = first; next < x.size() && (next == first || x[next] - x[next - 1] <= spacing(x[next], format));
           ++next) {
        alike += std::sqrt(rounding_variance(x[next], format));
        total += std::abs(x[next]);
        worst += rounding_worst(x[next], format);
        if (may_flush(x[next], format)) floor += std::abs(x[next]);
      }
      variance += square(alike);
      if (arithmetic.rounded_gradient_sums && next - first > 1)  // A6
        variance += square(drift(u, static_cast<double>(next - first), largest, total));
    }
    if (arithmetic.rounded_gradient_sums) {
      variance += square(kRounding * u) * ((n - 1) / 2 * x.squaredNorm() + (n - 1) / 3 * square(sum[d]));
      worst += (n - 1) * u * magnitude;
    }
    variances[d] = variance;
    noise.noise.worst[d] += worst;
    noise.noise.floor[d] += floor;
  }
  noise.noise.variance += variances;
  add_feature_errors(parts, variances, noise.errors);
}

void add_move(const Vector& move, Vector& variance, RowErrors& errors) {
  if (move.size() == 0) return;
  const Vector squares = move.cwiseAbs2();
  if (squares.sum() <= 2 * variance.sum() && (squares.array() <= 16 * variance.array()).all()) return;
  errors.shared.push_back(move);
  variance += squares;
}

SumNoise sum_noise(const Arithmetic& arithmetic, const WeightedRows& sum, double n, RowErrors errors,
                   const Vector& centre) {
  const double u = accumulator_roundoff(arithmetic), sigma = std::abs(sum.scale);
  const KeyRange all{0, sum.y.rows()};
  const Rows magnitudes = view(sum.magnitudes);
  const auto y = [&](Eigen::Index t) -> Vector { return sum.y.row(t).transpose(); };
  errors.along = square(sigma) * (sum.variance + term_variance(arithmetic, n) * sum.weights.cwiseAbs2());
  errors.along_centre += accumulation_variance(u, n, 0, 1) + common_variance(arithmetic);
  add_shared(sum.equal, Vector::Ones(sum.y.rows()), sum.rounding, sigma, y, errors);
  add_drifts(u, sum.weights, sum.equal_rows, sigma, y, centre, errors);  // A6
  Vector total = variance(errors, view(sum.y), sum.squares, {&all, 1}, centre);
  add_move(sum.move, total, errors);
  const Vector worst = sum.worst + term_worst(arithmetic, n + 2) * sum.weights.cwiseAbs();
  const Vector floor = sum.floor.any() ? Vector(sigma * combination(sum.floor, magnitudes, {&all, 1}))
                                       : Vector(Vector::Zero(centre.size()));
  RowNoise noise = finished(arithmetic, std::move(total), sigma * combination(worst, magnitudes, {&all, 1}), floor, n,
                            std::max(1.0, sigma));
  return {std::move(errors), std::move(noise)};
}

Vector order_variance(double roundoff, const Vector& weights, const Matrix& y, const Groups& equal_rows,
                      const Vector& bias) {
  const Eigen::Index n = y.rows();
  Eigen::ArrayXd term(y.cols()), sum = Eigen::ArrayXd::Zero(y.cols()), walk = sum, walk_after_bias = sum, largest = sum,
                                 squares = sum, magnitudes = sum;
  for (Eigen::Index t = 0; t < n; ++t) {
    term = weights[t] * y.row(t).transpose().array();
    sum += term;
    walk += sum.square();
    squares += term.square();
    if (bias.size() > 0) walk_after_bias += (bias.array() + sum).square();
    if (equal_rows.empty()) continue;
    largest = largest.max(sum.abs());
    magnitudes += term.abs();
  }
  if (bias.size() > 0) {
    sum += bias.array();
    walk = (walk + sum.square()).max(walk_after_bias);
    squares += bias.array().square();
  }
  Eigen::ArrayXd variance = square(kRounding * roundoff) * walk;
  for (const auto& group : equal_rows)
    for (Eigen::Index d = 0; d < y.cols(); ++d)
      variance[d] += square(drift(roundoff, static_cast<double>(group.size()), largest[d], magnitudes[d]));
  const auto count = static_cast<double>(bias.size() > 0 ? n + 1 : n);
  return (variance - accumulation_variance(roundoff, count, 1, 0) * squares -
          accumulation_variance(roundoff, count, 0, 1) * sum.square())
      .max(0);
}

FeatureSum feature_sum(double roundoff, const Matrix& terms, const Groups& equal, const Vector& sum) {
  const auto n = static_cast<double>(terms.rows());
  RowErrors drifts(sum.size());
  add_drifts(
      roundoff, Vector::Ones(terms.rows()), equal, 1,
      [&](Eigen::Index t) -> Vector { return terms.row(t).transpose(); }, sum, drifts);
  return {drifts.separate + accumulation_variance(roundoff, n, 1, 0) * terms.cwiseAbs2().colwise().sum().transpose() +
              accumulation_variance(roundoff, n, 0, 1) * sum.cwiseAbs2() +
              order_variance(roundoff, Vector::Ones(terms.rows()), terms, {}),
          (n + 2) * roundoff * terms.cwiseAbs().colwise().sum().transpose()};
}

}  // namespace attnspec::reference
