// NSA's compression branch: phi makes one row of a block of tokens, and queries attend to those rows (DeepSeek, "Native
// Sparse Attention: Hardware-Aligned and Natively Trainable Sparse Attention", 2025, section 3.3.1).
//
// Letters: l tokens of a compression block, d tokens from the start of one to the start of the next, i compression
// block, x its tokens, K~ V~ compressed rows, t position of the query, h query head, g kv head, N_c compressed rows of
// a sequence, m(t) those visible to t.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/selected.hpp"

namespace attnspec::reference {

/// N_c = max(0, floor((T - l) / d) + 1): the blocks i of tokens id .. id + l - 1 that lie wholly in the sequence. Paper
/// eq. 7. Equation C1. num_keys: T.
std::int64_t num_compressed(const NsaProblem& problem, std::int64_t num_keys);

/// m(t) = max(0, floor((t + 1 - l) / d) + 1): query t sees the rows 0 .. m(t) - 1, whose blocks end at t or before.
/// Equation C2. t < l - 1, and so t < 0: none.
std::int64_t num_visible_compressed(const NsaProblem& problem, std::int64_t t);

/// Where the compressed rows of each sequence begin in the packed tensor, as k_offsets for tokens: [num_sequences + 1].
std::vector<std::int64_t> compressed_offsets(const NsaProblem& problem);

/// A compression block: its tokens in the packed tensor, and its compressed row.
struct CompressionBlock {
  std::int64_t begin, end;  // tokens
  std::int64_t row;
};

/// The blocks of every sequence, in the order of their rows.
std::vector<CompressionBlock> compression_blocks(const NsaProblem& problem);

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

/// relu max(0, x); silu x / (1 + exp(-x)); gelu x (1 + erf(x / sqrt 2)) / 2. Equation C3.
double activation(Activation kind, double x);

/// The derivative of C3: relu 1 for x > 0 and else 0; silu s (1 + x (1 - s)) with s = 1 / (1 + exp(-x)); gelu
/// (1 + erf(x / sqrt 2)) / 2 + x exp(-x^2 / 2) / sqrt(2 pi). Equation C4.
double activation_slope(Activation kind, double x);

/// What phi computes of one block.
struct CompressedBlock {
  Vector input;   // [l features], linear and mlp: x_s + position_s side by side
  Vector hidden;  // [hidden], mlp: b1 + W1^T input, before the activation
  Vector row;     // [features], the compressed row
};

/// phi: the mean of the x_s (C5); W^T input (C6); b2 + W2^T activation(b1 + W1^T input) (C7). Paper eq. 7. Equations
/// C5, C6, C7.
///
/// x [l, features], the tokens of the block; the mean reads no parameters.
CompressedBlock compress_block(const NsaProblem& problem, const PhiParameters& phi, const Rows& x);

/// K~ or V~: phi of every block of every sequence. Equation C8.
///
/// tokens [key tokens, Hkv, features], the branch's own k or v; result [compressed_offsets.back(), Hkv, features]. A
/// sequence of fewer than l tokens has no row.
Tensor compress(const NsaProblem& problem, const PhiHeads& phi, const Tensor& tokens);

/// o = sum_i P_i V~_i with P = softmax(sigma <q, K~_i>) over i < m(t), for one query row. Paper eq. 5, one branch.
/// Equation C9.
///
/// q [dk]; k [N_c, dk] and v [N_c, dv] of the query's sequence and kv head. m(t) = 0: o = 0, lse = -infinity.
AttendedRow attend_compressed(const NsaProblem& problem, const Row& q, const Rows& k, const Rows& v, std::int64_t t);

/// The attention whose keys are the compressed rows. A query's position among them has no meaning.
AttentionProblem compressed_problem(const NsaProblem& problem);

/// C9 over every query row. Equation C10.
///
/// q [query tokens, H, dk]; k and v as `compress` gives them.
AttentionOutputs compressed(const NsaProblem& problem, const Tensor& q, const Tensor& k, const Tensor& v);

/// B1 to B7 over every query row and compressed row. Equation C11.
///
/// d_o is the gradient with respect to this branch's o; o and lse are what the forward gave. dk and dv of the result
/// are those of compressed rows. Queries without a visible row: dq = 0; rows that no query sees: gradient 0.
AttentionGradients compressed_backward(const NsaProblem& problem, const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& d_o, const AttentionOutputs& outputs);

/// The gradients of one block: adds those of phi's parameters to `sum` and returns those of the tokens, [l, features].
/// With dr the row's gradient: mean, dx_s = dr / l (C12). Linear, dW = input dr^T, dx = dposition = W dr (C13). MLP,
/// dW2 = activation(hidden) dr^T, db2 = dr, dhidden = (W2 dr) slope(hidden), dW1 = input dhidden^T, db1 = dhidden,
/// dx = dposition = W1 dhidden (C14). Equations C12, C13, C14.
///
/// d_row [features]; sum has the shapes of zero_phi.
Matrix compress_block_backward(const NsaProblem& problem, const PhiParameters& phi, const Rows& x, const Row& d_row,
                               PhiParameters& sum);

struct CompressionGradients {
  Tensor tokens;  // [key tokens, Hkv, features]
  PhiHeads phi;   // as the parameters
};

/// C12 to C14 over every block: a token in several blocks adds up their gradients, the parameters those of every block
/// (and of every kv head where they are shared). Equation C15.
///
/// d_rows: the gradient of `compress`'s result. Tokens of no block: gradient 0.
CompressionGradients compress_backward(const NsaProblem& problem, const PhiHeads& phi, const Tensor& tokens,
                                       const Tensor& d_rows);

}  // namespace attnspec::reference
