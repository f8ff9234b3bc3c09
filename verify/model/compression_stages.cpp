#include "verify/model/compression_stages.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace attnspec::verify::model {

namespace {

/// sums += W^T x, row by row of W.
void add_transposed_product(Fp32Products products, const Rows& w, const std::vector<float>& x,
                            std::vector<float>& sums) {
  for (std::int64_t r = 0; r < w.count; ++r)
    add_products(products, x[static_cast<std::size_t>(r)], w.row(r), w.dim, sums.data());
}

/// W y.
std::vector<float> product(Fp32Products products, const Rows& w, const std::vector<float>& y) {
  std::vector<float> result;
  for (std::int64_t r = 0; r < w.count; ++r) result.push_back(dot(products, w.row(r), y.data(), w.dim));
  return result;
}

/// sums += x y^T.
void add_outer_product(Fp32Products products, const std::vector<float>& x, const std::vector<float>& y, Rows& sums) {
  for (std::int64_t r = 0; r < sums.count; ++r)
    add_products(products, x[static_cast<std::size_t>(r)], y.data(), sums.dim, sums.row(r));
}

void add(const std::vector<float>& x, std::vector<float>& sums) {
  for (std::size_t n = 0; n < x.size(); ++n) sums[n] += x[n];
}

void round_all(std::vector<float>& values, reference::Format format) {
  for (float& x : values) x = rounded(x, format);
}

void store_as_weights(std::vector<float>& values, const Arithmetic& arithmetic) {
  for (float& x : values) x = as_weight(x, arithmetic);
}

/// Whether the position encoding reaches the rows as a bias, which all blocks share.
bool has_position_bias(const NsaProblem& nsa, const Arithmetic& arithmetic) {
  return arithmetic.position_bias && nsa.phi == reference::Phi::linear;
}

/// The tokens of a block side by side, with their position encoding unless that is a bias.
std::vector<float> encoded(const CompressWork& work, const Parameters& phi, const Rows& x) {
  std::vector<float> z = x.values;
  if (has_position_bias(work.nsa, work.arithmetic)) return z;
  add(phi.position.values, z);
  store_as_weights(z, work.arithmetic);
  return z;
}

/// The hidden features of the MLP before their activation.
std::vector<float> hidden_of(const CompressWork& work, const Parameters& phi, const std::vector<float>& z) {
  std::vector<float> hidden = phi.b1.values;
  add_transposed_product(work.arithmetic.products, phi.w1, z, hidden);
  return hidden;
}

/// And after it.
std::vector<float> activated(const Stages& stages, const CompressWork& work, std::vector<float> hidden) {
  for (float& x : hidden) x = stages.activation(work.nsa.activation, x);
  store_as_weights(hidden, work.arithmetic);
  return hidden;
}

std::vector<float> mean_of(const Rows& x) {
  std::vector<float> mean(static_cast<std::size_t>(x.dim));
  for (std::int64_t s = 0; s < x.count; ++s)
    for (std::int64_t f = 0; f < x.dim; ++f) mean[static_cast<std::size_t>(f)] += x.row(s)[f];
  for (float& f : mean) f /= static_cast<float>(x.count);
  return mean;
}

}  // namespace

std::int64_t block_start(const CompressWork& work, std::int64_t i) {
  return work.first_token + i * work.nsa.compress_stride;
}

Rows load_block(const Stages& stages, const CompressWork& work, const TensorView& tokens, std::int64_t i,
                std::int64_t g) {
  const std::int64_t begin = stages.block_start(work, i);
  return stages.load(tokens, begin, begin + work.nsa.compress_block, g);
}

Parameters load_parameters(const NsaProblem& nsa, const PhiTensors<TensorView>& phi, std::int64_t g) {
  const std::int64_t set = nsa.shared_phi ? 0 : g;
  Parameters parameters;
  for (std::size_t part = 0; part < kPhiParts<Rows>.size(); ++part) {
    const TensorView& from = phi.*kPhiParts<TensorView>[part].tensor;
    parameters.*kPhiParts<Rows>[part].tensor = correct_stages().load(from, 0, from.tokens, set);
  }
  return parameters;
}

float activation(reference::Activation kind, float x) {
  if (kind == reference::Activation::relu) return std::max(x, 0.0f);
  if (kind == reference::Activation::silu) return x / (1 + std::exp(-x));
  return 0.5f * x * std::erfc(-x / std::numbers::sqrt2_v<float>);
}

float slope(reference::Activation kind, float x) {
  if (kind == reference::Activation::relu) return x > 0 ? 1.0f : 0.0f;
  if (kind == reference::Activation::silu) {
    const float sigmoid = 1 / (1 + std::exp(-x));
    return sigmoid + x * sigmoid * (1 - sigmoid);
  }
  const float density = std::exp(-0.5f * x * x) * std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>;
  return 0.5f * std::erfc(-x / std::numbers::sqrt2_v<float>) + x * density;
}

std::vector<float> compress(const Stages& stages, const CompressWork& work, const Parameters& phi, const Rows& x) {
  if (work.nsa.phi == reference::Phi::mean) return mean_of(x);
  const Fp32Products products = work.arithmetic.products;
  const std::vector<float> z = encoded(work, phi, x);
  std::vector<float> row(static_cast<std::size_t>(x.dim));
  if (work.nsa.phi == reference::Phi::linear) {
    add_transposed_product(products, phi.w, z, row);
  } else {
    row = phi.b2.values;
    add_transposed_product(products, phi.w2, activated(stages, work, hidden_of(work, phi, z)), row);
  }
  if (has_position_bias(work.nsa, work.arithmetic)) {
    std::vector<float> bias(row.size());
    add_transposed_product(products, phi.w, phi.position.values, bias);
    round_all(row, work.arithmetic.input);
    round_all(bias, work.arithmetic.input);
    add(bias, row);
  }
  return row;
}

Rows compress_backward(const Stages& stages, const CompressWork& work, const Parameters& phi, const Rows& x,
                       const std::vector<float>& d_row, ParameterSums& sums) {
  Rows d_x(x.count, x.dim);
  if (work.nsa.phi == reference::Phi::mean) {
    for (std::int64_t s = 0; s < x.count; ++s)
      for (std::int64_t f = 0; f < x.dim; ++f)
        d_x.row(s)[f] = d_row[static_cast<std::size_t>(f)] / static_cast<float>(x.count);
    return d_x;
  }
  const Fp32Products products = work.arithmetic.products;
  const std::vector<float> z = encoded(work, phi, x);
  if (work.nsa.phi == reference::Phi::linear) {
    add_outer_product(products, z, d_row, sums.w);
    d_x.values = product(products, phi.w, d_row);
  } else {
    const std::vector<float> hidden = hidden_of(work, phi, z);
    add_outer_product(products, activated(stages, work, hidden), d_row, sums.w2);
    add(d_row, sums.b2.values);
    std::vector<float> d_hidden = product(products, phi.w2, d_row);
    for (std::size_t n = 0; n < hidden.size(); ++n) d_hidden[n] *= stages.slope(work.nsa.activation, hidden[n]);
    add(d_hidden, sums.b1.values);
    store_as_weights(d_hidden, work.arithmetic);
    add_outer_product(products, z, d_hidden, sums.w1);
    d_x.values = product(products, phi.w1, d_hidden);
  }
  if (has_position_bias(work.nsa, work.arithmetic)) {
    add(d_row, sums.bias.values);
  } else {
    add(d_x.values, sums.position.values);
  }
  return d_x;
}

void add_to_tokens(const Rows& d_x, std::int64_t begin, Rows& sums) {
  for (std::int64_t s = 0; s < d_x.count; ++s)
    for (std::int64_t f = 0; f < d_x.dim; ++f) sums.row(begin + s)[f] += d_x.row(s)[f];
}

void add_to_parameters(const Arithmetic& arithmetic, const ParameterSums& of_head, ParameterSums& sums) {
  for (const auto& [name, part] : kPhiParts<Rows>) {
    add((of_head.*part).values, (sums.*part).values);
    if (arithmetic.rounded_head_gradients && arithmetic.rounded_gradient_sums)
      round_all((sums.*part).values, arithmetic.gradient_part);
  }
  add(of_head.bias.values, sums.bias.values);
}

void finish_parameters(const NsaProblem& nsa, const Arithmetic& arithmetic, const Parameters& phi,
                       ParameterSums& sums) {
  if (!has_position_bias(nsa, arithmetic)) return;
  std::vector<float> d_bias = sums.bias.values;
  round_all(d_bias, arithmetic.output);
  Rows d_w(phi.w.count, phi.w.dim);
  add_outer_product(arithmetic.products, phi.position.values, d_bias, d_w);
  round_all(d_w.values, arithmetic.output);
  round_all(sums.w.values, arithmetic.output);
  add(d_w.values, sums.w.values);
  sums.position.values = product(arithmetic.products, phi.w, d_bias);
}

}  // namespace attnspec::verify::model
