// Attention to given key blocks, by tiles of queries whose heads share a selection.
#pragma once

#include <cstdint>

#include "cuda/gathered_queries/attend_backward.hpp"
#include "cuda/query_tiles/problem.hpp"
#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles {

using gathered_queries::ScoreGradients;
using query_tiles::BackwardRows;
using query_tiles::Problem;

/// The key blocks that queries attend to: [query tokens, Hkv, slots], counted within their sequence; -1 is none.
struct Selection {
  Rows<const std::int32_t> selected;
  std::int64_t num_queries;  // of all sequences
  std::int64_t slots;
  std::int64_t block;  // tokens in a block
};

/// o [query tokens, H, dv] and lse [query tokens, H, 1], T being bf16 or fp16. Features are multiples of 8 up to 256.
template <class T>
void attend(const Problem&, const Selection&, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream);

/// dq [query tokens, H, dk]. Features are at most gathered_queries::kMaxApartFeatures.
template <class T>
void attend_query_gradients(const Problem&, const Selection&, const BackwardRows<T>&, Rows<T> dq, void* stream);

/// The same of the heads whose dS is kept, from that.
template <class T>
void multiply_score_gradients(const Problem&, const Selection&, const ScoreGradients&, Rows<const T> k, Rows<T> dq,
                              void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::token_tiles
