// The sequence of a query token, found by a warp.
#pragma once

#include <cstdint>

#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

using query_tiles::Problem;
using query_tiles::TokenSequence;

/// The sequence that holds a query token: the last that does not begin after it. All lanes look for the same one; each
/// step asks 32 of those left.
__device__ __forceinline__ TokenSequence sequence_of_token(const Problem& p, std::int64_t token) {
  std::int64_t first = 0, left = p.sequences.count;
  while (left > 1) {
    const std::int64_t step = (left + kWarpLanes - 1) / kWarpLanes, asked = lane_index() * step;
    const int last = highest_bit(ballot(asked < left && load_constant(p.sequences.q_offsets + first + asked) <= token));
    first += last * step;
    left = left - last * step < step ? left - last * step : step;
  }
  return {sequence(p.sequences, first), p.reach.token_offsets[first + 1] - p.reach.token_offsets[first]};
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
