#include "reference/nsa/nsa_phi.hpp"

namespace attnspec::reference {

std::size_t phi_index(const NsaProblem& problem, std::int64_t g) {
  return problem.shared_phi ? 0 : static_cast<std::size_t>(g);
}

PhiHeads zero_phi(const NsaProblem& problem, std::int64_t features) {
  const std::int64_t inputs = problem.compress_block * features;
  PhiParameters phi;
  if (problem.phi != Phi::mean) phi.position = Matrix::Zero(problem.compress_block, features);
  if (problem.phi == Phi::linear) phi.w = Matrix::Zero(inputs, features);
  if (problem.phi == Phi::mlp) {
    phi.w1 = Matrix::Zero(inputs, problem.hidden);
    phi.b1 = Vector::Zero(problem.hidden);
    phi.w2 = Matrix::Zero(problem.hidden, features);
    phi.b2 = Vector::Zero(features);
  }
  return PhiHeads(problem.shared_phi ? 1 : static_cast<std::size_t>(problem.attention.kv_heads), phi);
}

namespace {

/// The rows of the tokens, each with its position encoding added, side by side: [l features].
Vector input_of(const PhiParameters& phi, const Rows& x) { return (x + phi.position).reshaped<Eigen::RowMajor>(); }

/// The gradient of the input is that of the tokens, and of their position encoding.
Matrix tokens_gradient(const Vector& d_input, const Rows& x, PhiParameters& sum) {
  const Matrix d_x = d_input.reshaped<Eigen::RowMajor>(x.rows(), x.cols());
  sum.position += d_x;
  return d_x;
}

Vector activations(Activation kind, const Vector& hidden) {
  return hidden.unaryExpr([&](double x) { return activation(kind, x); });
}

Vector activation_slopes(Activation kind, const Vector& hidden) {
  return hidden.unaryExpr([&](double x) { return activation_slope(kind, x); });
}

}  // namespace

CompressedBlock compress_mean(const Rows& x) { return {{}, {}, x.colwise().mean()}; }

CompressedBlock compress_linear(const PhiParameters& phi, const Rows& x) {
  CompressedBlock block;
  block.input = input_of(phi, x);
  block.row = phi.w.transpose() * block.input;
  return block;
}

CompressedBlock compress_mlp(Activation kind, const PhiParameters& phi, const Rows& x) {
  CompressedBlock block;
  block.input = input_of(phi, x);
  block.hidden = phi.b1 + phi.w1.transpose() * block.input;
  block.row = phi.b2 + phi.w2.transpose() * activations(kind, block.hidden);
  return block;
}

CompressedBlock compress_block(const NsaProblem& problem, const PhiParameters& phi, const Rows& x) {
  if (problem.phi == Phi::mean) return compress_mean(x);
  if (problem.phi == Phi::linear) return compress_linear(phi, x);
  return compress_mlp(problem.activation, phi, x);
}

Matrix compress_mean_backward(std::int64_t tokens, const Row& d_row) {
  return (d_row / static_cast<double>(tokens)).transpose().replicate(tokens, 1);
}

Matrix compress_linear_backward(const PhiParameters& phi, const Rows& x, const Row& d_row, PhiParameters& sum) {
  sum.w += input_of(phi, x) * d_row.transpose();
  return tokens_gradient(phi.w * d_row, x, sum);
}

Matrix compress_mlp_backward(Activation kind, const PhiParameters& phi, const Rows& x, const Row& d_row,
                             PhiParameters& sum) {
  const CompressedBlock block = compress_mlp(kind, phi, x);
  const Vector d_hidden = (phi.w2 * d_row).cwiseProduct(activation_slopes(kind, block.hidden));
  sum.w2 += activations(kind, block.hidden) * d_row.transpose();
  sum.b2 += d_row;
  sum.w1 += block.input * d_hidden.transpose();
  sum.b1 += d_hidden;
  return tokens_gradient(phi.w1 * d_hidden, x, sum);
}

Matrix compress_block_backward(const NsaProblem& problem, const PhiParameters& phi, const Rows& x, const Row& d_row,
                               PhiParameters& sum) {
  if (problem.phi == Phi::mean) return compress_mean_backward(x.rows(), d_row);
  if (problem.phi == Phi::linear) return compress_linear_backward(phi, x, d_row, sum);
  return compress_mlp_backward(problem.activation, phi, x, d_row, sum);
}

}  // namespace attnspec::reference
