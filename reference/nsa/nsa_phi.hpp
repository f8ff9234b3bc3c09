// phi, NSA's compression: it makes one row of the l rows of a compression block, and its backward (DeepSeek, "Native
// Sparse Attention: Hardware-Aligned and Natively Trainable Sparse Attention", 2025, section 3.3.1).
//
// Letters: l tokens of a compression block, x their rows, x_s the row of token s, s = 0 .. l - 1; dr the gradient of
// the compressed row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "reference/nsa/nsa_activation.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// Parameters of phi for keys or for values, of one kv head or shared by all; or their gradients. What a kind of phi
/// does not have is empty. Features are those of the rows it compresses: dk or dv.
struct PhiParameters {
  Matrix position;  // [l, features], linear and mlp: position encoding in the block
  Matrix w;         // [l features, features], linear; row s features + f reads feature f of token s
  Matrix w1;        // [l features, hidden], mlp; rows likewise
  Vector b1;        // [hidden], mlp
  Matrix w2;        // [hidden, features], mlp
  Vector b2;        // [features], mlp
};

/// phi for keys or for values: one set of parameters for each kv head, or a single one where they are shared.
using PhiHeads = std::vector<PhiParameters>;

/// Which of the PhiHeads a kv head has.
std::size_t phi_index(const NsaProblem& problem, std::int64_t kv_head);

/// All parameters of phi zero, in the shapes that the problem asks for.
PhiHeads zero_phi(const NsaProblem& problem, std::int64_t features);

/// What phi computes of one block.
struct CompressedBlock {
  Vector input;   // [l features], linear and mlp: x_s + position_s side by side
  Vector hidden;  // [hidden], mlp: b1 + W1^T input, before the activation
  Vector row;     // [features], the compressed row
};

/// The mean of the x_s. Equation C5. It has no parameters, no input and no hidden units.
CompressedBlock compress_mean(const Rows& x);

/// W^T input. Equation C6.
CompressedBlock compress_linear(const PhiParameters& phi, const Rows& x);

/// b2 + W2^T activation(b1 + W1^T input). Paper eq. 7. Equation C7.
CompressedBlock compress_mlp(Activation kind, const PhiParameters& phi, const Rows& x);

/// One compressed row, of the kind of phi that the problem names.
///
/// x [l, features], the tokens of the block.
CompressedBlock compress_block(const NsaProblem& problem, const PhiParameters& phi, const Rows& x);

/// dx_s = dr / l, [l, features]. Equation C12. tokens: l; d_row [features].
Matrix compress_mean_backward(std::int64_t tokens, const Row& d_row);

/// dW = input dr^T, dx = dposition = W dr. Equation C13. Arguments and result as of compress_block_backward.
Matrix compress_linear_backward(const PhiParameters& phi, const Rows& x, const Row& d_row, PhiParameters& sum);

/// dW2 = activation(hidden) dr^T, db2 = dr, dhidden = (W2 dr) slope(hidden), dW1 = input dhidden^T, db1 = dhidden, dx =
/// dposition = W1 dhidden. Equation C14. Arguments and result as of compress_block_backward.
Matrix compress_mlp_backward(Activation kind, const PhiParameters& phi, const Rows& x, const Row& d_row,
                             PhiParameters& sum);

/// The gradients of one block, of the kind of phi that the problem names: adds those of phi's parameters to `sum` and
/// returns those of the tokens, [l, features].
///
/// d_row [features]: dr; sum has the shapes of zero_phi.
Matrix compress_block_backward(const NsaProblem& problem, const PhiParameters& phi, const Rows& x, const Row& d_row,
                               PhiParameters& sum);

}  // namespace attnspec::reference
