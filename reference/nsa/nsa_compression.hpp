// NSA's compression branch: phi makes one row of each block of tokens, and queries attend to these rows (paper section
// 3.3.1).
//
// Letters: l tokens of a compression block, d tokens from the start of one to the start of the next, i compression
// block, x its tokens, K~ V~ compressed rows, t position of the query, h query head, g kv head, N_c compressed rows of
// a sequence, m(t) those visible to t.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/nsa/nsa_phi.hpp"
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

/// K~ or V~: phi of every block of every sequence. Equation C8.
///
/// tokens [key tokens, Hkv, features], the branch's own k or v; result [compressed_offsets.back(), Hkv, features]. A
/// sequence of fewer than l tokens has no row.
Tensor compress(const NsaProblem& problem, const PhiHeads& phi, const Tensor& tokens);

/// o = sum_i P_i V~_i with P = softmax(sigma <q, K~_i>) over i < m(t), for one query row. Paper eq. 5, one branch.
/// Equation C9.
///
/// k and v of `in` are the compressed rows [N_c, ..] of the query's sequence and kv head. m(t) = 0: o = 0, lse =
/// -infinity.
AttendedRow attend_compressed(const NsaProblem& problem, const QkvRows& in, std::int64_t t);

/// The attention whose keys are the compressed rows. A query's position among them has no meaning.
AttentionProblem compressed_problem(const NsaProblem& problem);

/// C9 over every query row. Equation C10.
///
/// k and v of `in` are the compressed rows, as `compress` gives them.
AttentionOutputs compressed(const NsaProblem& problem, const Qkv& in);

/// B1 to B7 over every query row and compressed row. Equation C11.
///
/// d_o is the gradient with respect to this branch's o; o and lse are what the forward gave. dk and dv of the result
/// are those of compressed rows. Queries without a visible row: dq = 0; rows that no query sees: gradient 0.
AttentionGradients compressed_backward(const NsaProblem& problem, const Qkv& in, const Tensor& d_o,
                                       const AttentionOutputs& outputs);

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
