// Stages of shared memory in a circle: one warpgroup, the producers, fills them, and two others, the consumers, use
// what is there. Steps are counted from 0; step s takes stage s % stages. Named barriers say what is there, to each
// consumer of its own so that one does not wait for the other, and what both have used.
#pragma once

#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warpgroup.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/warpgroup_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

/// Threads of a block: two consuming warpgroups, then one that produces. A thread's registers, of 168 to begin with.
inline constexpr int kConsumers = 2 * kWarpgroupThreads, kRingThreads = kConsumers + kWarpgroupThreads;
inline constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;

/// Barriers [first_barrier, end_barrier) are the ring's.
template <int stages, int first_barrier>
struct Ring {
  static constexpr int kUsed = first_barrier + 2 * stages, end_barrier = kUsed + stages;

  /// A consumer waits for what a step copied.
  static __device__ __forceinline__ void wait(int step, int consumer) {
    barrier_sync(first_barrier + step % stages * 2 + consumer, 2 * kWarpgroupThreads);
  }
  /// A consumer says that it needs a step's stage no more.
  static __device__ __forceinline__ void release(int step) { barrier_arrive(kUsed + step % stages, kRingThreads); }

  // The producers':
  int copied = 0, used = 0;  // steps

  /// Waits until the first `steps` steps are used.
  __device__ __forceinline__ void wait_for_use(int steps) {
    for (; used < steps; ++used) barrier_sync(kUsed + used % stages, kRingThreads);
  }
  /// The stage of the next step, once it is free.
  __device__ __forceinline__ int next_stage() {
    wait_for_use(copied - stages + 1);
    return copied % stages;
  }
};

/// What the producers have copied and not yet said to be there: at most the latest step of all rings.
class Announcement {
 public:
  /// Ends the copies of a ring's next step, and announces those before.
  template <int stages, int first_barrier>
  __device__ __forceinline__ void add(Ring<stages, first_barrier>& ring) {
    cp_async_commit();
    announce<1>();
    barrier_ = first_barrier + ring.copied++ % stages * 2;
  }
  /// Announces what was added; without a pause nothing else is added.
  __device__ __forceinline__ void pause() { announce<0>(); }

 private:
  int barrier_ = 0;

  template <int groups_left>
  __device__ __forceinline__ void announce() {
    if (barrier_ == 0) return;
    cp_async_wait<groups_left>();
    fence_async_proxy();
    for (int consumer = 0; consumer < 2; ++consumer) barrier_arrive(barrier_ + consumer, 2 * kWarpgroupThreads);
    barrier_ = 0;
  }
};

/// A tile of rows, the keys that some of them see, and the first of their first tile of keys.
struct Work {
  query_tiles::RowTile tile;
  query_tiles::KeyRange seen;
  int first_key;

  __device__ __forceinline__ bool has_keys() const { return first_key < seen.end; }
};

/// Calls use(work) for the tiles of rows that are the thread block's: of so many rows, and so many keys at a time.
template <int rows, int keys, class Use>
__device__ __forceinline__ void for_each_work(const Problem& p, const Tiles& tiles, const Use& use) {
  for (int number = block_index().x; number < tiles.count * p.kv_heads; number += grid_size().x) {
    const query_tiles::RowTile tile = query_tiles::row_tile<rows>(p, tiles, number);
    const query_tiles::KeyRange seen = tile.seen(p);
    use(Work{tile, seen, seen.first / keys * keys});
  }
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
