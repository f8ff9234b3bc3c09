// The operator `dense`: full (causal) attention, what every block-sparse operator collapses to.
#pragma once

#include "reference/selected.hpp"

namespace attnspec::reference {

/// J(t) = { j : j <= t } (causal) or every key. Equation D1: `selected` with one block that holds the whole sequence.
AttentionOutputs dense(const AttentionProblem& problem, const Qkv& in);

/// B1 to B7 over the same keys.
AttentionGradients dense_backward(const AttentionProblem& problem, const Qkv& in, const Tensor& d_o,
                                  const AttentionOutputs& outputs);

/// The block size and the selection under which `selected` is dense attention.
struct WholeSequence {
  std::int64_t block;
  Selection selection;
};
WholeSequence whole_sequence(const AttentionProblem& problem);

}  // namespace attnspec::reference
