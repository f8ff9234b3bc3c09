#include "reference/nsa/nsa_gates.hpp"

namespace attnspec::reference {

Tensor gates(const GateLayer& layer, const Tensor& x) {
  Tensor result(x.tokens, layer.b.size() / 3, 3);
  for (std::int64_t token = 0; token < x.tokens; ++token) {
    const Vector z = layer.w.transpose() * x.row(token, 0) + layer.b;
    for (std::int64_t h = 0; h < result.heads; ++h)
      result.row(token, h) = 1 / (1 + (-z.segment(3 * h, 3)).array().exp());
  }
  return result;
}

Tensor combine(const Tensor& gates, const Tensor& compressed, const Tensor& selected, const Tensor& window) {
  Tensor o(compressed.tokens, compressed.heads, compressed.dim);
  for (std::int64_t token = 0; token < o.tokens; ++token) {
    for (std::int64_t h = 0; h < o.heads; ++h) {
      const auto g = gates.row(token, h);
      o.row(token, h) = g[0] * compressed.row(token, h) + g[1] * selected.row(token, h) + g[2] * window.row(token, h);
    }
  }
  return o;
}

Tensor branch_gradient(const Tensor& gates, const Tensor& d_o, Branch branch) {
  Tensor result(d_o.tokens, d_o.heads, d_o.dim);
  for (std::int64_t token = 0; token < d_o.tokens; ++token)
    for (std::int64_t h = 0; h < d_o.heads; ++h)
      result.row(token, h) = gates.row(token, h)[static_cast<Eigen::Index>(branch)] * d_o.row(token, h);
  return result;
}

Tensor gate_gradients(const Tensor& d_o, const Tensor& compressed, const Tensor& selected, const Tensor& window) {
  Tensor result(d_o.tokens, d_o.heads, 3);
  for (std::int64_t token = 0; token < d_o.tokens; ++token) {
    for (std::int64_t h = 0; h < d_o.heads; ++h) {
      const auto row = d_o.row(token, h);
      result.row(token, h) << row.dot(compressed.row(token, h)), row.dot(selected.row(token, h)),
          row.dot(window.row(token, h));
    }
  }
  return result;
}

GateLayerGradients gates_backward(const GateLayer& layer, const Tensor& x, const Tensor& gates, const Tensor& d_gates) {
  GateLayerGradients sum{Tensor(x.tokens, 1, x.dim),
                         {Matrix::Zero(layer.w.rows(), layer.w.cols()), Vector::Zero(layer.b.size())}};
  for (std::int64_t token = 0; token < x.tokens; ++token) {
    Vector d_z(layer.b.size());
    for (std::int64_t h = 0; h < gates.heads; ++h) {
      const auto g = gates.row(token, h).array();
      d_z.segment(3 * h, 3) = d_gates.row(token, h).array() * g * (1 - g);
    }
    sum.layer.w += x.row(token, 0) * d_z.transpose();
    sum.layer.b += d_z;
    sum.x.row(token, 0) = layer.w * d_z;
  }
  return sum;
}

}  // namespace attnspec::reference
