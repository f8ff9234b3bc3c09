// MoBA's selection: the query's own block first, then of the blocks before it the best by the gate; without causality
// the best of all. top_k goes by the scores <q, kbar_b>, and kbar_b is the mean of the block's keys, both in fp32; of
// equal scores the earlier block wins. window takes the latest blocks, sink the first and then the latest.
//
// q [query tokens, H, dk], k [key tokens, Hkv, dk], rows on multiples of 16 bytes; selection [query tokens, H, slots].
// First a thread block of 128 threads owns a key block and kv head: as many lanes as have a mean's features multiply it
// with a row of q. Then a thread block owns a row, a thread every kBestThreads-th block of its scores. Shared memory:
// WarpKeySums, 4 KB; BestRanks.
#include <cstdint>

#include "cuda/gathered_queries/key_means.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/split_keys/best_blocks.cuh"
#include "cuda/split_keys/sequences.cuh"
#include "cuda/split_keys/stages.hpp"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

using gathered_queries::kMeanBlocks;
using gathered_queries::kMeanThreads;
using gathered_queries::kMeanWarps;
using gathered_queries::kVectorFeatures;
using gathered_queries::lanes_of_key;
using gathered_queries::mean_of_keys;
using gathered_queries::WarpKeySums;
using query_tiles::keys_of;

namespace {

template <class T>
__global__ void __launch_bounds__(kMeanThreads, kMeanBlocks)
    score_block(Problem p, BlockSelectionRule rule, Tokens tokens, Rows<const T> q, Rows<const T> k, Scores scores,
                int lanes) {
  auto& shared = static_shared<WarpKeySums>();

  // phase 1 - the key block, and the tokens [first, last) that may select it
  const int kv_head = block_index().x % p.kv_heads, number = block_index().x / p.kv_heads;
  const Sequence s = sequence_of(p.sequences, rule.block_offsets, number);
  const int block = number - static_cast<int>(rule.block_offsets[s.index]);
  const std::int64_t begin = std::int64_t{block} * rule.block, behind = begin + rule.block;
  const std::int64_t query = p.sequences.is_causal ? behind - (s.num_keys - s.num_queries) : 0;
  const auto most = [](std::int64_t a, std::int64_t b) { return a > b ? a : b; };
  const auto least = [](std::int64_t a, std::int64_t b) { return a < b ? a : b; };
  const std::int64_t first = most(tokens.first, s.q_begin + most(query, 0));
  const std::int64_t last = least(tokens.first + tokens.count, s.q_begin + s.num_queries);
  if (first >= last) return;

  // phase 2 - its mean
  float mean[kVectorFeatures];
  mean_of_keys(k, s.k_begin + begin, s.k_begin + least(behind, s.num_keys), kv_head, p.dk, lanes, shared, mean);

  // phase 3 - the scores of the tokens' rows
  const int rows = static_cast<int>(last - first) * p.group, rows_of_warp = kWarpLanes / lanes;
  const int feature = lane_index() % lanes * kVectorFeatures;
  for (int of_warp = warp_index() * rows_of_warp; of_warp < rows; of_warp += kMeanWarps * rows_of_warp) {
    const int row = of_warp + lane_index() / lanes, of_first = p.by_group.of(row);
    const std::int64_t token = first + of_first;
    const int head = kv_head * p.group + (row - of_first * p.group);
    float score = 0;
    if (row < rows && feature < p.dk) {
      const Words4 vector = load_128_constant(q.at(token, head) + feature);
#pragma unroll
      for (int n = 0; n < kVectorFeatures; ++n)
        score += mean[n] * (n % 2 == 0 ? unpack_low<T>(vector.words[n / 2]) : unpack_high<T>(vector.words[n / 2]));
    }
    for (int flip = lanes / 2; flip > 0; flip /= 2) score += shuffle_xor(score, flip);
    if (row < rows && feature == 0) scores.row(p, token - tokens.first, head)[block] = score;
  }
}

__global__ void __launch_bounds__(kBestThreads) select_blocks_of_row(Problem p, BlockSelectionRule rule, Tokens tokens,
                                                                     Scores scores, Rows<std::int32_t> selection) {
  auto& shared = static_shared<BestRanks>();

  // phase 1 - what the row may select from
  const int row = block_index().x / p.heads, head = block_index().x % p.heads;
  const std::int64_t token = tokens.first + row;
  const TokenSequence s = sequence_of_token(p, token);
  const int seen = keys_of(p, s, token - s.q_begin).end, blocks = seen > 0 ? rule.by_block.of(seen - 1) + 1 : 0;
  const int own = p.sequences.is_causal && blocks > 0 ? 1 : 0, candidates = blocks - own;
  const int wanted = rule.top_k - own < candidates ? rule.top_k - own : candidates;

  // phase 2 - its own block, and the slots of none
  std::int32_t* selected = selection.at(token, head);
  for (int slot = thread_number(); slot < rule.slots; slot += kBestThreads) {
    if (slot < own) selected[slot] = blocks - 1;
    if (slot >= own + wanted) selected[slot] = -1;
  }

  // phase 3 - the best by the gate
  const float* of_block = scores.row(p, row, head);
  const auto rank_at = [&](int block) {
    if (rule.gate == ATTNSPEC_GATE_TOP_K) return rank_of(of_block[block], block);
    const int after = rule.gate == ATTNSPEC_GATE_SINK && block == 0 ? candidates : block;
    return Rank{static_cast<std::uint32_t>(after) + 1} << 32 | ~static_cast<std::uint32_t>(block);
  };
  take_best_blocks(shared, 0, candidates, wanted, rank_at, [&](int n, int block) { selected[own + n] = block; });
}

}  // namespace

template <class T>
void select_blocks(const Problem& p, const BlockSelectionRule& rule, const Tokens& tokens, Rows<const T> q,
                   Rows<const T> k, const Scores& scores, Rows<std::int32_t> selection, void* stream) {
  if (tokens.count == 0) return;
  if (rule.gate == ATTNSPEC_GATE_TOP_K && rule.num_blocks > 0)
    launch(score_block<T>, {{rule.num_blocks * p.kv_heads}, {kMeanThreads}}, stream, p, rule, tokens, q, k, scores,
           lanes_of_key(p.dk));
  launch(select_blocks_of_row, {{tokens.count * p.heads}, {kBestThreads}}, stream, p, rule, tokens, scores, selection);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                           \
  template void select_blocks<T>(const Problem&, const BlockSelectionRule&, const Tokens&, Rows<const T>, \
                                 Rows<const T>, const Scores&, Rows<std::int32_t>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
