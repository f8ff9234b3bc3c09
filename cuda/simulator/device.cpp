#include "cuda/simulator/device.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "cuda/simulator/block.hpp"

namespace attnspec::cuda::simulator {

namespace {

const Collective kSyncWarp{"sync_warp", false,
                           [](Block& block, const Collective::Lanes& lanes) { block.order(lanes); }};

struct Shuffle {
  std::uint32_t value;
  int source;  // lane
  std::uint32_t result;
};

void act_shuffle(Block& block, const Collective::Lanes& lanes) {
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if (!lanes.has(lane)) continue;
    auto& mine = lanes.at<Shuffle>(lane);
    if (lanes.has(mine.source))
      mine.result = lanes.at<Shuffle>(mine.source).value;
    else
      block.report(FaultKind::divergent_barrier, lanes.first_thread + lane,
                   [&] { return "shuffle from lane " + std::to_string(mine.source) + ", which takes no part"; });
  }
}
const Collective kShuffle{"shuffle", true, act_shuffle};

struct Vote {
  bool predicate;
  std::uint32_t result;
};

void act_ballot(Block&, const Collective::Lanes& lanes) {
  std::uint32_t votes = 0;
  for (int lane = 0; lane < kWarpLanes; ++lane)
    if (lanes.has(lane) && lanes.at<Vote>(lane).predicate) votes |= 1u << lane;
  for (int lane = 0; lane < kWarpLanes; ++lane)
    if (lanes.has(lane)) lanes.at<Vote>(lane).result = votes;
}
const Collective kBallot{"ballot", true, act_ballot};

/// The lane that a shuffle reads; its own where that would be outside the warp.
int source_lane(int lane, ShuffleFrom from, int operand) {
  switch (from) {
    case ShuffleFrom::lane: return operand & (kWarpLanes - 1);
    case ShuffleFrom::below: return operand <= lane ? lane - operand : lane;
    case ShuffleFrom::above: return operand < kWarpLanes - lane ? lane + operand : lane;
    case ShuffleFrom::flipped: return (lane ^ operand) < kWarpLanes ? lane ^ operand : lane;
  }
  return lane;
}

/// The value at an address becomes what `next` makes of it; returns what it was.
template <class T, class Next>
T update(T* address, const Next& next, const void* site) {
  const Call call;
  call->access(AccessKind::atomic, address, sizeof(T), sizeof(T), site);
  const std::atomic_ref<T> value(*address);
  T old = value.load(std::memory_order_relaxed);
  while (!value.compare_exchange_weak(old, next(old), std::memory_order_relaxed)) {
  }
  return old;
}

}  // namespace

Index3 thread_index() {
  const Call call;
  return call->index_of(call->thread());
}
Index3 block_index() { return Call()->index(); }
Dim3 block_size() { return Call()->shape().block; }
Dim3 grid_size() { return Call()->shape().grid; }

void sync_threads() { Call()->sync_threads(__builtin_return_address(0)); }
void sync_warp(std::uint32_t mask) { Call()->meet(kSyncWarp, mask, nullptr, __builtin_return_address(0)); }
void barrier_sync(int barrier, int num_threads) {
  Call()->sync_barrier(barrier, num_threads, __builtin_return_address(0));
}
void barrier_arrive(int barrier, int num_threads) {
  Call()->arrive_at_barrier(barrier, num_threads, __builtin_return_address(0));
}

std::uint32_t shuffle(std::uint32_t value, ShuffleFrom from, int operand, std::uint32_t mask) {
  const Call call;
  Shuffle mine{value, source_lane(call->thread() % kWarpLanes, from, operand), 0};
  call->meet(kShuffle, mask, &mine, __builtin_return_address(0));
  return mine.result;
}

std::uint32_t ballot(bool predicate, std::uint32_t mask) {
  Vote mine{predicate, 0};
  Call()->meet(kBallot, mask, &mine, __builtin_return_address(0));
  return mine.result;
}

void* shared_object(const void* key, std::size_t bytes, std::size_t alignment) {
  return Call()->shared_object(key, bytes, alignment, __builtin_return_address(0));
}
void* dynamic_shared() { return Call()->dynamic_shared(); }

void load(void* to, const void* from, std::size_t bytes) {
  Call()->access(AccessKind::read, from, bytes, bytes, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}
void store(void* to, const void* from, std::size_t bytes) {
  Call()->access(AccessKind::write, to, bytes, bytes, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

void cp_async(void* shared, const void* global, int bytes, int source_bytes) {
  Call()->copy_async(shared, global, static_cast<std::size_t>(bytes), static_cast<std::size_t>(source_bytes),
                     __builtin_return_address(0));
}
void cp_async_commit() { Call()->commit_copies(); }
void cp_async_wait(int groups_left) { Call()->wait_for_copies(groups_left); }
void cp_async_wait_all() { Call()->wait_for_all_copies(); }

template <class T>
T atomic_add(T* address, T value) {
  return update(
      address, [&](T old) { return static_cast<T>(old + value); }, __builtin_return_address(0));
}
template <class T>
T atomic_max(T* address, T value) {
  return update(
      address, [&](T old) { return std::max(old, value); }, __builtin_return_address(0));
}
template <class T>
T atomic_exchange(T* address, T value) {
  return update(
      address, [&](T) { return value; }, __builtin_return_address(0));
}
template <class T>
T atomic_compare_exchange(T* address, T expected, T desired) {
  return update(
      address, [&](T old) { return old == expected ? desired : old; }, __builtin_return_address(0));
}

template float atomic_add(float*, float);
#define ATTNSPEC_ATOMICS(T)          \
  template T atomic_add(T*, T);      \
  template T atomic_max(T*, T);      \
  template T atomic_exchange(T*, T); \
  template T atomic_compare_exchange(T*, T, T)
ATTNSPEC_ATOMICS(int);
ATTNSPEC_ATOMICS(unsigned);
ATTNSPEC_ATOMICS(unsigned long long);

}  // namespace attnspec::cuda::simulator
