// The stages of the backward, and what they share: sum deltas, attend to key tiles, merge the gradients.
#pragma once

#include <cstdint>

#include "cuda/divider.hpp"
#include "cuda/gathered_queries/attend_backward.hpp"
#include "cuda/primitives/memory.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

/// How many key/value heads go through the stages together, and the first of them.
struct HeadChunk {
  int kv_begin, kv_count;
};

/// Keys of a tile where dq is made by the caller.
inline constexpr int kSharedTileKeys = 64;

/// Picks that one thread block goes through for a key tile.
inline constexpr int kSegmentAssignments = 8192;

/// The lists of a key block, one after the other for the query heads of a group, are long if they have more than
/// kSegmentAssignments assignments. Long ones are cut into segments of so many, which several thread blocks go through;
/// their sums are merged in order. Where the cuts are is told by the lists alone. Segments are numbered by key/value
/// head and block.
struct Segments {
  const std::int64_t* offsets;  // [kv_heads * num_blocks + 1]: segments of all long lists before
  float* sums;                  // [max, key tiles of a block, keys of a tile, dk + dv], of the chunk: dS^T q, P^T do
  std::int64_t max;             // in a chunk; 0: no list can be long, and there are no offsets
};

/// What a thread block goes through: for a key tile, the lists of its block or a segment of them.
struct Share {
  int kv_head, tile;   // the key tile in the block; -1: nothing
  std::int64_t block;  // among all
  int segment;         // in the chunk; -1: the lists are not long
  int number, count;   // of the segment among those of its lists
};

/// Whether the caller makes dq.
__host__ __device__ __forceinline__ bool is_by_caller(QueryGradients dq) {
  return dq == QueryGradients::apart || dq == QueryGradients::from_scores;
}

/// What the stages know of a backward.
struct Problem {
  BackwardProblem sizes;
  QueryLists lists = {};
  const float* deltas = nullptr;
  float* dq_parts = nullptr;
  Segments segments = {};
  ScoreGradients scores = {};  // of the chunk
  Divider slots;
  int group;  // query heads of a key/value head
  Divider by_group;
  int tiles, tile_keys;  // of a block: its key tiles, and the keys of each
  std::int64_t dq_rows;  // parts of dq of a head
  HeadChunk chunk;
  int heads_at_once;  // key/value heads of the chunk whose dq is added to at a time

  /// The parts of dq of a head, [dq_rows, dk]: for each assignment, those of the key tiles of its block; or, where they
  /// are added up, one for each token.
  __device__ __forceinline__ float* dq_parts_of(int head) const {
    return dq_parts + (head - chunk.kv_begin * group) * dq_rows * sizes.dk;
  }

  /// The sums of a segment, [keys of a tile, dk + dv].
  __device__ __forceinline__ float* segment_sums(const Share& share) const {
    const std::int64_t number = std::int64_t{share.segment} * tiles + share.tile;
    return segments.sums + number * tile_keys * (sizes.dk + sizes.dv);
  }

  /// The head whose lists a query head goes through.
  __device__ __forceinline__ int list_head(int h) const { return sizes.selection.heads == sizes.heads ? h : h / group; }
};

__device__ __forceinline__ Share no_share() { return {0, -1, 0, -1, 0, 0}; }

/// The share of a thread block that is to do a segment. There are most * tiles such blocks; more than needed.
__device__ __forceinline__ Share share_of_segment(const Problem& p, std::int64_t thread_block) {
  const std::int64_t num_blocks = p.sizes.selection.num_blocks;
  const std::int64_t* offsets = p.segments.offsets + p.chunk.kv_begin * num_blocks;
  const int segment = static_cast<int>(thread_block / p.tiles);
  const std::int64_t wanted = load_constant(offsets) + segment;
  std::int64_t list = 0, end = p.chunk.kv_count * num_blocks;  // the last list that begins with `wanted` or before
  if (wanted >= load_constant(offsets + end)) return no_share();
  while (end - list > 1) {
    const std::int64_t middle = (list + end) / 2;
    (load_constant(offsets + middle) <= wanted ? list : end) = middle;
  }
  const std::int64_t first = load_constant(offsets + list);
  return {p.chunk.kv_begin + static_cast<int>(list / num_blocks),
          static_cast<int>(thread_block % p.tiles),
          list % num_blocks,
          segment,
          static_cast<int>(wanted - first),
          static_cast<int>(load_constant(offsets + list + 1) - first)};
}

/// What a thread block that owns a key tile does. Segments of long lists come first, then whole lists: heads run
/// fastest, so that the first blocks, which have the longest lists, come first; but where dq is added up, of a few
/// heads at a time.
__device__ __forceinline__ Share share_of(const Problem& p, std::int64_t thread_block) {
  const std::int64_t num_blocks = p.sizes.selection.num_blocks, in_segments = p.segments.max * p.tiles;
  if (thread_block < in_segments) return share_of_segment(p, thread_block);
  const std::int64_t number = thread_block - in_segments, of_heads = num_blocks * p.tiles * p.heads_at_once;
  const std::int64_t first_head = number / of_heads * p.heads_at_once, left = p.chunk.kv_count - first_head;
  const std::int64_t heads = left < p.heads_at_once ? left : p.heads_at_once;
  const std::int64_t head = first_head + number % of_heads % heads, tile = number % of_heads / heads;
  const int kv_head = p.chunk.kv_begin + static_cast<int>(head);
  const std::int64_t block = tile / p.tiles, list = kv_head * num_blocks + block;
  if (in_segments > 0 && load_constant(p.segments.offsets + list) < load_constant(p.segments.offsets + list + 1))
    return no_share();
  return {kv_head, static_cast<int>(tile % p.tiles), block, -1, 0, 1};
}

/// Where a key tile lies.
struct KeyTile {
  std::int64_t block, first_key;  // the block, and the first key, among all
  std::int64_t ahead;             // under causality token t of the queries sees t + ahead of the keys; below 1: none
  int keys;                       // that there are; none in tiles behind the end of a short block
  int number, kv_head;            // in the block

  __device__ __forceinline__ std::int64_t visible(const Sequences& all, std::int64_t token) const {
    return all.is_causal && token + ahead < keys ? token + ahead : keys;
  }
};

__device__ __forceinline__ KeyTile key_tile_of(const Problem& p, const Share& share) {
  const Selection& s = p.sizes.selection;
  const Sequence sequence = sequence_of(s.sequences, s.block_offsets, share.block);
  const std::int64_t block_begin = (share.block - s.block_offsets[sequence.index]) * s.block;
  const std::int64_t block_end = block_begin + s.block < sequence.num_keys ? block_begin + s.block : sequence.num_keys;
  const std::int64_t begin = block_begin + std::int64_t{share.tile} * p.tile_keys;
  const std::int64_t keys = block_end - begin < p.tile_keys ? block_end - begin : p.tile_keys;
  const std::int64_t ahead = sequence.num_keys - sequence.num_queries - sequence.q_begin + 1 - begin;
  return {share.block, sequence.k_begin + begin, ahead, static_cast<int>(keys), share.tile, share.kv_head};
}

/// Keys of a tile: as many as features, blocks and the device's shared memory allow.
int keys_of_tile(const BackwardProblem&);

/// deltas[t, h] = <do, o>
template <class T>
void sum_deltas(const BackwardProblem&, const BackwardRows<T>&, float* deltas, void* stream);

/// For every key tile of the chunk's heads dk and dv, or the sums of its segments; for every assignment its parts of
/// dq.
template <class T>
void attend_key_tiles(const Problem&, const BackwardRows<T>&, Rows<T> dk, Rows<T> dv, void* stream);

/// The same where dq is made by the caller, of lists that the heads of a group share; for every assignment dS, if it is
/// kept.
template <class T>
void attend_shared_lists(const Problem&, const BackwardRows<T>&, Rows<T> dk, Rows<T> dv, void* stream);

/// The same with products of warpgroups, for devices that have them.
template <class T>
void attend_shared_lists_by_warpgroups(const Problem&, const BackwardRows<T>&, Rows<T> dk, Rows<T> dv, void* stream);

/// dk and dv of the keys whose lists are long: the sums of their segments, in order.
template <class T>
void merge_segments(const Problem&, Rows<T> dk, Rows<T> dv, void* stream);

/// dq[t, h] = scale * sum of its parts, in the order of slots and key tiles.
template <class T>
void merge_query_gradients(const Problem&, Rows<T> dq, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
