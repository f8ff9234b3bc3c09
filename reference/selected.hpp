// The operator `selected`: attention over given key blocks; MoBA and NSA are selectors in front of it. And the loops
// over query rows, which NSA's other branches share.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "reference/attention.hpp"
#include "reference/problem.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// What an attention reads.
struct Qkv {
  const Tensor& q;  // [query tokens, H, dk]
  const Tensor& k;  // [key tokens, Hkv, dk]
  const Tensor& v;  // [key tokens, Hkv, dv]
};

/// The part of it that one query row reads.
QkvRows rows_of(const AttentionProblem& problem, const Qkv& in, const Sequence& sequence, std::int64_t token,
                std::int64_t head);

struct AttentionOutputs {
  Tensor o;    // [query tokens, H, dv]
  Tensor lse;  // [query tokens, H, 1], natural logarithm, -infinity where no key is visible
};

struct AttentionGradients {
  Tensor dq;  // [query tokens, H, dk]
  Tensor dk;  // [key tokens, Hkv, dk], summed over the query heads of the group
  Tensor dv;  // [key tokens, Hkv, dv], summed likewise
};

/// Throws InvalidProblem unless selection is [query tokens, H or Hkv, any], every entry is -1 or a block of the
/// query's sequence, and no row names a block twice.
void validate(const AttentionProblem& problem, std::int64_t block, const Selection& selection);

/// The selected blocks of one query row, whether selections are per query head or shared by a group.
std::span<const std::int32_t> selected_blocks(const AttentionProblem& problem, const Selection& selection,
                                              std::int64_t token, std::int64_t head);

/// Runs attend_row(sequence, token, head) for every query row, in parallel, and puts the results together.
AttentionOutputs attend_rows(
    const AttentionProblem& problem,
    const std::function<AttendedRow(const Sequence&, std::int64_t token, std::int64_t head)>& attend_row);

/// M6 and M7 over every query row, causal where the problem is.
///
/// block in tokens. Empty rows: o = 0, lse = -infinity.
AttentionOutputs selected(const AttentionProblem& problem, std::int64_t block, const Qkv& in,
                          const Selection& selection);

/// The keys that a query row sees.
using KeysOfRow = std::function<std::vector<KeyRange>(const Sequence&, std::int64_t token, std::int64_t head)>;

/// B1 to B7 over every query row and the keys that it sees. The other arguments are those of `selected_backward`.
AttentionGradients attend_rows_backward(const AttentionProblem& problem, const Qkv& in, const KeysOfRow& keys_of_row,
                                        const Tensor& d_o, const AttentionOutputs& outputs);

/// B1 to B7 over every query row and key, causal where the problem is. Equation B0: the selection is frozen.
///
/// d_o [query tokens, H, dv] is the gradient of a scalar with respect to o; o and lse are what the forward gave.
/// A key that no query sees has gradient 0.
AttentionGradients selected_backward(const AttentionProblem& problem, std::int64_t block, const Qkv& in,
                                     const Selection& selection, const Tensor& d_o, const AttentionOutputs& outputs);

}  // namespace attnspec::reference
