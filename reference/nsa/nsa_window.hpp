// NSA's sliding window branch (paper section 3.3.3).
//
// Letters: w keys of the window, t position of the query, j of a key.
#pragma once

#include "reference/selected.hpp"

namespace attnspec::reference {

/// { j : t - w < j <= t }, 0 <= j: exactly w keys, the query's own included, fewer at the start. Equation W1. t < 0:
/// none.
KeyRange window_keys(std::int64_t t, std::int64_t window);

/// o = sum_j P_j v_j with P = softmax(sigma <q, k_j>) over the window, for one query row. Equation W2.
///
/// t < 0: o = 0, lse = -infinity.
AttendedRow attend_window(const NsaProblem& problem, const QkvRows& in, std::int64_t t);

/// W2 over every query row. Equation W3.
AttentionOutputs window(const NsaProblem& problem, const Qkv& in);

/// B1 to B7 over every query row and key. Equation W4. d_o is the gradient with respect to this branch's o; o and lse
/// are what the forward gave.
AttentionGradients window_backward(const NsaProblem& problem, const Qkv& in, const Tensor& d_o,
                                   const AttentionOutputs& outputs);

}  // namespace attnspec::reference
