// NSA's gates: how much of each branch a query row takes, and the layer that decides it (paper section 3.2).
//
// Letters: g gate, o output of a branch, x input row of a token, z gate before the sigmoid, t position, h query head.
#pragma once

#include "reference/tensor.hpp"

namespace attnspec::reference {

/// The branches, in the order of the gates of a row.
enum class Branch { compressed, selected, window };

/// The layer in front of the gates. Column 3h + b is gate b of query head h.
struct GateLayer {
  Matrix w;  // [features, 3 H]
  Vector b;  // [3 H]
};

/// g = sigmoid(z), z = W^T x + b. Paper section 3.2. Equation N1.
///
/// x [query tokens, 1, features]; result [query tokens, H, 3], each in 0 .. 1.
Tensor gates(const GateLayer& layer, const Tensor& x);

/// o_t = g_cmp o_cmp + g_slc o_slc + g_win o_win. Paper eq. 5. Equation N2.
///
/// gates [query tokens, H, 3], any numbers; outputs of the branches [query tokens, H, dv].
Tensor combine(const Tensor& gates, const Tensor& compressed, const Tensor& selected, const Tensor& window);

/// do_b = g_b do: the gradient with respect to the output of one branch, [query tokens, H, dv]. Equation N4.
Tensor branch_gradient(const Tensor& gates, const Tensor& d_o, Branch branch);

/// dg_b = <do, o_b>, [query tokens, H, 3]. Equation N5. The outputs are those the forward gave.
Tensor gate_gradients(const Tensor& d_o, const Tensor& compressed, const Tensor& selected, const Tensor& window);

struct GateLayerGradients {
  Tensor x;         // [query tokens, 1, features]
  GateLayer layer;  // as the parameters
};

/// dz = dg g (1 - g), dW = sum_t x dz^T, db = sum_t dz, dx = W dz. Equation N6.
///
/// gates: the result of N1; d_gates [query tokens, H, 3].
GateLayerGradients gates_backward(const GateLayer& layer, const Tensor& x, const Tensor& gates, const Tensor& d_gates);

}  // namespace attnspec::reference
