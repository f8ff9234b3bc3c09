// The gradients of the second oracle of NSA, written out: with the compressed rows, the selection and the output and
// log-sum-exp of every branch as the backward is given them. Nothing flows through the selection.
#pragma once

#include "reference/selftest/nsa_oracle.hpp"

namespace attnspec::oracle {

/// The derivative of an activation. relu: 0 at 0; silu: s (1 + z (1 - s)) with s = sigmoid(z); gelu: Phi(z) + z Phi'(z)
/// with Phi(z) = (1 + erf(z / sqrt(2))) / 2.
template <class T>
Sum<T> activation_slope(Activation activation, const Sum<T>& z) {
  if (activation == Activation::relu) return T(real_part(z.value) > 0 ? 1 : 0);
  if (activation == Activation::silu) {
    const Sum<T> s = sigmoid(z);
    return s * (T(1) + z * (T(1) - s));
  }
  const Sum<T> density = T(kSqrtHalf * kTwoOverSqrtPi / 2) * exp(z * z / T(-2));
  return (T(1) + erf(z * T(kSqrtHalf))) / T(2) + z * density;
}

/// A tensor of the shape of another, zero.
template <class Number>
Tensor<Sum<Number>> zeros(const Tensor<Number>& like) {
  return {like.tokens, like.heads, like.dim};
}

template <class T>
struct CompressionGradients {
  Tensor<Sum<T>> x;
  PhiParameters<Sum<T>> phi;
};

/// The gradients of y = u W: adds u^T dy to those of W, and returns dy W^T, those of u.
template <class T>
std::vector<Sum<T>> layer_backward(const std::vector<Sum<T>>& u, const Tensor<T>& w, std::int64_t set,
                                   const std::vector<Sum<T>>& d_y, Tensor<Sum<T>>& d_w) {
  std::vector<Sum<T>> d_u(u.size());
  for (std::int64_t row = 0; row < w.tokens; ++row)
    for (std::int64_t column = 0; column < w.dim; ++column) {
      const auto from = static_cast<std::size_t>(row), to = static_cast<std::size_t>(column);
      d_w(row, set, column) += u[from] * d_y[to];
      d_u[from] += d_y[to] * w(row, set, column);
    }
  return d_u;
}

/// The same of y = u W + b, which adds dy to the gradients of b.
template <class T>
std::vector<Sum<T>> layer_backward(const std::vector<Sum<T>>& u, const Tensor<T>& w, std::int64_t set,
                                   const std::vector<Sum<T>>& d_y, Tensor<Sum<T>>& d_w, Tensor<Sum<T>>& d_b) {
  for (std::int64_t column = 0; column < w.dim; ++column) d_b(0, set, column) += d_y[static_cast<std::size_t>(column)];
  return layer_backward(u, w, set, d_y, d_w);
}

/// Adds the gradients of one compression block: d_row [dim] that of its compressed row.
template <class T>
void compress_block_backward(const NsaProblem& problem, const Tensor<T>& x, std::int64_t first_token, std::int64_t g,
                             const PhiParameters<T>& phi, const std::vector<Sum<T>>& d_row,
                             CompressionGradients<T>& sum) {
  if (problem.phi == Phi::mean) {
    for (std::int64_t s = 0; s < problem.compress_block; ++s)
      for (std::int64_t e = 0; e < x.dim; ++e)
        sum.x(first_token + s, g, e) +=
            d_row[static_cast<std::size_t>(e)] / T(static_cast<long double>(problem.compress_block));
    return;
  }
  const std::int64_t set = parameter_set(problem, g);
  const std::vector<Sum<T>> u = encode(x, first_token, g, phi.position, set);
  std::vector<Sum<T>> d_z = d_row;
  if (problem.phi == Phi::mlp) {
    const std::vector<Sum<T>> z = layer(u, phi.w1, phi.b1, set);
    d_z = layer_backward(activate(problem.activation, z), phi.w2, set, d_row, sum.phi.w2, sum.phi.b2);
    for (std::size_t n = 0; n < z.size(); ++n) d_z[n] = d_z[n] * activation_slope(problem.activation, z[n]);
  }
  const std::vector<Sum<T>> d_u = problem.phi == Phi::mlp ? layer_backward(u, phi.w1, set, d_z, sum.phi.w1, sum.phi.b1)
                                                          : layer_backward(u, phi.w1, set, d_z, sum.phi.w1);
  for (std::int64_t s = 0; s < problem.compress_block; ++s)
    for (std::int64_t e = 0; e < x.dim; ++e) {
      const Sum<T>& d = d_u[static_cast<std::size_t>(s * x.dim + e)];
      sum.x(first_token + s, g, e) += d;
      sum.phi.position(s, set, e) += d;
    }
}

/// The gradients of x and of the parameters of phi, summed over the blocks that hold a token, and over those that share
/// a parameter. d_rows [compression blocks, Hkv, dim]: those of the compressed rows.
template <class T>
CompressionGradients<T> compress_backward(const NsaProblem& problem, const Tensor<T>& x, const PhiParameters<T>& phi,
                                          const Tensor<Sum<T>>& d_rows) {
  CompressionGradients<T> sum{zeros(x),
                              {zeros(phi.position), zeros(phi.w1), zeros(phi.b1), zeros(phi.w2), zeros(phi.b2)}};
  const std::vector<std::int64_t> first_tokens = oracle::compression_blocks(problem);
  for (std::int64_t i = 0; i < d_rows.tokens; ++i)
    for (std::int64_t g = 0; g < x.heads; ++g) {
      std::vector<Sum<T>> d_row;
      for (std::int64_t e = 0; e < x.dim; ++e) d_row.push_back(d_rows(i, g, e));
      compress_block_backward(problem, x, first_tokens[static_cast<std::size_t>(i)], g, phi, d_row, sum);
    }
  return sum;
}

/// do_b = g_b do, the gradient of one branch's output, [query tokens, H, dv].
template <class T>
Tensor<Sum<T>> branch_gradient(const Tensor<T>& gates, std::int64_t branch, const Tensor<T>& d_o) {
  Tensor<Sum<T>> scaled = zeros(d_o);
  for (std::int64_t token = 0; token < d_o.tokens; ++token)
    for (std::int64_t h = 0; h < d_o.heads; ++h)
      for (std::int64_t e = 0; e < d_o.dim; ++e)
        scaled(token, h, e) = Sum<T>(gates(token, h, branch)) * d_o(token, h, e);
  return scaled;
}

/// dg_b = <do, o_b>, [query tokens, H, 3].
template <class T>
Tensor<Sum<T>> gates_gradient(const NsaOutputs<T>& outputs, const Tensor<T>& d_o) {
  Tensor<Sum<T>> d_gates(d_o.tokens, d_o.heads, 3);
  for (std::int64_t token = 0; token < d_o.tokens; ++token)
    for (std::int64_t h = 0; h < d_o.heads; ++h) {
      d_gates(token, h, 0) = dot<T>(d_o, token, h, outputs.compressed.o, token, h);
      d_gates(token, h, 1) = dot<T>(d_o, token, h, outputs.selected.o, token, h);
      d_gates(token, h, 2) = dot<T>(d_o, token, h, outputs.window.o, token, h);
    }
  return d_gates;
}

/// a + b + c of three tensors of one shape.
template <class T>
Tensor<Sum<T>> add(Tensor<Sum<T>> a, const Tensor<Sum<T>>& b, const Tensor<Sum<T>>& c) {
  for (std::size_t n = 0; n < a.values.size(); ++n) a.values[n] = a.values[n] + b.values[n] + c.values[n];
  return a;
}

/// The gradients of every input: each branch is attention with do_b, and the gradients of the compressed rows are
/// handed on to phi. dq is summed over the branches.
///
/// rows, blocks, outputs: those the backward is given; d_o [query tokens, H, dv].
template <class T>
NsaTensors<Sum<T>> nsa_backward(const NsaProblem& problem, const NsaTensors<T>& in, const KeyValues<Sum<T>>& rows,
                                const Lists& blocks, const NsaOutputs<T>& outputs, const Tensor<T>& d_o) {
  const AttentionProblem& attention = problem.attention;
  const Gradients<T> compressed = attend_backward(attention, in.q, rows.k, rows.v, compressed_keys(problem),
                                                  branch_gradient(in.gates, 0, d_o), outputs.compressed);
  const Gradients<T> selected =
      attend_backward(attention, in.q, in.selected.k, in.selected.v, selected_keys(attention, problem.block, blocks),
                      branch_gradient(in.gates, 1, d_o), outputs.selected);
  const Gradients<T> window = attend_backward(attention, in.q, in.window.k, in.window.v, window_keys(problem),
                                              branch_gradient(in.gates, 2, d_o), outputs.window);
  const CompressionGradients<T> keys = compress_backward(problem, in.compressed.k, in.phi_k, compressed.dk);
  const CompressionGradients<T> values = compress_backward(problem, in.compressed.v, in.phi_v, compressed.dv);
  return {add(compressed.dq, selected.dq, window.dq),
          {keys.x, values.x},
          {selected.dk, selected.dv},
          {window.dk, window.dv},
          gates_gradient(outputs, d_o),
          keys.phi,
          values.phi};
}

/// The gradients of the gate layer, with dz = dg g (1 - g): dx = dz W^T, dW = x^T dz, db = sum over tokens of dz.
///
/// gates: the g the backward is given; d_gates [query tokens, H, 3].
template <class T>
GateLayer<Sum<T>> gate_backward(const GateLayer<T>& in, const Tensor<Sum<T>>& gates, const Tensor<T>& d_gates) {
  GateLayer<Sum<T>> sum{zeros(in.x), zeros(in.w), zeros(in.b)};
  for (std::int64_t token = 0; token < in.x.tokens; ++token)
    for (std::int64_t h = 0; h < in.w.heads; ++h)
      for (std::int64_t branch = 0; branch < in.w.dim; ++branch) {
        const Sum<T> g = gates(token, h, branch);
        const Sum<T> d_z = d_gates(token, h, branch) * g * (T(1) - g);
        sum.b(0, h, branch) += d_z;
        for (std::int64_t e = 0; e < in.x.dim; ++e) {
          sum.w(e, h, branch) += d_z * in.x(token, 0, e);
          sum.x(token, 0, e) += d_z * in.w(e, h, branch);
        }
      }
  return sum;
}

}  // namespace attnspec::oracle
