// The stages of the forward: pool keys, select blocks, list queries (query_lists.hpp), attend block by block, merge.
// Rows of q, k and v are multiples of 16 bytes long; what is not goes through the stages of baseline.
#pragma once

#include <cstdint>

#include "cuda/baseline/rows.hpp"
#include "cuda/gathered_queries/query_lists.hpp"
#include "cuda/primitives/numbers.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

using baseline::Attention;
using baseline::SelectionRule;

/// Features of a row are taken eight at a time.
inline constexpr int kVectorFeatures = 8;

/// Mean keys of all blocks for tensor cores: mean = scale (parts[0] + parts[1]) within 2^-22 of the block's largest
/// feature, so that products with both parts are those with a mean in fp32. The scales are powers of two.
struct MeanKeys {
  fp16* parts;    // [num_blocks, Hkv, 2, dk]
  float* scales;  // [num_blocks, Hkv]
};

template <class T>
void pool_keys(const Attention&, std::int64_t block, const std::int64_t* block_offsets, std::int64_t num_blocks,
               Rows<const T> k, const MeanKeys&, void* stream);

/// Queries that one thread block of select_blocks serves. Sequence s has its tiles from tile_offsets[s] on.
inline constexpr int kSelectQueries = 128;

/// The blocks of each query by the gate top_k: its own first under causality, then by score, earlier blocks first among
/// equal scores; -1 in the slots that are left. [query tokens, H, slots]
template <class T>
void select_blocks(const Attention&, const SelectionRule&, const std::int64_t* block_offsets,
                   const std::int64_t* tile_offsets, std::int64_t num_tiles, Rows<const T> q, const MeanKeys&,
                   Rows<std::int32_t> selection, void* stream);

/// Attention of some heads' queries to single blocks, for each assignment: o normalised, and its lse to base 2. Of
/// each 16 features of o lane t of four has 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, which lie together.
struct Partials {
  float* o;    // [heads, num_queries, slots, padded dv]
  float* lse;  // [heads, num_queries, slots]
};

/// Heads that share a pass, out of those that have lists.
struct Heads {
  int first, count;
};

/// Features of a row of partials.
__host__ __device__ __forceinline__ std::int64_t padded_features(std::int64_t features) {
  return (features + 15) / 16 * 16;
}

template <class T>
void attend_blocks(const Attention&, const Selection&, const QueryLists&, const Heads&, Rows<const T> q,
                   Rows<const T> k, Rows<const T> v, const Partials&, void* stream);

/// o [query tokens, H, dv] and lse [query tokens, H, 1] of the heads, from their partials.
template <class T>
void merge_partials(const Attention&, const Selection&, const Heads&, const Partials&, Rows<T> o, Rows<float> lse,
                    void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
