// NSA's selection branch: how important the compressed rows say each block is, and which blocks are taken (paper
// section 3.3.2). Attention to them is the operator `selected`, with one selection for all query heads of a group.
//
// Letters: l, d, l' tokens of a compression block, of its stride and of a selection block; i compression block, j
// selection block; p_cmp weights of compressed rows, p_slc of selection blocks; t position of the query, c = floor(t /
// l') its own block, m(t) compressed rows visible to it; h query head, g kv head, G query heads of a group; n top_n.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/nsa/nsa_compression.hpp"
#include "reference/softmax.hpp"

namespace attnspec::reference {

/// p_cmp = softmax(sigma <q, K~_i>) over i < m(t), the weights of compressed attention. Paper eq. 8, with the scale of
/// eq. 2: sums over heads and blocks depend on it. Equation I1.
///
/// q [dk]; k [N_c, dk] of the query's sequence and kv head; result [m(t)]. m(t) = 0: no weights.
Softmax compressed_weights(const NsaProblem& problem, const Row& q, const Rows& k, std::int64_t t);

/// W_ji = |tokens in both compression block i and selection block j| / d. Equation I2.
double overlap_weight(const NsaProblem& problem, std::int64_t j, std::int64_t i);

/// W [num_compressed, num_blocks]: row i holds the overlap weights of compression block i, which ends in those blocks.
Matrix overlap_weights(const NsaProblem& problem, std::int64_t num_compressed, std::int64_t num_blocks);

/// p_slc_j = sum_i W_ji p_cmp_i for the blocks 0 .. c that begin at t or before. Paper eq. 9. Equation I3.
///
/// p_cmp [m(t)]; result [c + 1]. t < 0: no blocks.
Vector block_weights(const NsaProblem& problem, const Vector& p_cmp, std::int64_t t);

/// The queries of all heads of a group at one token, [G, dk].
Matrix group_queries(const NsaProblem& problem, const Tensor& q, std::int64_t token, std::int64_t kv_head);

/// What the importance of the blocks to one token and group is made of.
struct ImportanceRow {
  Matrix p_cmp;       // [G, m(t)]
  Matrix p_slc;       // [G, c + 1]
  Vector importance;  // [c + 1], the sum of p_slc over the group
};

/// p'_j = sum of p_slc_j over the heads of the group. Paper eq. 10. Equation I4.
///
/// q [G, dk] as group_queries gives it; k [N_c, dk] of the sequence and kv head. Without a visible compressed row all
/// blocks have importance 0. t < 0: no blocks.
ImportanceRow importance(const NsaProblem& problem, const Matrix& q, const Rows& k, std::int64_t t);

/// Whether block j is taken whatever its importance: the first ones of the sequence, the query's own block c and the
/// ones before it, each once: j < initial_blocks or c - local_blocks < j <= c. Equation I5.
bool is_forced(const NsaProblem& problem, std::int64_t j, std::int64_t c);

/// I(t): min(n, c + 1) different blocks of 0 .. c, the forced ones and then those of the largest importance. Paper eq.
/// 11 and section 4.1 (n counts the forced blocks). Equation I6.
///
/// importance [c + 1]; result ascending. Ties: the higher importance first, then the lower index. c < n: all blocks.
/// No blocks: empty.
std::vector<std::int32_t> select_blocks(const NsaProblem& problem, const Vector& importance);

/// Slots per row in an NSA selection: top_n, but no more than the longest sequence has blocks, and at least 1.
std::int64_t selection_slots(const NsaProblem& problem);

/// I1 to I6 for every token and kv head: selection [query tokens, Hkv, selection_slots], ascending, then -1. Not
/// differentiated. Equation I7.
///
/// q [query tokens, H, dk]; k as `compress` gives it.
Selection nsa_select(const NsaProblem& problem, const Tensor& q, const Tensor& k);

}  // namespace attnspec::reference
