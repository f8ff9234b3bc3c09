// The activations between the layers of NSA's MLP, and their derivatives.
#pragma once

#include "reference/problem.hpp"

namespace attnspec::reference {

/// max(0, x). Equation C3.
double relu(double x);

/// x / (1 + exp(-x)). Equation C3.
double silu(double x);

/// x (1 + erf(x / sqrt 2)) / 2. Equation C3.
double gelu(double x);

/// The activation that a problem names.
double activation(Activation kind, double x);

/// 1 for x > 0, else 0. Equation C4.
double relu_slope(double x);

/// s (1 + x (1 - s)) with s = 1 / (1 + exp(-x)). Equation C4.
double silu_slope(double x);

/// (1 + erf(x / sqrt 2)) / 2 + x exp(-x^2 / 2) / sqrt(2 pi). Equation C4.
double gelu_slope(double x);

/// The derivative of the activation that a problem names.
double activation_slope(Activation kind, double x);

}  // namespace attnspec::reference
