#include "reference/noise/compression_noise.hpp"

#include <algorithm>
#include <cmath>

#include "reference/noise/operands.hpp"

namespace attnspec::reference {

namespace {

/// The error of rounding x to a format. x beyond its range: none.
double rounding_error(double x, Format format) {
  const double rounded = round_to(x, format);
  return std::isfinite(rounded) ? rounded - x : 0;
}

/// Largest slope of an activation.
double steepest(Activation kind) { return kind == Activation::relu ? 1 : kind == Activation::silu ? 1.1 : 1.13; }

/// Largest slope within kappa deviations of x.
double steepest(Activation kind, double x, double deviation) {
  double slope = std::abs(activation_slope(kind, x));
  for (const double side : {-kKappa, kKappa})
    slope = std::max(slope, std::abs(activation_slope(kind, x + side * deviation)));
  return slope;
}

/// What fp32 does to an activation, at worst. P2.
double activation_error(Activation kind, double x) {
  const double u32 = unit_roundoff(Format::fp32);
  if (kind == Activation::relu) return 0;
  if (kind == Activation::gelu) return 4 * u32 * std::abs(x);
  const double s = 1 / (1 + std::exp(-x));
  return std::abs(x) * s * ((1 - s) * (kExpError + 2 * u32 * std::abs(x)) + 3 * u32);
}

/// A bias b beside the n - 1 other terms of a sum. A2.
void add_bias(const Arithmetic& arithmetic, double n, const Vector& b, SumNoise& sum) {
  const double u = accumulator_roundoff(arithmetic);
  const Vector added = accumulation_variance(u, n, 1, 0) * b.cwiseAbs2();
  sum.errors.separate += added;
  sum.noise.variance += added;
  sum.noise.worst += (n + 2) * u * b.cwiseAbs();
}

/// What rounding inputs of a product to its format does.
Vector input_errors(const Arithmetic& arithmetic, const Vector& z) {
  return z.unaryExpr([&](double x) { return rounding_error(x, arithmetic.weights); });
}

/// Inputs of a product that may be flushed. A5.
Vector input_floor(const Vector& z) {
  return z.unaryExpr([](double x) { return std::abs(x) < kFlushed ? std::abs(x) : 0; });
}

/// The errors of b + sum_u x_u y_u that the order of the u makes; an empty b is none. A7.
RowErrors errors_of_order(const Arithmetic& arithmetic, const Vector& x, const SummedRows& rows, const Vector& b) {
  RowErrors errors(rows.y->cols());
  errors.separate = order_variance(accumulator_roundoff(arithmetic), x, *rows.y, {}, b);
  return errors;
}

/// b + W^T z without what add_bias adds: the z round by z_error, if they are rounded. P1.
SumNoise product_of_inputs(const Arithmetic& arithmetic, const SummedRows& w, const BlockNoise& block, double n,
                           const Vector& product, const Vector& b = {}) {
  return sum_noise(arithmetic,
                   {*w.y,
                    w.squares,
                    w.magnitudes,
                    block.z,
                    block.z_error.cwiseAbs2(),
                    block.z_error.cwiseAbs(),
                    block.z_floor,
                    {},
                    1,
                    {},
                    w.equal,
                    w.y->transpose() * block.z_error},
                   n, errors_of_order(arithmetic, block.z, w, b), product);
}

/// The noise of one + other, two sums along the same rows.
SumNoise sum_of_products(const Vector& one, SumNoise noise, const Vector& other, const SumNoise& added) {
  for (const auto& [sum, errors] : {std::pair(&one, noise.errors), std::pair(&other, added.errors)})
    if (errors.along_centre > 0) noise.errors.shared.push_back(std::sqrt(errors.along_centre) * *sum);
  noise.errors.along_centre = 0;
  noise.errors.along += added.errors.along;
  noise.errors.shared.insert(noise.errors.shared.end(), added.errors.shared.begin(), added.errors.shared.end());
  noise.errors.separate += added.errors.separate;
  noise.noise.variance += added.noise.variance;
  noise.noise.worst += added.noise.worst;
  noise.noise.floor += added.noise.floor;
  return noise;
}

}  // namespace

PhiParameters product_operands(const Arithmetic& arithmetic, PhiParameters phi) {
  const Format format = operand_format(arithmetic);
  if (format == Format::fp32) return phi;
  const auto round = [&](double x) { return round_to(x, format); };
  phi.w = phi.w.unaryExpr(round);
  phi.w1 = phi.w1.unaryExpr(round);
  phi.w2 = phi.w2.unaryExpr(round);
  return phi;
}

bool has_position_bias(const Arithmetic& arithmetic, const NsaProblem& problem) {
  return arithmetic.position_bias && problem.phi == Phi::linear;
}

void add_stored_parts(const Vector& one, const Vector& other, Format format, SumNoise& sum) {
  if (one.isZero(0) || other.isZero(0)) return;
  for (const Vector* part : {&one, &other}) {
    RowNoise noise(part->size());
    noise.variance = sum.noise.variance;
    add_output_rounding(*part, format, noise);
    sum.errors.separate += noise.rounding;
    sum.noise.variance += noise.rounding;
    sum.noise.worst += noise.worst;
  }
}

double roundings_of_mean(double l) { return std::exp2(std::round(std::log2(l))) == l ? 0 : 2; }

SummedRows::SummedRows(Matrix rows)
    : squares(rows.cwiseAbs2()), magnitudes(rows.cwiseAbs()), equal(alike_rows(view(rows))) {
  y = std::make_shared<const Matrix>(std::move(rows));
}

CompressionNoise::CompressionNoise(const Arithmetic& arithmetic, const NsaProblem& problem, PhiParameters phi)
    : arithmetic_(arithmetic),
      problem_(problem),
      phi_(product_operands(arithmetic, std::move(phi))),
      w_(phi_.w),
      w1_(phi_.w1),
      w2_(phi_.w2) {
  if (!has_position_bias(arithmetic, problem)) return;
  BlockNoise position;
  position.z = phi_.position.reshaped<Eigen::RowMajor>();
  position.z_error = input_errors(arithmetic, position.z);
  position.z_floor = input_floor(position.z);
  bias_ = phi_.w.transpose() * position.z;
  bias_noise_ = product_of_inputs(arithmetic, w_, position, static_cast<double>(position.z.size()), bias_);
}

BlockNoise CompressionNoise::block(const Rows& x) const {
  const CompressedBlock exact = compress_block(problem_, phi_, x);
  BlockNoise block;
  block.row = exact.row;
  if (problem_.phi == Phi::mean) return block;
  block.z = has_position_bias(arithmetic_, problem_) ? Vector(Matrix(x).reshaped<Eigen::RowMajor>()) : exact.input;
  block.z_error = input_errors(arithmetic_, block.z);
  block.z_floor = input_floor(block.z);
  if (problem_.phi == Phi::linear) return block;
  block.hidden = exact.hidden;
  add_hidden(block);
  add_activation(block);
  return block;
}

void CompressionNoise::add_hidden(BlockNoise& block) const {
  const double n = static_cast<double>(block.z.size()) + 1;
  const Vector rounding = w1_.squares.transpose() * block.z_error.cwiseAbs2();
  block.hidden_move = phi_.w1.transpose() * block.z_error;
  BlockNoise exact = block;
  exact.z_error.setZero();
  SumNoise hidden = product_of_inputs(arithmetic_, w1_, exact, n, block.hidden, phi_.b1);
  add_bias(arithmetic_, n, phi_.b1, hidden);
  block.hidden_accumulation = hidden.noise.variance;
  block.hidden_noise = std::move(hidden.noise);
  for (Eigen::Index u = 0; u < rounding.size(); ++u) {
    const double move = square(block.hidden_move[u]);
    block.hidden_noise.variance[u] += rounding[u] + (move > 16 * rounding[u] ? move : 0);
  }
  block.hidden_noise.worst += w1_.magnitudes.transpose() * block.z_error.cwiseAbs();
}

void CompressionNoise::add_activation(BlockNoise& block) const {
  const Activation kind = problem_.activation;
  const RowNoise& before = block.hidden_noise;
  RowNoise& noise = block.act_noise = RowNoise(block.hidden.size());
  block.act = block.act_move = block.hidden;
  for (Eigen::Index u = 0; u < block.hidden.size(); ++u) {
    const double hidden = block.hidden[u], act = activation(kind, hidden), error = activation_error(kind, hidden);
    block.act[u] = act;
    block.act_move[u] = activation(kind, hidden + block.hidden_move[u]) - act;
    noise.variance[u] =
        square(steepest(kind, hidden, std::sqrt(before.variance[u]))) * before.variance[u] + square(kRounding * error);
    noise.worst[u] = steepest(kind) * before.worst[u] + error;
    const bool vanishes = may_flush(act, arithmetic_.weights) || (kind != Activation::relu && std::abs(act) < 0x1p-115);
    noise.floor[u] = steepest(kind) * before.floor[u] + (vanishes ? std::abs(act) : 0);  // A5; exp overflows
  }
  add_output_rounding(block.act, arithmetic_.weights, noise);
}

PredictedRow CompressionNoise::mean_row(const Rows& x, const Vector& row) const {
  const double l = static_cast<double>(x.rows()), u = unit_roundoff(Format::fp32);
  const Matrix terms = x / l;
  const FeatureSum sum = feature_sum(u, terms, equal_rows(view(terms)), row);
  RowErrors errors(row.size());
  errors.separate = sum.variance + roundings_of_mean(l) * square(kRounding * u) * row.cwiseAbs2();
  RowNoise noise = finished(arithmetic_, errors.separate, sum.worst, Vector::Zero(row.size()), l, 1);
  return stored(row, {std::move(errors), std::move(noise)}, arithmetic_.input);
}

PredictedRow CompressionNoise::row_with_bias(const BlockNoise& block) const {
  const Vector product = block.row - bias_;
  const auto n = static_cast<double>(block.z.size());
  SumNoise sum = sum_of_products(product, product_of_inputs(arithmetic_, w_, block, n, product), bias_, *bias_noise_);
  add_stored_parts(product, bias_, arithmetic_.input, sum);
  return stored(block.row, std::move(sum), arithmetic_.input, w_.y);
}

PredictedRow CompressionNoise::row(const Rows& x) const {
  const BlockNoise block = this->block(x);
  if (problem_.phi == Phi::mean) return mean_row(x, block.row);
  if (problem_.phi == Phi::linear) {
    if (bias_noise_) return row_with_bias(block);
    const auto n = static_cast<double>(block.z.size());
    return stored(block.row, product_of_inputs(arithmetic_, w_, block, n, block.row), arithmetic_.input, w_.y);
  }
  const double n = static_cast<double>(block.act.size()) + 1;
  const RowNoise& act = block.act_noise;
  SumNoise sum = sum_noise(arithmetic_,
                           {*w2_.y, w2_.squares, w2_.magnitudes, block.act, act.variance, act.worst, act.floor,
                            act.variance, 1, equal_groups(block.act), w2_.equal, phi_.w2.transpose() * block.act_move},
                           n, errors_of_order(arithmetic_, block.act, w2_, phi_.b2), block.row);
  add_bias(arithmetic_, n, phi_.b2, sum);
  return stored(block.row, std::move(sum), arithmetic_.input, w2_.y);
}

}  // namespace attnspec::reference
