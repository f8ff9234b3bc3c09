// NSA's selection: the importance of a block to a query is p' = sum over the heads of the group and the compressed rows
// i that overlap it of |tokens in both| / stride exp(scale <q, k_i> - lse). The first blocks of the sequence and the
// query's own with those before it are forced; the others that begin at the query or before follow by their importance,
// of equal ones the earlier. A thread owns one query and kv head: it keeps those it has seen in order.
#include <cmath>

#include "cuda/baseline/nsa.hpp"
#include "cuda/baseline/visit.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

/// How many tokens compressed row i and a block have in common.
__device__ __forceinline__ std::int64_t num_shared_tokens(const Attention& a, const ImportanceRule& rule,
                                                          std::int64_t i, std::int64_t block) {
  const std::int64_t row_begin = i * a.reach.stride, row_end = row_begin + a.reach.tokens;
  const std::int64_t begin = block * rule.block, end = begin + rule.block;
  return (row_end < end ? row_end : end) - (row_begin > begin ? row_begin : begin);
}

template <class T>
__device__ __forceinline__ float importance(const Attention& a, const ImportanceRule& rule, const Sequence& s,
                                            std::int64_t token, int g, Rows<const T> q, Rows<const T> k,
                                            Rows<const float> lse, std::int64_t block) {
  const std::int64_t visible = visible_keys(a, s, token - s.q_begin).end, begin = block * rule.block;
  const std::int64_t first = begin < a.reach.tokens ? 0 : (begin - a.reach.tokens) / a.reach.stride + 1;
  const int group = a.heads / a.kv_heads;
  float sum = 0;
  for (int h = g * group; h < (g + 1) * group; ++h) {
    for (std::int64_t i = first; i < visible && i * a.reach.stride < begin + rule.block; ++i) {
      const float p = expf(a.scale * dot(q.at(token, h), k.at(s.k_begin + i, g), a.dk) - *lse.at(token, h));
      sum += static_cast<float>(num_shared_tokens(a, rule, i, block) / a.reach.stride) * p;
    }
  }
  return sum;
}

template <class T>
__global__ void select_rows(Attention a, ImportanceRule rule, Rows<const T> q, Rows<const T> k, Rows<const float> lse,
                            float* importances, Rows<std::int32_t> selection) {
  const std::int64_t row = global_thread();
  if (row >= a.num_queries * a.kv_heads) return;
  const std::int64_t token = row / a.kv_heads;
  const int g = static_cast<int>(row % a.kv_heads);
  const Sequence s = sequence_of(a.sequences, a.sequences.q_offsets, token);
  const std::int64_t num_blocks =
      (num_visible_tokens(a, s, token - s.q_begin) + rule.block - 1) / rule.block;  // with the query's own
  const std::int64_t wanted = rule.top_n < num_blocks ? rule.top_n : num_blocks;
  const auto is_forced = [&](std::int64_t b) { return b < rule.initial_blocks || b >= num_blocks - rule.local_blocks; };
  std::int32_t* selected = selection.at(token, g);
  float* scores = importances + row * rule.slots;
  std::int64_t forced = 0;
  for (std::int64_t b = 0; b < num_blocks; ++b)
    if (is_forced(b)) selected[forced++] = static_cast<std::int32_t>(b);
  for (std::int64_t slot = forced; slot < rule.slots; ++slot) {
    selected[slot] = -1;
    scores[slot] = -INFINITY;
  }
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    if (is_forced(b)) continue;
    Candidate moved{importance(a, rule, s, token, g, q, k, lse, b), b};
    for (std::int64_t slot = forced; slot < wanted; ++slot) {
      const Candidate held{scores[slot], selected[slot]};
      if (!moved.is_before(held)) continue;
      scores[slot] = moved.score;
      selected[slot] = static_cast<std::int32_t>(moved.block);
      moved = held;
    }
  }
}

}  // namespace

template <class T>
void select_important_blocks(const Attention& a, const ImportanceRule& rule, Rows<const T> q, Rows<const T> k,
                             Rows<const float> lse, float* importances, Rows<std::int32_t> selection, void* stream) {
  launch_rows(select_rows<T>, a.num_queries * a.kv_heads, stream, a, rule, q, k, lse, importances, selection);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                   \
  template void select_important_blocks<T>(const Attention&, const ImportanceRule&, Rows<const T>, Rows<const T>, \
                                           Rows<const float>, float*, Rows<std::int32_t>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)
ATTNSPEC_INSTANTIATE(float)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
