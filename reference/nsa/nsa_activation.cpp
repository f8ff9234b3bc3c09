#include "reference/nsa/nsa_activation.hpp"

#include <cmath>
#include <numbers>

namespace attnspec::reference {

namespace {

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

double normal_distribution(double x) { return (1 + std::erf(x / std::numbers::sqrt2)) / 2; }

}  // namespace

double relu(double x) { return x > 0 ? x : 0; }

double silu(double x) { return x * logistic(x); }

double gelu(double x) { return x * normal_distribution(x); }

double activation(Activation kind, double x) {
  if (kind == Activation::relu) return relu(x);
  if (kind == Activation::silu) return silu(x);
  return gelu(x);
}

double relu_slope(double x) { return x > 0 ? 1 : 0; }

double silu_slope(double x) { return logistic(x) * (1 + x * (1 - logistic(x))); }

double gelu_slope(double x) {
  return normal_distribution(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
}

double activation_slope(Activation kind, double x) {
  if (kind == Activation::relu) return relu_slope(x);
  if (kind == Activation::silu) return silu_slope(x);
  return gelu_slope(x);
}

}  // namespace attnspec::reference
