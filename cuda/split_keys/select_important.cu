// NSA's selection: the importance of a block to a query is p' = sum over the heads of the group and the compressed rows
// i that overlap it of |tokens in both| / stride exp(scale <q, k_i> - lse). The first blocks of the sequence and the
// query's own with those before it are forced; the others that begin at the query or before follow by their importance,
// of equal ones the earlier.
//
// scores as attend_splits left them, lse [query tokens, H, 1], selection [query tokens, Hkv, slots]. First a thread
// owns compressed rows of a token and kv head, and sums the weights of the group's heads; the sum takes the place of
// the first head's score. Then a thread block owns a token and kv head, a thread every kThreads-th block. Shared
// memory: BestRanks.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/query_tiles/candidates.cuh"
#include "cuda/split_keys/best_blocks.cuh"
#include "cuda/split_keys/sequences.cuh"
#include "cuda/split_keys/stages.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

using query_tiles::Candidates;
using query_tiles::candidates_of;
using query_tiles::forced_block;
using query_tiles::importance;
using query_tiles::keys_of;
using query_tiles::kLog2E;
using query_tiles::num_visible_tokens;

namespace {

constexpr int kThreads = kBestThreads;
constexpr int kHeadsAtOnce = 16;        // whose scores are loaded before they are added
constexpr int kRunRows = 2 * kThreads;  // compressed rows of a thread block

/// A query token of the chunk, and a kv head.
struct Place {
  int row, kv_head;
};

__device__ __forceinline__ Place place_of(const Problem& p, int number) {
  return {number / p.kv_heads, number % p.kv_heads};
}

__global__ void __launch_bounds__(kThreads)
    sum_weights(Problem p, Tokens tokens, Scores scores, Rows<const float> lse, int runs) {
  const Place place = place_of(p, block_index().x / runs);
  const std::int64_t token = tokens.first + place.row;
  const TokenSequence s = sequence_of_token(p, token);
  const int seen = keys_of(p, s, token - s.q_begin).end, begin = block_index().x % runs * kRunRows;
  const int first_head = place.kv_head * p.group;
  for (int row = begin + thread_number(); row < seen && row < begin + kRunRows; row += kThreads) {
    float sum = 0;
    for (int first = 0; first < p.group; first += kHeadsAtOnce) {
      float exponents[kHeadsAtOnce];
#pragma unroll
      for (int n = 0; n < kHeadsAtOnce; ++n) {
        const int head = first_head + (first + n < p.group ? first + n : 0);
        exponents[n] = scores.row(p, place.row, head)[row] - *lse.at(token, head) * kLog2E;
      }
#pragma unroll
      for (int n = 0; n < kHeadsAtOnce; ++n) sum += first + n < p.group ? exp2_approx(exponents[n]) : 0;
    }
    scores.row(p, place.row, first_head)[row] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    select_by_importance(Problem p, ImportanceRule rule, Tokens tokens, Scores scores, float* importances, int blocks,
                         Rows<std::int32_t> selection) {
  auto& shared = static_shared<BestRanks>();

  // phase 1 - the importance of each block
  const Place place = place_of(p, block_index().x);
  const std::int64_t token = tokens.first + place.row;
  const TokenSequence s = sequence_of_token(p, token);
  const std::int64_t i = token - s.q_begin;
  const Candidates candidates = candidates_of(rule, num_visible_tokens(p, s, i));
  const int rows = keys_of(p, s, i).end;
  const float* weights = scores.row(p, place.row, place.kv_head * p.group);
  const auto weight_of = [&](int row) { return weights[row]; };
  float* mine = importances + std::int64_t{block_index().x} * blocks;
  if (candidates.wanted > 0)
    for (int block = rule.initial_blocks + thread_number(); block < candidates.end; block += kThreads)
      mine[block] = importance(rule, block, 0, rows, weight_of);

  // phase 2 - forced blocks, and the slots of none
  std::int32_t* selected = selection.at(token, place.kv_head);
  for (int slot = thread_number(); slot < rule.slots; slot += kThreads) {
    if (slot < candidates.forced) selected[slot] = forced_block(rule, candidates, slot);
    if (slot >= candidates.forced + candidates.wanted) selected[slot] = -1;
  }

  // phase 3 - the most important ones
  take_best_blocks(
      shared, rule.initial_blocks, candidates.end, candidates.wanted,
      [&](int block) { return rank_of(mine[block], block); },
      [&](int n, int block) { selected[candidates.forced + n] = block; });
}

}  // namespace

void select_important_blocks(const Problem& p, const ImportanceRule& rule, const Tokens& tokens, const Scores& scores,
                             Rows<const float> lse, float* importances, int blocks, Rows<std::int32_t> selection,
                             void* stream) {
  if (tokens.count == 0) return;
  const int runs = (scores.stride + kRunRows - 1) / kRunRows;
  if (runs > 0)
    launch(sum_weights, {{tokens.count * p.kv_heads * runs}, {kThreads}}, stream, p, tokens, scores, lse, runs);
  launch(select_by_importance, {{tokens.count * p.kv_heads}, {kThreads}}, stream, p, rule, tokens, scores, importances,
         blocks, selection);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
