// The best of a row's blocks, one after the other, by a thread block.
#pragma once

#include <cstdint>

#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

inline constexpr int kBestThreads = 256, kBestWarps = kBestThreads / kWarpLanes;

/// A block by a number that is not NaN, the earlier of equals in front: the larger rank. No block: 0.
using Rank = std::uint64_t;

__device__ __forceinline__ Rank rank_of(float number, int block) {
  const auto bits = __builtin_bit_cast(std::uint32_t, number + 0.f);  // one zero
  const std::uint32_t in_order = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  return Rank{in_order} << 32 | ~static_cast<std::uint32_t>(block);
}

__device__ __forceinline__ int block_of(Rank rank) { return static_cast<int>(~static_cast<std::uint32_t>(rank)); }

/// The best ranks of the warps, in every other round; in shared memory.
struct BestRanks {
  Rank of_warps[2][kBestWarps];
};

/// Calls take(n, block) in one thread with the n-th best block, n < wanted, of as many as there are or more;
/// rank_at(block) is asked for the blocks [begin, end). A thread has every kBestThreads-th block, and remembers the
/// best two of its own; in each round the best of all is taken.
template <class RankAt, class Take>
__device__ __forceinline__ void take_best_blocks(BestRanks& shared, int begin, int end, int wanted,
                                                 const RankAt& rank_at, const Take& take) {
  Rank best = 0, second = 0;
  const auto look_behind = [&](Rank last) {
    for (int block = begin + thread_number(); block < end; block += kBestThreads) {
      const Rank rank = rank_at(block);
      if (rank >= last) continue;
      second = rank > best ? best : rank > second ? rank : second;
      best = rank > best ? rank : best;
    }
  };
  if (wanted > 0) look_behind(~Rank{0});
  for (int n = 0; n < wanted; ++n) {
    Rank(&of_warps)[kBestWarps] = shared.of_warps[n % 2];
    const Rank of_warp = max_lanes(best);
    if (lane_index() == 0) of_warps[warp_index()] = of_warp;
    sync_threads();
    const Rank winner = max_lanes<kBestWarps>(of_warps[lane_index() % kBestWarps]);
    if (thread_number() == 0) take(n, block_of(winner));
    if (best != winner) continue;
    best = second, second = 0;
    if (best == 0) look_behind(winner);
  }
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
