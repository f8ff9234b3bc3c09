// Attention of one query row over given keys, and its gradients: the part that all operators share.
//
// Letters: t position of the query in its sequence, j position of a key, b key block, h query head, g kv head,
// d feature; q k v o do as in the papers; L = lse; sigma = scale; P weights, dP, dS their gradients and the scores'.
// Deliberately not done: tiles, online softmax, reuse between queries, rounding.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "reference/problem.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// One packed sequence: its queries and its keys as token ranges of the packed tensors.
struct Sequence {
  std::int64_t index = 0;
  std::int64_t q_begin = 0, q_end = 0;
  std::int64_t k_begin = 0, k_end = 0;

  std::int64_t num_queries() const { return q_end - q_begin; }
  std::int64_t num_keys() const { return k_end - k_begin; }
  /// Equation L1: t of a packed query token, bottom-right aligned, so the last query stands at the last key. Negative
  /// for the first queries when there are more queries than keys: those see no key.
  std::int64_t position(std::int64_t token) const { return token - q_begin + num_keys() - num_queries(); }
};

std::vector<Sequence> sequences(const AttentionProblem& problem);

/// The kv head whose keys and values query head h reads: g = floor(h / (H / Hkv)). Equation L2.
std::int64_t kv_head(const AttentionProblem& problem, std::int64_t head);

/// Number of key blocks of a sequence: ceil(num_keys / block); the last one may be short. Equation L3.
std::int64_t num_blocks(std::int64_t num_keys, std::int64_t block);

/// Number of key blocks of the longest sequence, and at least 1.
std::int64_t max_blocks(const AttentionProblem& problem, std::int64_t block);

/// Calls visit(sequence, token, head) for every query row, in parallel. visit must not throw.
void for_each_query(const AttentionProblem& problem,
                    const std::function<void(const Sequence&, std::int64_t token, std::int64_t head)>& visit);

/// Key positions begin .. end - 1 of one sequence; none where begin >= end.
struct KeyRange {
  std::int64_t begin, end;
};

/// The keys that a query at position t may see in any block: those up to its own where causal, else all.
KeyRange causal_reach(std::int64_t t, std::int64_t num_keys, bool causal);

/// J(t) = { j : floor(j / B) in I(t), j in reach }: the keys that a query sees in its selected blocks, as one non-empty
/// range per block. Equation M6.
///
/// blocks: I(t), in any order; -1 and blocks without a visible key add nothing. num_keys, block in tokens.
std::vector<KeyRange> visible_keys(std::span<const std::int32_t> blocks, KeyRange reach, std::int64_t num_keys,
                                   std::int64_t block);

/// <x, row_j> for every visible row j: x [dim], rows [T, dim], result [n].
Vector products(const Row& x, const Rows& rows, std::span<const KeyRange> visible);

/// sum_j weights_j row_j over the visible rows: weights [n], rows [T, dim], result [dim].
Vector combination(const Vector& weights, const Rows& rows, std::span<const KeyRange> visible);

/// What the attention of one query row reads.
struct QkvRows {
  Row q;   // [dk]
  Rows k;  // [T, dk], of the query's sequence and kv head
  Rows v;  // [T, dv], likewise
};

/// Everything the attention of one query row computes; n = number of visible keys, in the order of the ranges.
struct AttendedRow {
  Vector scores;                                          // [n], sigma <q, k_j>, in nats
  Vector weights;                                         // [n], P_j
  Vector o;                                               // [dv]
  double lse = -std::numeric_limits<double>::infinity();  // natural logarithm
};

/// o = sum_j P_j v_j with P = softmax(sigma <q, k_j>) over the visible keys. Equation M7.
///
/// No visible key: o = 0, lse = -infinity.
AttendedRow attend(const QkvRows& in, std::span<const KeyRange> visible, double scale);

/// The gradients of one query row's scores; n as in AttendedRow.
struct RowGradient {
  Vector scores;     // [n]
  Vector weights;    // [n], P_j = exp(sigma <q, k_j> - L) from the given L
  Vector d_weights;  // [n], dP_j = <do, v_j>
  double delta = 0;  // <do, o> from the given o
  Vector d_scores;   // [n], dS_j = P_j (dP_j - delta)
};

/// P, dP, delta and dS of one query row from the o and lse it was given. Equations B1, B2, B3, B4.
///
/// d_o and o [dv]; o and lse are inputs and may carry a kernel's rounding. lse = -infinity means that the row saw no
/// key: all of P is 0.
RowGradient attend_backward(const QkvRows& in, std::span<const KeyRange> visible, double scale, const Row& d_o,
                            const Row& o, double lse);

/// Gives the same row another delta, and the dS that follow from it.
void set_delta(double delta, RowGradient& row);

/// dq = sigma sum_j dS_j k_j, [dk]. Equation B5. No visible key: 0.
Vector query_gradient(const RowGradient& row, const Rows& k, std::span<const KeyRange> visible, double scale);

/// The gradients of some keys, summed over the queries added so far.
struct KeyGradient {
  Matrix dk;  // [keys, dk]
  Matrix dv;  // [keys, dv]
};

/// Adds one query row's part: dv_j += P_j do, dk_j += sigma dS_j q. Equations B6, B7.
///
/// row: attend_backward over the same keys; visible: which rows of the sums they are.
void add_key_gradient(const RowGradient& row, std::span<const KeyRange> visible, const Row& q, const Row& d_o,
                      double scale, KeyGradient& sum);

}  // namespace attnspec::reference
