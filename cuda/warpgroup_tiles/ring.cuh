// Stages of shared memory in a circle: one warpgroup, the producers, fills them, and two others, the consumers, use
// what is there. Steps are counted from 0; step s takes stage s % stages. Named barriers say what is there, to each
// consumer of its own so that one does not wait for the other, and what both have used.
#pragma once

#include "cuda/primitives/atomic.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"
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

  static __device__ __forceinline__ int after(int stage) { return stage + 1 < stages ? stage + 1 : 0; }

  /// A consumer waits for what was copied to a stage.
  static __device__ __forceinline__ void wait(int stage, int consumer) {
    barrier_sync(first_barrier + 2 * stage + consumer, 2 * kWarpgroupThreads);
  }
  /// A consumer says that it needs a stage no more.
  static __device__ __forceinline__ void release(int stage) { barrier_arrive(kUsed + stage, kRingThreads); }

  // The producers', in steps, of which each takes a stage:
  unsigned copied = 0, used = 0;

  /// Waits until the first `steps` steps are used.
  __device__ __forceinline__ void wait_for_use(unsigned steps) {
    for (; used < steps; ++used) barrier_sync(kUsed + used % stages, kRingThreads);
  }
  /// The stage of the next step, once it is free.
  __device__ __forceinline__ int next_stage() {
    if (copied >= stages) wait_for_use(copied - stages + 1);
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

/// A tile of rows and the keys that they are multiplied with: those that some of them see, from a multiple of the size
/// of a tile of keys on; if there are none, a first tile of them all the same.
struct Work {
  query_tiles::RowTile tile;
  int first_key, end_key;
};

/// The tiles of so many rows, and so many keys at a time, that a thread block takes: first its own, then those that no
/// thread block has taken. Producers write a tile's number before its first step; consumers find it with that step.
template <int rows, int keys>
struct Taken {
  int numbers[4];  // of the latest tiles: more than a ring has stages

  static __device__ __forceinline__ int count(const Problem& p, const Tiles& tiles) { return tiles.count * p.kv_heads; }
  static __device__ __forceinline__ Work work(const Problem& p, const Tiles& tiles, int number) {
    const query_tiles::RowTile tile = query_tiles::row_tile<rows>(p, tiles, number);
    const query_tiles::KeyRange seen = tile.seen(p);
    return {tile, seen.first / keys * keys, seen.first < seen.end ? seen.end : seen.first + 1};
  }

  /// The producers': calls use(work, i) for the i-th tile that they take. `barrier`: one of theirs alone. The last
  /// number is that of no tile, and the caller adds a step for it too.
  template <class Use>
  __device__ __forceinline__ void for_each(const Problem& p, const Tiles& tiles, int barrier, const Use& use) {
    const bool takes = thread_number() == kConsumers;
    int next = block_index().x;
    for (int i = 0;; ++i) {
      if (takes) {
        numbers[i % 4] = next;
        next = grid_size().x + atomic_add(tiles.taken, 1);
      }
      barrier_sync(barrier, kWarpgroupThreads);
      const int number = shuffle(numbers[i % 4], 0);
      if (number >= count(p, tiles)) return;
      use(work(p, tiles, number), i);
    }
  }
};

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
