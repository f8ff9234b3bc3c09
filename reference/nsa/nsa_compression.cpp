#include "reference/nsa/nsa_compression.hpp"

#include <cmath>
#include <cstddef>
#include <numbers>

namespace attnspec::reference {

namespace {

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

double normal_distribution(double x) { return (1 + std::erf(x / std::numbers::sqrt2)) / 2; }

Vector activations(const NsaProblem& problem, const Vector& hidden) {
  return hidden.unaryExpr([&](double x) { return activation(problem.activation, x); });
}

Vector activation_slopes(const NsaProblem& problem, const Vector& hidden) {
  return hidden.unaryExpr([&](double x) { return activation_slope(problem.activation, x); });
}

}  // namespace

std::int64_t num_compressed(const NsaProblem& problem, std::int64_t num_keys) {
  if (num_keys < problem.compress_block) return 0;
  return (num_keys - problem.compress_block) / problem.compress_stride + 1;
}

std::size_t phi_index(const NsaProblem& problem, std::int64_t g) {
  return problem.shared_phi ? 0 : static_cast<std::size_t>(g);
}

std::int64_t num_visible_compressed(const NsaProblem& problem, std::int64_t t) {
  return num_compressed(problem, t + 1);
}

std::vector<CompressionBlock> compression_blocks(const NsaProblem& problem) {
  std::vector<CompressionBlock> result;
  for (const Sequence& sequence : sequences(problem.attention)) {
    for (std::int64_t i = 0; i < num_compressed(problem, sequence.num_keys()); ++i) {
      const std::int64_t begin = sequence.k_begin + i * problem.compress_stride;
      result.push_back({begin, begin + problem.compress_block, static_cast<std::int64_t>(result.size())});
    }
  }
  return result;
}

std::vector<std::int64_t> compressed_offsets(const NsaProblem& problem) {
  std::vector<std::int64_t> offsets{0};
  for (const Sequence& sequence : sequences(problem.attention))
    offsets.push_back(offsets.back() + num_compressed(problem, sequence.num_keys()));
  return offsets;
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

double activation(Activation kind, double x) {
  if (kind == Activation::relu) return x > 0 ? x : 0;
  if (kind == Activation::silu) return x * logistic(x);
  return x * normal_distribution(x);
}

double activation_slope(Activation kind, double x) {
  if (kind == Activation::relu) return x > 0 ? 1 : 0;
  if (kind == Activation::silu) return logistic(x) * (1 + x * (1 - logistic(x)));
  return normal_distribution(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
}

CompressedBlock compress_block(const NsaProblem& problem, const PhiParameters& phi, const Rows& x) {
  CompressedBlock block;
  if (problem.phi == Phi::mean) {
    block.row = x.colwise().mean();
    return block;
  }
  block.input = (x + phi.position).reshaped<Eigen::RowMajor>();
  if (problem.phi == Phi::linear) {
    block.row = phi.w.transpose() * block.input;
  } else {
    block.hidden = phi.b1 + phi.w1.transpose() * block.input;
    block.row = phi.b2 + phi.w2.transpose() * activations(problem, block.hidden);
  }
  return block;
}

Tensor compress(const NsaProblem& problem, const PhiHeads& phi, const Tensor& tokens) {
  Tensor rows(compressed_offsets(problem).back(), problem.attention.kv_heads, tokens.dim);
  for (std::int64_t g = 0; g < problem.attention.kv_heads; ++g)
    for (const auto& [begin, end, row] : compression_blocks(problem))
      rows.row(row, g) = compress_block(problem, phi[phi_index(problem, g)], tokens.rows(begin, end, g)).row;
  return rows;
}

AttentionProblem compressed_problem(const NsaProblem& problem) {
  AttentionProblem rows = problem.attention;
  rows.k_offsets = compressed_offsets(problem);
  return rows;
}

AttendedRow attend_compressed(const NsaProblem& problem, const Row& q, const Rows& k, const Rows& v, std::int64_t t) {
  const KeyRange visible{0, num_visible_compressed(problem, t)};
  return attend(q, k, v, {&visible, 1}, problem.attention.scale);
}

AttentionOutputs compressed(const NsaProblem& problem, const Tensor& q, const Tensor& k, const Tensor& v) {
  const AttentionProblem rows = compressed_problem(problem);
  return attend_rows(
      rows, [&, in_tokens = sequences(problem.attention)](const Sequence& in_rows, std::int64_t token, std::int64_t h) {
        const std::int64_t g = kv_head(rows, h), t = in_tokens[static_cast<std::size_t>(in_rows.index)].position(token);
        return attend_compressed(problem, q.row(token, h), k.rows(in_rows.k_begin, in_rows.k_end, g),
                                 v.rows(in_rows.k_begin, in_rows.k_end, g), t);
      });
}

AttentionGradients compressed_backward(const NsaProblem& problem, const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& d_o, const AttentionOutputs& outputs) {
  const auto keys_of_row = [&, in_tokens = sequences(problem.attention)](const Sequence& in_rows, std::int64_t token,
                                                                         std::int64_t) {
    const std::int64_t t = in_tokens[static_cast<std::size_t>(in_rows.index)].position(token);
    return std::vector{KeyRange{0, num_visible_compressed(problem, t)}};
  };
  return attend_rows_backward(compressed_problem(problem), q, k, v, keys_of_row, d_o, outputs);
}

Matrix compress_block_backward(const NsaProblem& problem, const PhiParameters& phi, const Rows& x, const Row& d_row,
                               PhiParameters& sum) {
  if (problem.phi == Phi::mean) return (d_row / static_cast<double>(x.rows())).transpose().replicate(x.rows(), 1);
  const CompressedBlock block = compress_block(problem, phi, x);
  Vector d_input;
  if (problem.phi == Phi::linear) {
    sum.w += block.input * d_row.transpose();
    d_input = phi.w * d_row;
  } else {
    sum.w2 += activations(problem, block.hidden) * d_row.transpose();
    sum.b2 += d_row;
    const Vector d_hidden = (phi.w2 * d_row).cwiseProduct(activation_slopes(problem, block.hidden));
    sum.w1 += block.input * d_hidden.transpose();
    sum.b1 += d_hidden;
    d_input = phi.w1 * d_hidden;
  }
  const Matrix d_x = d_input.reshaped<Eigen::RowMajor>(x.rows(), x.cols());
  sum.position += d_x;
  return d_x;
}

CompressionGradients compress_backward(const NsaProblem& problem, const PhiHeads& phi, const Tensor& tokens,
                                       const Tensor& d_rows) {
  CompressionGradients sum{Tensor(tokens.tokens, tokens.heads, tokens.dim), zero_phi(problem, tokens.dim)};
  for (std::int64_t g = 0; g < problem.attention.kv_heads; ++g) {
    const std::size_t parameters = phi_index(problem, g);
    for (const auto& [begin, end, row] : compression_blocks(problem)) {
      const Matrix d_x = compress_block_backward(problem, phi[parameters], tokens.rows(begin, end, g),
                                                 d_rows.row(row, g), sum.phi[parameters]);
      for (std::int64_t s = 0; s < d_x.rows(); ++s) sum.tokens.row(begin + s, g) += d_x.row(s);
    }
  }
  return sum;
}

}  // namespace attnspec::reference
