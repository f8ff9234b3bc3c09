#include "reference/noise/compression_gradient_noise.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <vector>

namespace attnspec::reference {

namespace {

/// What every block's gradient is multiplied with, [B], and its errors.
struct Inputs {
  Vector values, variance, worst, floor, move;
  Groups equal;  // blocks whose values are equal and err together, if their move does not say so
};

/// A block, and a place 0 .. l - 1 in it.
struct Part {
  std::int64_t block, s;
};

Inputs inputs(const PhiBackward& of, std::int64_t i) {
  const Vector error = of.z_error.row(i).transpose();
  return {of.z.row(i).transpose(), error.cwiseAbs2(), error.cwiseAbs(), of.z_floor.row(i).transpose(), error, {}};
}

Inputs ones(const PhiBackward& of) {
  const Vector zero = Vector::Zero(of.num_blocks());
  return {Vector::Ones(of.num_blocks()), zero, zero, zero, zero, {}};
}

/// The roundings of each kv head's part of a parameter's gradient, sum_b values_b y_b. Tag E7.
void add_head_parts(const PhiBackward& of, const Vector& values, const Matrix& y, const Vector& expected,
                    SumNoise& sum) {
  if (!of.arithmetic.rounded_head_gradients || !of.problem.shared_phi) return;
  Matrix parts = Matrix::Zero(of.problem.attention.kv_heads, y.cols());
  for (std::int64_t b = 0; b < of.num_blocks(); ++b)
    parts.row(of.blocks[static_cast<std::size_t>(b)].kv_head) += values[b] * y.row(b);
  add_part_roundings(of.arithmetic, parts, expected, sum);
}

/// sum_b in_b dr_b. row_of_w: of W, to whose gradient position adds its part where phi has it as a bias. Tags P5, C1.
PredictedRow sum_of_d_rows(const PhiBackward& of, const Inputs& in, Vector expected,
                           std::optional<std::int64_t> row_of_w = {}) {
  if (of.num_blocks() == 0) return {std::move(expected), {RowErrors(of.features), RowNoise(of.features)}, {}};
  RowErrors errors(of.features);
  errors.separate = order_variance(accumulator_roundoff(of.arithmetic), in.values, *of.d_rows.y, of.d_rows.equal);
  const double position = row_of_w && of.position.size() > 0 ? of.position[*row_of_w] : 0;
  const Vector product = position == 0 ? expected : Vector(expected - position * of.d_bias);
  SumNoise sum = sum_noise(of.arithmetic,
                           {*of.d_rows.y, of.d_rows.squares, of.d_rows.magnitudes, in.values, in.variance, in.worst,
                            in.floor, in.variance, 1, in.equal, of.d_rows.equal, of.d_rows.y->transpose() * in.move},
                           static_cast<double>(of.num_blocks()), std::move(errors), product);
  add_head_parts(of, in.values, *of.d_rows.y, product, sum);
  if (position != 0) {  // C1: RN(x^T dr) + RN(position S')
    sum.errors.shared.push_back(std::sqrt(sum.errors.along_centre) * product);
    sum.errors.along_centre = 0;
    const Vector variance = (position * of.d_bias_deviation).cwiseAbs2();
    sum.errors.separate += variance;
    sum.noise.variance += variance;
    sum.noise.worst += std::abs(position) * of.d_bias_worst;
    add_stored_parts(product, position * of.d_bias, of.arithmetic.output, sum);
  }
  return stored(std::move(expected), std::move(sum), of.arithmetic.output, of.d_rows.y);
}

/// sum_b in_b dh_b. Tags P4, P5.
PredictedRow sum_of_d_hidden(const PhiBackward& of, const Inputs& in, Vector expected) {
  const Eigen::Index hidden = expected.size();
  if (of.num_blocks() == 0) return {std::move(expected), {RowErrors(hidden), RowNoise(hidden)}, {}};
  RowErrors errors(hidden);
  errors.separate = grouped_variance(of.units.by_z, in.values, of.equal_z) +
                    grouped_variance(of.units.by_d_row, in.values, of.d_rows.equal) +
                    order_variance(accumulator_roundoff(of.arithmetic), in.values, *of.d_hidden.y, of.d_hidden.equal);
  SumNoise sum = sum_noise(of.arithmetic,
                           {*of.d_hidden.y, of.d_hidden.squares, of.d_hidden.magnitudes, in.values, in.variance,
                            in.worst, in.floor, in.variance, 1, in.equal, of.d_hidden.equal,
                            of.d_hidden.y->transpose() * in.move + of.units.move.transpose() * in.values},
                           static_cast<double>(of.num_blocks()), std::move(errors), expected);
  sum.noise.worst += of.units.worst.transpose() * (in.values.cwiseAbs() + in.worst);
  sum.noise.floor += of.units.floor.transpose() * in.values.cwiseAbs();
  add_head_parts(of, in.values, *of.d_hidden.y, expected, sum);
  return stored(std::move(expected), std::move(sum), of.arithmetic.output, of.d_hidden.y);
}

/// The gradient of the tokens goes through the hidden units, whose errors move it along the columns of W1. Tags P3, P4.
PredictedRow through_hidden(const PhiBackward& of, const std::vector<Part>& parts, RowErrors errors,
                            const Vector& worst, Vector expected) {
  const Eigen::Index hidden = of.units.act.cols();
  std::map<std::int64_t, Eigen::Index> first;  // of the rows of y that belong to a place
  for (const Part& part : parts) first.try_emplace(part.s, static_cast<Eigen::Index>(first.size()) * hidden);
  const Eigen::Index n = static_cast<Eigen::Index>(first.size()) * hidden;
  Matrix y(n, of.features);
  for (const auto& [s, row] : first)
    y.middleRows(row, hidden) = of.to_input.y->middleRows(s * of.features, of.features).transpose();
  const Vector zero = Vector::Zero(n);
  Vector variance = zero, largest = zero, floor = zero, move = zero;
  for (const auto& [b, s] : parts) {
    const auto part = [&, at = first[s]](Vector& x) { return x.segment(at, hidden); };
    part(variance) += (of.units.by_z.row(b).cwiseAbs2() + of.units.by_d_row.row(b).cwiseAbs2()).transpose();
    part(largest) += of.units.worst.row(b).transpose();
    part(floor) += of.units.floor.row(b).transpose();
    part(move) += of.units.move.row(b).transpose();
  }
  const auto add_groups = [&](const Groups& groups, const Matrix& deviations) {  // E6
    for (const auto& group : groups) {
      Matrix sums = Matrix::Zero(hidden, of.features);
      std::int64_t members = 0;
      for (const auto& [b, s] : parts) {
        if (std::find(group.begin(), group.end(), b) == group.end()) continue;
        sums += deviations.row(b).transpose().asDiagonal() * y.middleRows(first[s], hidden);
        ++members;
      }
      for (Eigen::Index u = 0; members > 1 && u < hidden; ++u) errors.shared.push_back(sums.row(u).transpose());
    }
  };
  add_groups(of.equal_z, of.units.by_z);
  add_groups(of.d_rows.equal, of.units.by_d_row);
  const SummedRows rows(std::move(y));
  SumNoise sum = sum_noise(of.arithmetic,
                           {*rows.y,
                            rows.squares,
                            rows.magnitudes,
                            zero,
                            variance,
                            largest,
                            floor,
                            {},
                            1,
                            {},
                            {},
                            rows.y->transpose() * move},
                           0, std::move(errors), expected);
  sum.noise.worst += worst;
  sum.noise.floor.array() += static_cast<double>(parts.size()) * static_cast<double>(hidden) * kFlushed;
  return stored(std::move(expected), std::move(sum), of.arithmetic.output, rows.y);
}

/// The gradient of a token or, if is_parameter, of a row of position. Tags P3, C1.
PredictedRow input_gradient(const PhiBackward& of, const std::vector<Part>& parts, bool is_parameter) {
  RowErrors errors(of.features);
  Vector expected = Vector::Zero(of.features), worst = expected;
  if (parts.empty()) return {std::move(expected), {std::move(errors), RowNoise(of.features)}, {}};
  const auto n = static_cast<Eigen::Index>(parts.size());
  Matrix terms(n, of.features), deviations(n, of.features);
  for (Eigen::Index p = 0; p < n; ++p) {
    const auto& [b, s] = parts[static_cast<std::size_t>(p)];
    terms.row(p) = of.dx.row(b).segment(s * of.features, of.features);
    deviations.row(p) = of.dx_deviation.row(b).segment(s * of.features, of.features);
    worst += of.dx_worst.row(b).segment(s * of.features, of.features).transpose();
  }
  expected = terms.colwise().sum().transpose();
  const Groups equal = equal_rows(view(terms));
  const FeatureSum sum = feature_sum(roundoff_of_inputs(of), terms, alike_rows(view(terms)), expected);
  errors.separate = sum.variance + grouped_variance(deviations, Vector::Ones(n), equal);
  if (is_parameter) {  // E7, as far as it can be told before the rest
    SumNoise of_parts{RowErrors(of.features), RowNoise(of.features)};
    add_head_parts(of, Vector::Ones(n), terms, expected, of_parts);
    errors.separate += of_parts.errors.separate;
    worst += of_parts.noise.worst;
  }
  if (of.problem.phi == Phi::mlp)
    return through_hidden(of, parts, std::move(errors), sum.worst + worst, std::move(expected));
  Vector variance = errors.separate;
  if (is_parameter && of.d_bias.size() > 0) {  // C1: the error of S' moves the row along the columns of its part of W
    const auto w = of.to_input.y->middleRows(parts[0].s * of.features, of.features);
    for (Eigen::Index d = 0; d < of.features; ++d) errors.shared.push_back(of.d_bias_deviation[d] * w.col(d));
    for (const Vector& direction : errors.shared) variance += direction.cwiseAbs2();
    worst += w.cwiseAbs() * of.d_bias_worst;
    add_move(w * of.d_bias_error, variance, errors);
  }
  RowNoise noise = finished(of.arithmetic, std::move(variance), sum.worst + worst, Vector::Zero(of.features),
                            static_cast<double>(n) * static_cast<double>(of.features), 1);
  return stored(std::move(expected), {std::move(errors), std::move(noise)}, of.arithmetic.output);
}

}  // namespace

PredictedRow w_gradient(const PhiBackward& of, std::int64_t i) {
  return sum_of_d_rows(of, inputs(of, i), of.expected.w.row(i).transpose(), i);
}

PredictedRow w1_gradient(const PhiBackward& of, std::int64_t i) {
  return sum_of_d_hidden(of, inputs(of, i), of.expected.w1.row(i).transpose());
}

PredictedRow b1_gradient(const PhiBackward& of) { return sum_of_d_hidden(of, ones(of), of.expected.b1); }

PredictedRow w2_gradient(const PhiBackward& of, std::int64_t u) {
  const Vector act = of.units.act.col(u);
  return sum_of_d_rows(of,
                       {act, of.units.act_variance.col(u), of.units.act_worst.col(u), of.units.act_floor.col(u),
                        of.units.act_move.col(u), equal_groups(act)},
                       of.expected.w2.row(u).transpose());
}

PredictedRow b2_gradient(const PhiBackward& of) { return sum_of_d_rows(of, ones(of), of.expected.b2); }

PredictedRow position_gradient(const PhiBackward& of, std::int64_t i) {
  std::vector<Part> parts;
  for (std::int64_t b = 0; b < of.num_blocks(); ++b) parts.push_back({b, i});
  return input_gradient(of, parts, true);
}

PredictedRow token_gradient(const PhiBackward& of, std::int64_t token, std::int64_t kv_head) {
  std::vector<Part> parts;
  for (std::int64_t b = 0; b < of.num_blocks(); ++b) {
    const auto& [begin, row, g] = of.blocks[static_cast<std::size_t>(b)];
    if (g == kv_head && begin <= token && token < begin + of.problem.compress_block)
      parts.push_back({b, token - begin});
  }
  return input_gradient(of, parts, false);
}

}  // namespace attnspec::reference
