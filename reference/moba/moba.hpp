// MoBA: mixture of block attention (Moonshot AI, "MoBA: Mixture of Block Attention for Long-Context LLMs", 2025).
//
// Letters: B block size, K top_k, b block, t position of the query, c = floor(t / B) its own block.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/selected.hpp"
#include "reference/top_k.hpp"

namespace attnspec::reference {

/// kbar_b = mean of the keys of block b, over the tokens the block really has. Report eq. 6. Equation M2.
///
/// k [T, dk] of one sequence and kv head; result [ceil(T / B), dk]. T = 0: no rows.
Matrix pool_keys(const Rows& k, std::int64_t block);

/// s_b = <q, kbar_b>: no softmax scale, no softmax. Report eq. 6. Equation M3.
///
/// q [dk]; pooled [n, dk]; result [n].
Vector gate_scores(const Row& q, const Rows& pooled);

/// The last `wanted` blocks of `past`: the gate `window`. Equation M5.
std::vector<std::int32_t> select_window(std::int64_t past, std::int64_t wanted);

/// Block 0 and the last `wanted` - 1 blocks of `past`: the gate `sink`. Equation M5. wanted = 0: none.
std::vector<std::int32_t> select_sink(std::int64_t past, std::int64_t wanted);

/// I(t): the query's own block c, and the min(K - 1, c) blocks that the gate selects of the c blocks wholly in the
/// past. Report eq. 7 and its footnote 3 (K counts the own block). Equation M4.
///
/// scores [>= c]: gate scores of the sequence's blocks (read by the top_k gate alone); t in tokens; num_blocks of the
/// sequence. Result ascending. Fewer than K visible blocks: all of them. Causal and t < 0, or no blocks: empty. Not
/// causal: no block is forced, and the K best of all blocks are selected.
std::vector<std::int32_t> select_blocks(const MobaProblem& problem, const Vector& scores, std::int64_t t,
                                        std::int64_t num_blocks);

/// Slots per row in a MoBA selection: top_k, but no more than the longest sequence has blocks, and at least 1.
std::int64_t selection_slots(const MobaProblem& problem);

/// M2 to M5 for every query row: selection [query tokens, H, selection_slots], ascending, then -1.
Selection moba_select(const MobaProblem& problem, const Tensor& q, const Tensor& k);

struct MobaOutputs {
  Selection selection;
  AttentionOutputs attention;
};

/// MoBA forward. Equation M8: moba_select, then `selected`. Its backward is `selected_backward` on that selection,
/// which is not differentiated.
MobaOutputs moba(const MobaProblem& problem, const Qkv& in);

}  // namespace attnspec::reference
