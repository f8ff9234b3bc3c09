#include "reference/noise/phi_backward_noise.hpp"

#include <algorithm>
#include <cmath>

#include "reference/noise/operands.hpp"

namespace attnspec::reference {

namespace {

/// A matrix that products of phi's backward multiply vectors with.
struct Factor {
  SummedRows rows;
  Matrix transposed;
  Vector ties;  // of every row: max_ties

  explicit Factor(const Matrix& matrix);
};

Factor::Factor(const Matrix& matrix) : rows(matrix), transposed(matrix.transpose()), ties(matrix.rows()) {
  for (Eigen::Index i = 0; i < matrix.rows(); ++i) ties[i] = max_ties(matrix.row(i));
}

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

}  // namespace

Vector grouped_variance(const Matrix& deviations, const Vector& weights, const Groups& groups) {
  Vector result = deviations.cwiseAbs2().transpose() * weights.cwiseAbs2();
  for (const auto& group : groups) {
    Vector sum = Vector::Zero(deviations.cols());
    for (const Eigen::Index b : group) sum += weights[b] * deviations.row(b).transpose();
    result += sum.cwiseAbs2();
  }
  return result;
}

HiddenUnits::HiddenUnits(std::int64_t num_blocks, std::int64_t hidden) {
  for (Matrix* matrix :
       {&act, &act_move, &act_variance, &act_worst, &act_floor, &d_hidden, &by_z, &by_d_row, &move, &worst, &floor})
    matrix->resize(num_blocks, hidden);
}

double roundoff_of_inputs(const PhiBackward& of) {
  return of.problem.phi == Phi::mean ? unit_roundoff(Format::fp32) : accumulator_roundoff(of.arithmetic);
}

namespace {

/// The hidden units of block b, and the gradients before their activation. P2, P4.
void set_hidden(PhiBackward& of, std::int64_t b, const BlockNoise& block, const Factor& w2, const Vector& d_row) {
  HiddenUnits& units = of.units;
  units.act.row(b) = block.act.transpose();
  units.act_move.row(b) = block.act_move.transpose();
  units.act_variance.row(b) = block.act_noise.variance.transpose();
  units.act_worst.row(b) = block.act_noise.worst.transpose();
  units.act_floor.row(b) = block.act_noise.floor.transpose();
  const double u32 = unit_roundoff(Format::fp32);
  const Vector d_act = *w2.rows.y * d_row;
  const ProductNoise product = product_noise(accumulator_roundoff(of.arithmetic), w2, d_row, d_act);
  Vector d_hidden(d_act.size()), by_z(d_act.size());
  RowNoise noise(d_act.size());
  for (Eigen::Index u = 0; u < d_act.size(); ++u) {
    const Slope s = slope(of.problem.activation, block.hidden[u], block.hidden_move[u], block.hidden_noise.variance[u],
                          block.hidden_noise.worst[u]);
    d_hidden[u] = d_act[u] * s.value;
    units.move(b, u) = d_act[u] * s.move;
    units.by_d_row(b, u) = s.value * std::sqrt(product.variance[u]);
    by_z[u] = d_act[u] * s.deviation;
    noise.variance[u] = square(by_z[u]) + square(units.by_d_row(b, u)) + square(kRounding * u32 * d_hidden[u]);
    noise.worst[u] =
        (std::abs(s.value) + s.worst) * product.worst[u] + std::abs(d_act[u]) * (s.worst + u32 * std::abs(s.value));
    noise.floor[u] = static_cast<double>(d_row.size() + 2) * kFlushed;        // A5
    if (of.problem.activation == Activation::relu && is_uncertain(block, u))  // a product, which is rounded
      noise.floor[u] += (1 + unit_roundoff(of.arithmetic.weights)) * (std::abs(d_act[u]) + product.worst[u]);
    if (may_flush(d_hidden[u], of.arithmetic.weights)) noise.floor[u] += std::abs(d_hidden[u]);
  }
  add_output_rounding(d_hidden, of.arithmetic.weights, noise);
  // relu has a slope of 0 or 1: where it is equal, d_hidden is, and rounds equally.
  if (of.problem.activation == Activation::relu)
    for (Eigen::Index u = 0; u < d_act.size(); ++u)
      units.by_d_row(b, u) = std::hypot(units.by_d_row(b, u), std::sqrt(noise.rounding[u]));
  for (Eigen::Index u = 0; u < d_act.size(); ++u)
    units.by_z(b, u) = std::copysign(std::sqrt(std::max(0.0, noise.variance[u] - square(units.by_d_row(b, u)))),
                                     by_z[u] == 0 ? d_hidden[u] : by_z[u]);
  units.d_hidden.row(b) = d_hidden.transpose();
  units.worst.row(b) = noise.worst.transpose();
  units.floor.row(b) = noise.floor.transpose();
}

/// The accumulation of every block's gradient of its tokens. P3.
void set_input_gradients(PhiBackward& of, const Matrix& to_input) {
  const double u = roundoff_of_inputs(of);
  if (of.problem.phi == Phi::mean) {
    const double roundings = roundings_of_mean(static_cast<double>(of.problem.compress_block));
    of.dx_deviation = std::sqrt(roundings) * kRounding * u * of.dx;
    of.dx_worst = roundings * u * of.dx.cwiseAbs();
    return;
  }
  Factor factor(to_input);
  of.dx_deviation.resize(of.dx.rows(), of.dx.cols());
  of.dx_worst.resize(of.dx.rows(), of.dx.cols());
  const Matrix& given = of.problem.phi == Phi::linear ? *of.d_rows.y : *of.d_hidden.y;
  for (std::int64_t b = 0; b < of.num_blocks(); ++b) {
    const ProductNoise product = product_noise(u, factor, given.row(b).transpose(), of.dx.row(b).transpose());
    of.dx_deviation.row(b) = product.variance.cwiseSqrt().transpose();
    of.dx_worst.row(b) = product.worst.transpose();
  }
  of.to_input = std::move(factor.rows);
}

/// Where phi adds position as one row: the sum S of all d_rows, and its errors. C1.
void set_bias(PhiBackward& of, const Matrix& position, const Matrix& rows) {
  of.position = position.reshaped<Eigen::RowMajor>();
  of.d_bias = rows.colwise().sum().transpose();
  of.d_bias_error = of.d_bias.unaryExpr([&](double x) { return round_to(x, of.arithmetic.output) - x; });
  const FeatureSum sum = feature_sum(unit_roundoff(Format::fp32), rows, alike_rows(view(rows)), of.d_bias);
  of.d_bias_deviation = (of.d_bias_error.cwiseAbs2() + sum.variance).cwiseSqrt();
  of.d_bias_worst = of.d_bias_error.cwiseAbs() + sum.worst;
}

}  // namespace

PhiBackward phi_backward(const Arithmetic& arithmetic, const NsaProblem& problem, const PhiHeads& phi,
                         const Tensor& tokens, const Tensor& d_rows, std::int64_t set) {
  PhiBackward of;
  of.arithmetic = arithmetic, of.problem = problem, of.features = tokens.dim;
  of.expected = zero_phi(problem, tokens.dim)[0];
  const PhiParameters parameters = product_operands(arithmetic, phi[static_cast<std::size_t>(set)]);
  const Operand d_row_operands = problem.phi == Phi::mean ? Operand(d_rows) : product_operand(arithmetic, d_rows);
  for (std::int64_t g = 0; g < tokens.heads; ++g)
    for (const CompressionBlock& block : compression_blocks(problem))
      if (problem.shared_phi || g == set) of.blocks.push_back({block.begin, block.row, g});
  const std::int64_t l = problem.compress_block, inputs = problem.phi == Phi::mean ? 0 : l * of.features;
  const CompressionNoise compression(arithmetic, problem, parameters);
  const Factor w2(parameters.w2);
  Matrix rows(of.num_blocks(), of.features);
  for (Matrix* matrix : {&of.z, &of.z_error, &of.z_floor}) matrix->resize(inputs, of.num_blocks());
  of.units = HiddenUnits(of.num_blocks(), parameters.b1.size());
  of.dx.resize(of.num_blocks(), l * of.features);
  for (std::int64_t b = 0; b < of.num_blocks(); ++b) {
    const auto& [begin, row, g] = of.blocks[static_cast<std::size_t>(b)];
    const Rows x = tokens.rows(begin, begin + l, g);
    const Vector d_row = d_row_operands->row(row, g);
    rows.row(b) = d_row.transpose();
    of.dx.row(b) =
        compress_block_backward(problem, parameters, x, d_row, of.expected).reshaped<Eigen::RowMajor>().transpose();
    if (problem.phi == Phi::mean) continue;
    const BlockNoise block = compression.block(x);
    of.z.col(b) = block.z;
    of.z_error.col(b) = block.z_error;
    of.z_floor.col(b) = block.z_floor;
    if (problem.phi == Phi::mlp) {
      set_hidden(of, b, block, w2, d_row);
      of.expected.b2 += d_rows.row(row, g) - d_row;  // no product
    }
  }
  if (has_position_bias(arithmetic, problem)) set_bias(of, parameters.position, rows);
  of.equal_z = equal_rows(view(Matrix(of.z.transpose())));
  of.d_rows = SummedRows(std::move(rows));
  of.d_hidden = SummedRows(of.units.d_hidden);
  set_input_gradients(of, problem.phi == Phi::linear ? parameters.w : parameters.w1);
  return of;
}

}  // namespace attnspec::reference
