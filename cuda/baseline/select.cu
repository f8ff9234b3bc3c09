// MoBA's selection: mean keys of every block, and the blocks of each query by its scores <q, mean>. Under causality the
// query's own block comes first, then of the blocks before it the best, or the most recent, or the first and the most
// recent; without it the best of all. Of equal scores the earlier block wins. A thread owns one feature of a mean key,
// and one query row of the selection: it looks for the best that comes after the last it took, so that it needs no
// list.
#include <cmath>

#include "cuda/baseline/visit.cuh"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

template <class T>
__global__ void pool_features(Attention a, std::int64_t block, std::int64_t num_means, const std::int64_t* mean_offsets,
                              Rows<const T> k, float* means) {
  const std::int64_t row = global_thread();
  if (row >= num_means * a.kv_heads * a.dk) return;
  const std::int64_t mean = row / (a.kv_heads * a.dk);
  const int g = static_cast<int>(row / a.dk % a.kv_heads), d = static_cast<int>(row % a.dk);
  const Sequence s = sequence_of(a.sequences, mean_offsets, mean);
  const std::int64_t begin = (mean - mean_offsets[s.index]) * block;
  const std::int64_t end = begin + block < s.num_keys ? begin + block : s.num_keys;
  float sum = 0;
  for (std::int64_t j = begin; j < end; ++j) sum += to_float(k.at(s.k_begin + j, g)[d]);
  means[row] = sum / static_cast<float>(end - begin);
}

template <class T>
__global__ void select_rows(Attention a, SelectionRule rule, const std::int64_t* mean_offsets, Rows<const T> q,
                            const float* means, Rows<std::int32_t> selection) {
  const std::int64_t row = global_thread();
  if (row >= a.num_queries * a.heads) return;
  const std::int64_t token = row / a.heads;
  const int h = static_cast<int>(row % a.heads), g = h / (a.heads / a.kv_heads);
  const Sequence s = sequence_of(a.sequences, a.sequences.q_offsets, token);
  const std::int64_t visible = num_visible_keys(a.sequences, s, token - s.q_begin);
  const std::int64_t num_blocks = (visible + rule.block - 1) / rule.block;
  const std::int64_t candidates = a.sequences.is_causal ? num_blocks - 1 : num_blocks;  // the others than the own one
  std::int32_t* selected = selection.at(token, h);
  std::int64_t taken = 0;
  if (a.sequences.is_causal && visible > 0) selected[taken++] = static_cast<std::int32_t>(num_blocks - 1);
  const std::int64_t wanted = visible == 0 ? 0 : rule.top_k < candidates + taken ? rule.top_k : candidates + taken;
  Candidate last{INFINITY, -1};
  for (; taken < wanted; ++taken) {
    if (rule.gate == ATTNSPEC_GATE_WINDOW || (rule.gate == ATTNSPEC_GATE_SINK && taken > 1)) {
      selected[taken] = selected[rule.gate == ATTNSPEC_GATE_SINK && taken == 2 ? 0 : taken - 1] - 1;
      continue;
    }
    if (rule.gate == ATTNSPEC_GATE_SINK) {
      selected[taken] = 0;
      continue;
    }
    Candidate best{-INFINITY, candidates};
    for (std::int64_t b = 0; b < candidates; ++b) {
      const float* mean = means + ((mean_offsets[s.index] + b) * a.kv_heads + g) * a.dk;
      const Candidate candidate{dot(q.at(token, h), mean, a.dk), b};
      if (last.is_before(candidate) && candidate.is_before(best)) best = candidate;
    }
    selected[taken] = static_cast<std::int32_t>(best.block);
    last = best;
  }
  for (; taken < rule.slots; ++taken) selected[taken] = -1;
}

}  // namespace

template <class T>
void pool_keys(const Attention& a, std::int64_t block, std::int64_t num_means, const std::int64_t* mean_offsets,
               Rows<const T> k, float* means, void* stream) {
  launch_rows(pool_features<T>, num_means * a.kv_heads * a.dk, stream, a, block, num_means, mean_offsets, k, means);
}

template <class T>
void select_blocks(const Attention& a, const SelectionRule& rule, const std::int64_t* mean_offsets, Rows<const T> q,
                   const float* means, Rows<std::int32_t> selection, void* stream) {
  launch_rows(select_rows<T>, a.num_queries * a.heads, stream, a, rule, mean_offsets, q, means, selection);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                        \
  template void pool_keys<T>(const Attention&, std::int64_t, std::int64_t, const std::int64_t*, Rows<const T>, float*, \
                             void*);                                                                                   \
  template void select_blocks<T>(const Attention&, const SelectionRule&, const std::int64_t*, Rows<const T>,           \
                                 const float*, Rows<std::int32_t>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)
ATTNSPEC_INSTANTIATE(float)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
