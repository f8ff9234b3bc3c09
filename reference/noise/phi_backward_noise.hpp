// The terms of phi's gradients: each block's part of the backward, and its errors.
// docs/numerics.md, tags P2, P4, C1. The gradients of the compressed rows that it was given are exact here.
//
// Letters as in nsa_phi.hpp: l tokens of a block, x their rows, dr the gradient of the compressed row; z = x +
// position; and B blocks, of all sequences and of all kv heads that share the parameters.
#pragma once

#include <vector>

#include "reference/noise/compression_noise.hpp"

namespace attnspec::reference {

/// What all blocks know of their hidden units, [B, hidden]: activations, and the gradients before them. Tags P2, P4.
struct HiddenUnits {
  Matrix act, act_move, act_variance, act_worst, act_floor;
  Matrix d_hidden;
  Matrix by_z, by_d_row;      // deviations of d_hidden, signed: of what equal z share, and what equal d_row share
  Matrix move, worst, floor;  // of d_hidden; move: by the known roundings of z

  explicit HiddenUnits(std::int64_t num_blocks = 0, std::int64_t hidden = 0);
};

/// What is summed over blocks, for one set of parameters, and its errors.
struct PhiBackward {
  /// A block: its first token, its compressed row.
  struct Block {
    std::int64_t begin, row, kv_head;
  };

  Arithmetic arithmetic;
  NsaProblem problem;
  std::int64_t features = 0;
  PhiParameters expected;       // the exact gradients of the parameters
  std::vector<Block> blocks;    // [B]
  SummedRows to_input;          // W or W1, [l features, features or hidden]
  SummedRows d_rows, d_hidden;  // [B, features], [B, hidden]
  Matrix z, z_error, z_floor;   // [l features, B]
  Groups equal_z;               // blocks with equal z
  HiddenUnits units;
  Vector position;  // [l features], where phi adds it as one row: C1; or empty
  // Where phi adds position as one row, [features]: the sum S of all d_rows, what rounding it does, and its whole
  // error.
  Vector d_bias, d_bias_error, d_bias_deviation, d_bias_worst;
  Matrix dx, dx_deviation, dx_worst;  // [B, l features], every block's gradient of its tokens; its accumulation

  std::int64_t num_blocks() const { return static_cast<std::int64_t>(blocks.size()); }
};

/// set: of phi, and so the kv head unless all share one; tokens and d_rows of all kv heads, as `compress_backward`
/// takes them.
PhiBackward phi_backward(const Arithmetic& arithmetic, const NsaProblem& problem, const PhiHeads& phi,
                         const Tensor& tokens, const Tensor& d_rows, std::int64_t set);

/// Of the sums that make gradients of tokens.
double roundoff_of_inputs(const PhiBackward& of);

/// Variance of sum_b weights_b x_b, x_b with the deviations of row b: independent, and one error in every group. E6.
Vector grouped_variance(const Matrix& deviations, const Vector& weights, const Groups& groups);

}  // namespace attnspec::reference
