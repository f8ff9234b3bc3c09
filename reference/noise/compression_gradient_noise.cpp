#include "reference/noise/compression_gradient_noise.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "reference/noise/operands.hpp"

namespace attnspec::reference {

namespace {

/// Largest curvature of a smooth activation.
double sharpest(Activation kind) { return kind == Activation::silu ? 0.5 : 0.8; }

/// What fp32 does to an activation's slope, at worst. P4.
double slope_error(Activation kind, double x) {
  const double u32 = unit_roundoff(Format::fp32), size = std::abs(x);
  if (kind == Activation::relu) return 0;
  if (kind == Activation::gelu) return 4 * u32 + 0.4 * size * std::exp(-x * x / 2) * (kExpError + 2 * u32 * x * x);
  const double s = 1 / (1 + std::exp(-x));
  return s * (1 + size) * ((1 - s) * (kExpError + 2 * u32 * size) + 2 * u32);
}

/// An activation's slope where its argument is in error.
struct Slope {
  double value, move, deviation, worst;
};

Slope slope(Activation kind, double x, double move, double variance, double worst) {
  const double value = activation_slope(kind, x), sigma = std::sqrt(variance), error = slope_error(kind, x);
  if (kind == Activation::relu) return {value, 0, 0, 0};
  const auto change = [&](double by) { return activation_slope(kind, x + by) - value; };
  const double deviation = std::max(std::abs(change(sigma)), std::abs(change(-sigma)));
  return {value, change(move), std::hypot(deviation, kRounding * error), sharpest(kind) * worst + error};
}

/// Whether unit u of relu may be on or off: from its exact number, with or without the known move, a deviation and
/// kappa deviations of its accumulation may reach 0. P4.
bool is_uncertain(const BlockNoise& block, Eigen::Index u) {
  const double worst = block.hidden_noise.worst[u], x = block.hidden[u], move = block.hidden_move[u];
  const double margin = std::sqrt(block.hidden_noise.variance[u]) + kKappa * std::sqrt(block.hidden_accumulation[u]);
  const bool may_be_0 = x + std::min(0.0, move) <= margin && x + std::max(0.0, move) >= -margin;
  return worst > 0 && std::abs(x) <= worst && may_be_0;
}

/// The accumulation of A x, each number on its own. A2; in the order of x: A7; products are equal where a row of A and
/// x both repeat: A6.
struct ProductNoise {
  Vector variance, worst;  // [rows of A]
};
ProductNoise product_noise(double u, const Factor& a, const Vector& x, const Vector& product) {
  const double n = static_cast<double>(x.size()), ties_of_x = max_ties(x);
  const Vector magnitude = a.rows.magnitudes * x.cwiseAbs();
  ProductNoise noise{accumulation_variance(u, n, 1, 0) * (a.rows.squares * x.cwiseAbs2()) +
                         accumulation_variance(u, n, 0, 1) * product.cwiseAbs2() +
                         order_variance(u, x, a.transposed, {}),
                     (n + 2) * u * magnitude};
  for (Eigen::Index i = 0; i < product.size(); ++i)
    noise.variance[i] += square(product_drift(u, std::min(a.ties[i], ties_of_x), magnitude[i], product[i]));
  return noise;
}

/// Variance of sum_b weights_b x_b, x_b with the deviations of row b: independent, and one error in every group. E6.
Vector grouped_variance(const Matrix& deviations, const Vector& weights, const Groups& groups) {
  Vector result = deviations.cwiseAbs2().transpose() * weights.cwiseAbs2();
  for (const auto& group : groups) {
    Vector sum = Vector::Zero(deviations.cols());
    for (const Eigen::Index b : group) sum += weights[b] * deviations.row(b).transpose();
    result += sum.cwiseAbs2();
  }
  return result;
}

}  // namespace

Factor::Factor(const Matrix& matrix) : rows(matrix), transposed(matrix.transpose()), ties(matrix.rows()) {
  for (Eigen::Index i = 0; i < matrix.rows(); ++i) ties[i] = max_ties(matrix.row(i));
}

HiddenUnits::HiddenUnits(std::int64_t num_blocks, std::int64_t hidden) {
  for (Matrix* matrix :
       {&act, &act_move, &act_variance, &act_worst, &act_floor, &d_hidden, &by_z, &by_d_row, &move, &worst, &floor})
    matrix->resize(num_blocks, hidden);
}

CompressionGradientNoise::CompressionGradientNoise(const Arithmetic& arithmetic, const NsaProblem& problem,
                                                   const PhiHeads& phi, const Tensor& tokens, const Tensor& d_rows,
                                                   std::int64_t set)
    : arithmetic_(arithmetic), problem_(problem), features_(tokens.dim), expected_(zero_phi(problem, tokens.dim)[0]) {
  const PhiParameters parameters = product_operands(arithmetic, phi[static_cast<std::size_t>(set)]);
  const Operand d_row_operands = problem.phi == Phi::mean ? Operand(d_rows) : product_operand(arithmetic, d_rows);
  for (std::int64_t g = 0; g < tokens.heads; ++g)
    for (const CompressionBlock& block : compression_blocks(problem))
      if (problem.shared_phi || g == set) blocks_.push_back({block.begin, block.row, g});
  const std::int64_t l = problem.compress_block, inputs = problem.phi == Phi::mean ? 0 : l * features_;
  const CompressionNoise compression(arithmetic, problem, parameters);
  const Factor w2(parameters.w2);
  Matrix rows(num_blocks(), features_);
  for (Matrix* matrix : {&z_, &z_error_, &z_floor_}) matrix->resize(inputs, num_blocks());
  units_ = HiddenUnits(num_blocks(), parameters.b1.size());
  dx_.resize(num_blocks(), l * features_);
  for (std::int64_t b = 0; b < num_blocks(); ++b) {
    const auto& [begin, row, g] = blocks_[static_cast<std::size_t>(b)];
    const Rows x = tokens.rows(begin, begin + l, g);
    const Vector d_row = d_row_operands->row(row, g);
    rows.row(b) = d_row.transpose();
    dx_.row(b) =
        compress_block_backward(problem, parameters, x, d_row, expected_).reshaped<Eigen::RowMajor>().transpose();
    if (problem.phi == Phi::mean) continue;
    const BlockNoise block = compression.block(x);
    z_.col(b) = block.z;
    z_error_.col(b) = block.z_error;
    z_floor_.col(b) = block.z_floor;
    if (problem.phi == Phi::mlp) {
      set_hidden(b, block, w2, d_row);
      expected_.b2 += d_rows.row(row, g) - d_row;  // no product
    }
  }
  if (has_position_bias(arithmetic, problem)) {
    position_ = parameters.position.reshaped<Eigen::RowMajor>();
    d_bias_ = rows.colwise().sum().transpose();
    d_bias_error_ = d_bias_.unaryExpr([&](double x) { return round_to(x, arithmetic.output) - x; });
    const FeatureSum sum = feature_sum(unit_roundoff(Format::fp32), rows, alike_rows(view(rows)), d_bias_);
    d_bias_deviation_ = (d_bias_error_.cwiseAbs2() + sum.variance).cwiseSqrt();
    d_bias_worst_ = d_bias_error_.cwiseAbs() + sum.worst;
  }
  equal_z_ = equal_rows(view(Matrix(z_.transpose())));
  d_rows_ = SummedRows(std::move(rows));
  d_hidden_ = SummedRows(units_.d_hidden);
  set_input_gradients(problem.phi == Phi::linear ? parameters.w : parameters.w1);
}

void CompressionGradientNoise::set_hidden(std::int64_t b, const BlockNoise& block, const Factor& w2,
                                          const Vector& d_row) {
  units_.act.row(b) = block.act.transpose();
  units_.act_move.row(b) = block.act_move.transpose();
  units_.act_variance.row(b) = block.act_noise.variance.transpose();
  units_.act_worst.row(b) = block.act_noise.worst.transpose();
  units_.act_floor.row(b) = block.act_noise.floor.transpose();
  const double u32 = unit_roundoff(Format::fp32);
  const Vector d_act = *w2.rows.y * d_row;
  const ProductNoise product = product_noise(accumulator_roundoff(arithmetic_), w2, d_row, d_act);
  Vector d_hidden(d_act.size()), by_z(d_act.size());
  RowNoise noise(d_act.size());
  for (Eigen::Index u = 0; u < d_act.size(); ++u) {
    const Slope s = slope(problem_.activation, block.hidden[u], block.hidden_move[u], block.hidden_noise.variance[u],
                          block.hidden_noise.worst[u]);
    d_hidden[u] = d_act[u] * s.value;
    units_.move(b, u) = d_act[u] * s.move;
    units_.by_d_row(b, u) = s.value * std::sqrt(product.variance[u]);
    by_z[u] = d_act[u] * s.deviation;
    noise.variance[u] = square(by_z[u]) + square(units_.by_d_row(b, u)) + square(kRounding * u32 * d_hidden[u]);
    noise.worst[u] =
        (std::abs(s.value) + s.worst) * product.worst[u] + std::abs(d_act[u]) * (s.worst + u32 * std::abs(s.value));
    noise.floor[u] = static_cast<double>(d_row.size() + 2) * kFlushed;      // A5
    if (problem_.activation == Activation::relu && is_uncertain(block, u))  // a product, which is rounded
      noise.floor[u] += (1 + unit_roundoff(arithmetic_.weights)) * (std::abs(d_act[u]) + product.worst[u]);
    if (may_flush(d_hidden[u], arithmetic_.weights)) noise.floor[u] += std::abs(d_hidden[u]);
  }
  add_output_rounding(d_hidden, arithmetic_.weights, noise);
  if (problem_.activation == Activation::relu)  // a slope of 0 or 1: where it is equal, d_hidden is, and rounds equally
    for (Eigen::Index u = 0; u < d_act.size(); ++u)
      units_.by_d_row(b, u) = std::hypot(units_.by_d_row(b, u), std::sqrt(noise.rounding[u]));
  for (Eigen::Index u = 0; u < d_act.size(); ++u)
    units_.by_z(b, u) = std::copysign(std::sqrt(std::max(0.0, noise.variance[u] - square(units_.by_d_row(b, u)))),
                                      by_z[u] == 0 ? d_hidden[u] : by_z[u]);
  units_.d_hidden.row(b) = d_hidden.transpose();
  units_.worst.row(b) = noise.worst.transpose();
  units_.floor.row(b) = noise.floor.transpose();
}

double CompressionGradientNoise::roundoff_of_inputs() const {
  return problem_.phi == Phi::mean ? unit_roundoff(Format::fp32) : accumulator_roundoff(arithmetic_);
}

void CompressionGradientNoise::set_input_gradients(const Matrix& to_input) {
  const double u = roundoff_of_inputs();
  if (problem_.phi == Phi::mean) {
    const double roundings = roundings_of_mean(static_cast<double>(problem_.compress_block));
    dx_deviation_ = std::sqrt(roundings) * kRounding * u * dx_;
    dx_worst_ = roundings * u * dx_.cwiseAbs();
    return;
  }
  Factor factor(to_input);
  dx_deviation_.resize(dx_.rows(), dx_.cols());
  dx_worst_.resize(dx_.rows(), dx_.cols());
  const Matrix& given = problem_.phi == Phi::linear ? *d_rows_.y : *d_hidden_.y;
  for (std::int64_t b = 0; b < num_blocks(); ++b) {
    const ProductNoise product = product_noise(u, factor, given.row(b).transpose(), dx_.row(b).transpose());
    dx_deviation_.row(b) = product.variance.cwiseSqrt().transpose();
    dx_worst_.row(b) = product.worst.transpose();
  }
  to_input_ = std::move(factor.rows);
}

PredictedRow CompressionGradientNoise::sum_of_d_rows(const Inputs& in, Vector expected,
                                                     std::optional<std::int64_t> row_of_w) const {
  if (num_blocks() == 0) return {std::move(expected), {RowErrors(features_), RowNoise(features_)}, {}};
  RowErrors errors(features_);
  errors.separate = order_variance(accumulator_roundoff(arithmetic_), in.values, *d_rows_.y, d_rows_.equal);
  const double position = row_of_w && position_.size() > 0 ? position_[*row_of_w] : 0;
  const Vector product = position == 0 ? expected : Vector(expected - position * d_bias_);
  SumNoise sum = sum_noise(arithmetic_,
                           {*d_rows_.y, d_rows_.squares, d_rows_.magnitudes, in.values, in.variance, in.worst, in.floor,
                            in.variance, 1, in.equal, d_rows_.equal, d_rows_.y->transpose() * in.move},
                           static_cast<double>(num_blocks()), std::move(errors), product);
  add_head_parts(in.values, *d_rows_.y, product, sum);
  if (position != 0) {  // C1: RN(x^T dr) + RN(position S')
    sum.errors.shared.push_back(std::sqrt(sum.errors.along_centre) * product);
    sum.errors.along_centre = 0;
    const Vector variance = (position * d_bias_deviation_).cwiseAbs2();
    sum.errors.separate += variance;
    sum.noise.variance += variance;
    sum.noise.worst += std::abs(position) * d_bias_worst_;
    add_stored_parts(product, position * d_bias_, arithmetic_.output, sum);
  }
  return stored(std::move(expected), std::move(sum), arithmetic_.output, d_rows_.y);
}

void CompressionGradientNoise::add_head_parts(const Vector& values, const Matrix& y, const Vector& expected,
                                              SumNoise& sum) const {
  if (!arithmetic_.rounded_head_gradients || !problem_.shared_phi) return;
  Matrix parts = Matrix::Zero(problem_.attention.kv_heads, y.cols());
  for (std::int64_t b = 0; b < num_blocks(); ++b)
    parts.row(blocks_[static_cast<std::size_t>(b)].kv_head) += values[b] * y.row(b);
  add_part_roundings(arithmetic_, parts, expected, sum);
}

PredictedRow CompressionGradientNoise::sum_of_d_hidden(const Inputs& in, Vector expected) const {
  const Eigen::Index hidden = expected.size();
  if (num_blocks() == 0) return {std::move(expected), {RowErrors(hidden), RowNoise(hidden)}, {}};
  RowErrors errors(hidden);
  errors.separate = grouped_variance(units_.by_z, in.values, equal_z_) +
                    grouped_variance(units_.by_d_row, in.values, d_rows_.equal) +
                    order_variance(accumulator_roundoff(arithmetic_), in.values, *d_hidden_.y, d_hidden_.equal);
  SumNoise sum = sum_noise(
      arithmetic_,
      {*d_hidden_.y, d_hidden_.squares, d_hidden_.magnitudes, in.values, in.variance, in.worst, in.floor, in.variance,
       1, in.equal, d_hidden_.equal, d_hidden_.y->transpose() * in.move + units_.move.transpose() * in.values},
      static_cast<double>(num_blocks()), std::move(errors), expected);
  sum.noise.worst += units_.worst.transpose() * (in.values.cwiseAbs() + in.worst);
  sum.noise.floor += units_.floor.transpose() * in.values.cwiseAbs();
  add_head_parts(in.values, *d_hidden_.y, expected, sum);
  return stored(std::move(expected), std::move(sum), arithmetic_.output, d_hidden_.y);
}

CompressionGradientNoise::Inputs CompressionGradientNoise::inputs(std::int64_t i) const {
  const Vector error = z_error_.row(i).transpose();
  return {z_.row(i).transpose(), error.cwiseAbs2(), error.cwiseAbs(), z_floor_.row(i).transpose(), error, {}};
}

CompressionGradientNoise::Inputs CompressionGradientNoise::ones() const {
  const Vector zero = Vector::Zero(num_blocks());
  return {Vector::Ones(num_blocks()), zero, zero, zero, zero, {}};
}

PredictedRow CompressionGradientNoise::w(std::int64_t i) const {
  return sum_of_d_rows(inputs(i), expected_.w.row(i).transpose(), i);
}

PredictedRow CompressionGradientNoise::w1(std::int64_t i) const {
  return sum_of_d_hidden(inputs(i), expected_.w1.row(i).transpose());
}

PredictedRow CompressionGradientNoise::b1() const { return sum_of_d_hidden(ones(), expected_.b1); }

PredictedRow CompressionGradientNoise::w2(std::int64_t u) const {
  const Vector act = units_.act.col(u);
  return sum_of_d_rows({act, units_.act_variance.col(u), units_.act_worst.col(u), units_.act_floor.col(u),
                        units_.act_move.col(u), equal_groups(act)},
                       expected_.w2.row(u).transpose());
}

PredictedRow CompressionGradientNoise::b2() const { return sum_of_d_rows(ones(), expected_.b2); }

PredictedRow CompressionGradientNoise::position(std::int64_t i) const {
  std::vector<Part> parts;
  for (std::int64_t b = 0; b < num_blocks(); ++b) parts.push_back({b, i});
  return input_gradient(parts, true);
}

PredictedRow CompressionGradientNoise::token(std::int64_t token, std::int64_t kv_head) const {
  std::vector<Part> parts;
  for (std::int64_t b = 0; b < num_blocks(); ++b) {
    const auto& [begin, row, g] = blocks_[static_cast<std::size_t>(b)];
    if (g == kv_head && begin <= token && token < begin + problem_.compress_block) parts.push_back({b, token - begin});
  }
  return input_gradient(parts, false);
}

PredictedRow CompressionGradientNoise::input_gradient(const std::vector<Part>& parts, bool is_parameter) const {
  RowErrors errors(features_);
  Vector expected = Vector::Zero(features_), worst = expected;
  if (parts.empty()) return {std::move(expected), {std::move(errors), RowNoise(features_)}, {}};
  const auto n = static_cast<Eigen::Index>(parts.size());
  Matrix terms(n, features_), deviations(n, features_);
  for (Eigen::Index p = 0; p < n; ++p) {
    const auto& [b, s] = parts[static_cast<std::size_t>(p)];
    terms.row(p) = dx_.row(b).segment(s * features_, features_);
    deviations.row(p) = dx_deviation_.row(b).segment(s * features_, features_);
    worst += dx_worst_.row(b).segment(s * features_, features_).transpose();
  }
  expected = terms.colwise().sum().transpose();
  const Groups equal = equal_rows(view(terms));
  const FeatureSum sum = feature_sum(roundoff_of_inputs(), terms, alike_rows(view(terms)), expected);
  errors.separate = sum.variance + grouped_variance(deviations, Vector::Ones(n), equal);
  if (is_parameter) {  // E7, as far as it can be told before the rest
    SumNoise of_parts{RowErrors(features_), RowNoise(features_)};
    add_head_parts(Vector::Ones(n), terms, expected, of_parts);
    errors.separate += of_parts.errors.separate;
    worst += of_parts.noise.worst;
  }
  if (problem_.phi == Phi::mlp) return through_hidden(parts, std::move(errors), sum.worst + worst, std::move(expected));
  Vector variance = errors.separate;
  if (is_parameter && d_bias_.size() > 0) {  // C1: the error of S' moves the row along the columns of its part of W
    const auto w = to_input_.y->middleRows(parts[0].s * features_, features_);
    for (Eigen::Index d = 0; d < features_; ++d) errors.shared.push_back(d_bias_deviation_[d] * w.col(d));
    for (const Vector& direction : errors.shared) variance += direction.cwiseAbs2();
    worst += w.cwiseAbs() * d_bias_worst_;
    add_move(w * d_bias_error_, variance, errors);
  }
  RowNoise noise = finished(arithmetic_, std::move(variance), sum.worst + worst, Vector::Zero(features_),
                            static_cast<double>(n) * static_cast<double>(features_), 1);
  return stored(std::move(expected), {std::move(errors), std::move(noise)}, arithmetic_.output);
}

PredictedRow CompressionGradientNoise::through_hidden(const std::vector<Part>& parts, RowErrors errors,
                                                      const Vector& worst, Vector expected) const {
  const Eigen::Index hidden = units_.act.cols();
  std::map<std::int64_t, Eigen::Index> first;  // of the rows of y that belong to a place
  for (const Part& part : parts) first.try_emplace(part.s, static_cast<Eigen::Index>(first.size()) * hidden);
  const Eigen::Index n = static_cast<Eigen::Index>(first.size()) * hidden;
  Matrix y(n, features_);
  for (const auto& [s, row] : first)
    y.middleRows(row, hidden) = to_input_.y->middleRows(s * features_, features_).transpose();
  const Vector zero = Vector::Zero(n);
  Vector variance = zero, largest = zero, floor = zero, move = zero;
  for (const auto& [b, s] : parts) {
    const auto part = [&, at = first[s]](Vector& x) { return x.segment(at, hidden); };
    part(variance) += (units_.by_z.row(b).cwiseAbs2() + units_.by_d_row.row(b).cwiseAbs2()).transpose();
    part(largest) += units_.worst.row(b).transpose();
    part(floor) += units_.floor.row(b).transpose();
    part(move) += units_.move.row(b).transpose();
  }
  const auto add_groups = [&](const Groups& groups, const Matrix& deviations) {  // E6
    for (const auto& group : groups) {
      Matrix sums = Matrix::Zero(hidden, features_);
      std::int64_t members = 0;
      for (const auto& [b, s] : parts) {
        if (std::find(group.begin(), group.end(), b) == group.end()) continue;
        sums += deviations.row(b).transpose().asDiagonal() * y.middleRows(first[s], hidden);
        ++members;
      }
      for (Eigen::Index u = 0; members > 1 && u < hidden; ++u) errors.shared.push_back(sums.row(u).transpose());
    }
  };
  add_groups(equal_z_, units_.by_z);
  add_groups(d_rows_.equal, units_.by_d_row);
  const SummedRows rows(std::move(y));
  SumNoise sum = sum_noise(arithmetic_,
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
  return stored(std::move(expected), std::move(sum), arithmetic_.output, rows.y);
}

}  // namespace attnspec::reference
