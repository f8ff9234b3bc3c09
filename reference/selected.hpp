// The operator `selected`: attention over given key blocks; MoBA and NSA are selectors in front of it. And the loops
// over rows and key blocks, which NSA's other branches share.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "reference/attention.hpp"
#include "reference/problem.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

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

/// The keys that a query row may see in any block: causality, a window, or compressed rows that are complete.
using Reach = std::function<KeyRange(const Sequence&, std::int64_t token)>;

/// Every key up to the query's own where the problem is causal, else every key.
Reach causal_reach(const AttentionProblem& problem);

/// M6 and M7 over every query row, whatever the reach of each. Arguments as of `selected`.
AttentionOutputs attend_rows(const AttentionProblem& problem, std::int64_t block, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Selection& selection, const Reach& reach);

/// M6 and M7 over every query row, causal where the problem is.
///
/// q [query tokens, H, dk]; k [key tokens, Hkv, dk]; v [key tokens, Hkv, dv]; block in tokens. Empty rows: o = 0,
/// lse = -infinity.
AttentionOutputs selected(const AttentionProblem& problem, std::int64_t block, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Selection& selection);

/// A query row, as packed token and query head.
struct QueryRow {
  std::int64_t token, head;
};

/// The selection inverted: for every key block of one sequence and kv head, the query rows that selected it.
std::vector<std::vector<QueryRow>> queries_by_block(const AttentionProblem& problem, const Sequence& sequence,
                                                    std::int64_t kv_head, std::int64_t block,
                                                    const Selection& selection);

/// A part of one key block, short enough that its gradients stay in a cache.
struct KeyChunk {
  std::int32_t block;
  KeyRange keys;  // positions in the sequence
};
std::vector<KeyChunk> key_chunks(const Sequence& sequence, std::int64_t block);

/// The keys of a chunk that a query sees, if it selected the block.
KeyRange visible_in(const KeyChunk& chunk, KeyRange reach);

/// B1 to B7 over every query row and key, whatever the reach of each row. Arguments as of `selected_backward`.
AttentionGradients attend_rows_backward(const AttentionProblem& problem, std::int64_t block, const Tensor& q,
                                        const Tensor& k, const Tensor& v, const Selection& selection,
                                        const Reach& reach, const Tensor& d_o, const AttentionOutputs& outputs);

/// B1 to B7 over every query row and key, causal where the problem is. Equation B0: the selection is frozen.
///
/// d_o [query tokens, H, dv] is the gradient of a scalar with respect to o; o and lse are what the forward gave.
/// A key that no query sees has gradient 0.
AttentionGradients selected_backward(const AttentionProblem& problem, std::int64_t block, const Tensor& q,
                                     const Tensor& k, const Tensor& v, const Selection& selection, const Tensor& d_o,
                                     const AttentionOutputs& outputs);

}  // namespace attnspec::reference
