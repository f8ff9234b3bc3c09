#include "reference/noise/noise.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace attnspec::reference {

double rounding_variance(double x, Format format) {
  const double s = subnormal_spacing(format);
  const double normal = kRounding * unit_roundoff(format) * x * (format == Format::tf32_cut ? 0.5 : 1);
  return std::max(normal * normal, std::min(x * x, s * s / 12));
}

double rounding_worst(double x, Format format) {
  return std::max(unit_roundoff(format) * std::abs(x), std::min(std::abs(x), subnormal_spacing(format) / 2));
}

bool may_flush(double x, Format format) { return std::abs(x) < std::max(subnormal_spacing(format) / 2, kFlushed); }

double accumulator_roundoff(const Arithmetic& arithmetic) {
  const bool is_fp32 = arithmetic.weights == Format::fp32 && arithmetic.products == Fp32Products::exact;
  return (is_fp32 ? 1 : 2) * unit_roundoff(Format::fp32);
}

double accumulation_variance(double roundoff, double n, double squares, double sum) {
  const double step = kRounding * roundoff;
  return step * step * (n / 2 * squares + n / 3 * sum * sum);
}

double term_variance(const Arithmetic& arithmetic, double n) {
  const double dropped = arithmetic.products == Fp32Products::tf32x3 ? 0.88 * 0x1p-22 : 0;
  return accumulation_variance(accumulator_roundoff(arithmetic), n, 1, 0) + square(dropped);
}

double term_worst(const Arithmetic& arithmetic, double n) {
  return n * accumulator_roundoff(arithmetic) + (arithmetic.products == Fp32Products::tf32x3 ? 0x1p-19 : 0);
}

double common_variance(const Arithmetic& arithmetic) {
  if (arithmetic.weights == Format::tf32_cut) return square(kRounding * unit_roundoff(Format::tf32_cut));
  return arithmetic.products == Fp32Products::tf32x3 ? square(0.52 * 0x1p-22) : 0;
}

Vector sorted(Vector values) {
  std::sort(values.begin(), values.end());
  return values;
}

Groups equal_groups(const Vector& values) { return equal_groups(values, sorted(values)); }

Groups equal_groups(const Vector& values, const Vector& ascending) {
  const auto are_equal = [](double x, double larger) { return x != 0 && larger - x <= 0x1p-22 * std::abs(x); };
  if (std::adjacent_find(ascending.begin(), ascending.end(), are_equal) == ascending.end()) return {};  // as is usual
  std::vector<Eigen::Index> order(static_cast<std::size_t>(values.size()));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](Eigen::Index a, Eigen::Index b) { return values[a] < values[b]; });
  Groups groups;
  for (auto first = order.begin(), next = first; first != order.end(); first = next) {
    for (++next; next != order.end() && are_equal(values[*first], values[*next]); ++next) continue;
    if (next - first > 1) groups.emplace_back(first, next);
  }
  return groups;
}

double drift(double roundoff, double num_equal, double largest, double total) {
  return std::min(num_equal * kRounding * roundoff / 2 * largest, total);
}

double repetition_variance(double roundoff, const Vector& terms) {
  const double sum = terms.sum();
  if (!(sum > 0)) return 0;
  double variance = 0;
  for (Eigen::Index first = 0, next; first < terms.size(); first = next) {
    double total = terms[first];
    for (next = first + 1; next < terms.size() && terms[next] - terms[first] <= roundoff * sum; ++next)
      total += terms[next];
    if (next - first > 1) variance += square(drift(roundoff, static_cast<double>(next - first), 1, total / sum));
  }
  return variance;
}

double max_ties(const Vector& x) {
  std::size_t most = 1;
  for (const auto& group : equal_groups(x.cwiseAbs())) most = std::max(most, group.size());
  return static_cast<double>(most);
}

double product_drift(double roundoff, double ties, double magnitude, double product) {
  return ties > 3 ? drift(roundoff, ties, (magnitude + std::abs(product)) / 2, magnitude) : 0;
}

void add_output_rounding(const Vector& expected, Format output, RowNoise& noise) {
  for (Eigen::Index d = 0; d < expected.size(); ++d) {
    const double magnitude = std::abs(expected[d]);
    const double likely = std::min(magnitude + std::sqrt(noise.variance[d]), largest_finite(output));
    const double s = spacing(likely, output);
    noise.rounding[d] = std::min(likely * likely, s * s / (output == Format::tf32_cut ? 3 : 12));
    noise.variance[d] += noise.rounding[d];
    noise.worst[d] += rounding_worst(magnitude + noise.worst[d], output);
  }
}

KeyValues::KeyValues(const Rows& keys, const Rows& values)
    : k(keys),
      v(values),
      k_squares(keys.cwiseAbs2()),
      v_squares(values.cwiseAbs2()),
      k_magnitudes(keys.cwiseAbs()),
      v_magnitudes(values.cwiseAbs()),
      k_labels(repeated_rows(keys)),
      v_labels(repeated_rows(values)) {}

ScoreNoise score_noise(const Arithmetic& arithmetic, const RowInputs& in, const Vector& scores, double offset) {
  const double u32 = unit_roundoff(Format::fp32), u = accumulator_roundoff(arithmetic), sigma = std::abs(in.scale);
  const double dk = static_cast<double>(in.q.size());
  const Vector squares = products(Vector(in.q.cwiseAbs2()), view(in.kv.k_squares), in.visible);
  const Vector magnitudes = products(Vector(in.q.cwiseAbs()), view(in.kv.k_magnitudes), in.visible);
  const Eigen::ArrayXd shifted = scores.array() - offset;
  // Operands that were cut to tf32 are given: T2. What three products drop is not: T3.
  const double common = arithmetic.products == Fp32Products::tf32x3 ? common_variance(arithmetic) : 0;
  ScoreNoise noise;
  noise.variance = square(sigma) * term_variance(arithmetic, dk) * squares.array() +
                   (accumulation_variance(u, dk, 0, 1) + common) * scores.array().square() +
                   2 * square(kRounding * u32) * (scores.array().square() + shifted.square()) +
                   square(kRounding * kExpError);
  noise.worst = sigma * term_worst(arithmetic, dk) * magnitudes.array() +
                2 * u32 * (scores.array().abs() + shifted.abs()) + kExpError;
  return noise;
}

std::vector<std::int64_t> keys_of(std::span<const KeyRange> visible) {
  std::vector<std::int64_t> keys;
  for (const auto& [begin, end] : visible)
    for (std::int64_t j = begin; j < end; ++j) keys.push_back(j);
  return keys;
}

Groups repeated(const std::vector<std::int64_t>& keys, const std::vector<int>& labels) {
  Groups groups;
  if (labels.empty()) return groups;
  std::map<int, std::vector<Eigen::Index>> by_label;
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (const int label = labels[static_cast<std::size_t>(keys[i])]; label >= 0)
      by_label[label].push_back(static_cast<Eigen::Index>(i));
  for (auto& [label, indices] : by_label)
    if (indices.size() > 1) groups.push_back(std::move(indices));
  return groups;
}

std::vector<int> repeated_rows(const Rows& y) {
  Vector mixture(y.cols());  // equal rows have equal products with it, and others hardly ever
  for (Eigen::Index d = 0; d < y.cols(); ++d) mixture[d] = std::sqrt(static_cast<double>(d) + 2);
  Vector ids(y.rows());
  for (Eigen::Index j = 0; j < y.rows(); ++j) ids[j] = y.row(j).dot(mixture);
  const Groups groups = equal_groups(ids);
  std::vector<int> labels;
  for (const auto& group : groups) {
    for (const Eigen::Index j : group) {
      if (y.row(j) != y.row(group[0])) continue;
      labels.resize(static_cast<std::size_t>(y.rows()), -1);
      labels[static_cast<std::size_t>(j)] = static_cast<int>(group[0]);
    }
  }
  return labels;
}

void add_drifts(double roundoff, const Vector& weights, const Groups& equal_rows, double scale,
                const std::function<Vector(Eigen::Index)>& y, const Vector& centre, RowErrors& errors) {
  if (equal_rows.empty() || !weights.allFinite()) return;  // NaN has no order, and its row is judged by its class
  Eigen::ArrayXd largest = centre.array().abs() / 2;  // partial sums stay below (sum |x| + |sum x|) / 2 in any order
  for (Eigen::Index j = 0; j < weights.size(); ++j) largest += std::abs(scale * weights[j]) / 2 * y(j).array().abs();
  const double tolerance = roundoff * weights.cwiseAbs().sum();
  for (auto rows : equal_rows) {
    std::sort(rows.begin(), rows.end(), [&](Eigen::Index a, Eigen::Index b) { return weights[a] < weights[b]; });
    const Eigen::ArrayXd magnitude = std::abs(scale) * y(rows[0]).array().abs();
    for (auto first = rows.begin(), next = first; first != rows.end(); first = next) {
      double total = 0;
      for (; next != rows.end() && weights[*next] - weights[*first] <= tolerance; ++next)
        total += std::abs(weights[*next]);
      const auto m = static_cast<double>(next - first);
      for (Eigen::Index d = 0; m > 1 && d < centre.size(); ++d)
        errors.separate[d] += square(drift(roundoff, m, largest[d], total * magnitude[d]));
    }
  }
}

Vector variance(const RowErrors& errors, const Rows& y, const Matrix& squares, std::span<const KeyRange> visible,
                const Vector& centre) {
  const Rows y_squares = view(squares);
  Vector result = errors.along_centre * centre.cwiseAbs2();
  if (errors.along_centred.size() == 0) {
    result += combination(errors.along, y_squares, visible);
  } else {
    result += combination(errors.along + errors.along_centred, y_squares, visible);
    result.array() += centre.array() * (errors.along_centred.sum() * centre.array() -
                                        2 * combination(errors.along_centred, y, visible).array());
  }
  for (const Vector& direction : errors.shared) result += direction.cwiseAbs2();
  return (result + errors.separate).cwiseMax(0);
}

namespace {

/// visit(i, j, covariance) for every pair of features that are equal but for their sign: they round equally. A3.
template <class Visit>
void for_each_equal_pair(const Covariance& covariance, const Visit& visit) {
  const Vector &centre = covariance.centre, &rounding = covariance.rounding;
  for (const auto& group : equal_groups(centre.cwiseAbs()))
    for (std::size_t a = 0; a < group.size(); ++a)
      for (std::size_t b = 0; b < a; ++b) {
        const Eigen::Index i = group[a], j = group[b];
        visit(i, j, std::copysign(std::sqrt(rounding[i] * rounding[j]), centre[i] * centre[j]));
      }
}

}  // namespace

double Covariance::along(const Vector& w) const {
  const Eigen::ArrayXd products_with_y = products(w, y, visible);
  const double with_centre = centre.dot(w);
  double result = (errors.along.array() * products_with_y.square()).sum() + errors.along_centre * square(with_centre);
  if (errors.along_centred.size() > 0)
    result += (errors.along_centred.array() * (products_with_y - with_centre).square()).sum();
  for (const Vector& direction : errors.shared) result += square(direction.dot(w));
  result += (errors.separate + rounding).dot(w.cwiseAbs2());
  for_each_equal_pair(*this,
                      [&](Eigen::Index i, Eigen::Index j, double shared) { result += 2 * shared * w[i] * w[j]; });
  double of_parts = 0;
  for (const Covariance& part : parts) of_parts += part.along(w);
  return result + of_parts;
}

Matrix Covariance::matrix() const {
  Matrix result = errors.along_centre * centre * centre.transpose();
  Eigen::Index n = 0;
  for (const auto& [begin, end] : visible) {
    const auto rows = y.middleRows(begin, end - begin);
    result.noalias() += rows.transpose() * errors.along.segment(n, end - begin).asDiagonal() * rows;
    if (errors.along_centred.size() > 0) {
      const Matrix centred = rows.rowwise() - centre.transpose();
      result.noalias() += centred.transpose() * errors.along_centred.segment(n, end - begin).asDiagonal() * centred;
    }
    n += end - begin;
  }
  for (const Vector& direction : errors.shared) result.noalias() += direction * direction.transpose();
  result.diagonal() += errors.separate + rounding;
  for_each_equal_pair(*this, [&](Eigen::Index i, Eigen::Index j, double shared) {
    result(i, j) += shared;
    result(j, i) += shared;
  });
  if (parts.empty()) return result;
  Matrix of_parts = Matrix::Zero(result.rows(), result.cols());
  for (const Covariance& part : parts) of_parts += part.matrix();
  return result + of_parts;
}

double effective_terms(const Matrix& covariance) {
  const double trace = covariance.trace();
  if (!(trace > 0)) return 1;
  Matrix power = covariance / trace;
  for (int squaring = 0; squaring < 5; ++squaring) power = (power * power).eval();
  return std::pow(power.trace(), -1.0 / 32);
}

double row_limit(double effective_terms) { return 1 + kKappa / std::sqrt(effective_terms); }

}  // namespace attnspec::reference
