// Kernels whose threads do not meet, and the same done right.
#include <gtest/gtest.h>

#include <vector>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/simulator/selftest/faults.hpp"

namespace attnspec::cuda {

namespace {

using simulator::Fault;
using simulator::FaultKind;
using simulator::faults_of;

/// Runs a kernel of no parameters with one block of so many threads.
std::vector<Fault> run(void (*kernel)(), int threads = 64) {
  return faults_of([&] { launch(kernel, {{}, {threads}}, nullptr); });
}

__global__ void sync_half() {
  if (thread_index().x < 32) sync_threads();  // half of them wait
}

TEST(DivergentBarrier, SomeThreadsHaveExited) {
  const auto faults = run(sync_half);
  EXPECT_FAULT(faults, FaultKind::divergent_barrier, "half of them wait");
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_NE(faults[0].message.find("32 threads wait for sync_threads"), std::string::npos) << faults[0].message;
  EXPECT_NE(faults[0].message.find("32 have exited"), std::string::npos) << faults[0].message;
}

template <bool kOneLine>
__global__ void sync_in_branches() {
  if (thread_index().x < 32) {
    if (!kOneLine) sync_threads();  // one branch
  } else {
    if (!kOneLine) sync_threads();  // other branch
  }
  if (kOneLine) sync_threads();
}

TEST(DivergentBarrier, SyncThreadsInTwoLines) {
  EXPECT_SILENT(run(sync_in_branches<true>));
  const auto faults = run(sync_in_branches<false>);
  EXPECT_TRUE(has(faults, FaultKind::divergent_barrier, __FILE__, "one branch") ||
              has(faults, FaultKind::divergent_barrier, __FILE__, "other branch"))
      << list(faults);
}

__global__ void lanes_exit() {
  if (lane_index() == 3) return;
  shuffle_xor(1, 1);  // others shuffle
}

TEST(DivergentBarrier, ALaneThatAShuffleNamesHasExited) {
  EXPECT_FAULT(run(lanes_exit), FaultKind::divergent_barrier, "others shuffle");
}

template <bool kOneLine>
__global__ void shuffle_in_branches() {
  int value = lane_index();
  if (!kOneLine && value < 16)
    value = shuffle_xor(value, 1);  // low lanes shuffle
  else
    value = shuffle_xor(value, 1);
  if (value < 0) sync_warp();
}

TEST(DivergentBarrier, LanesShuffleInTwoLines) {
  EXPECT_SILENT(run(shuffle_in_branches<true>));
  EXPECT_FAULT(run(shuffle_in_branches<false>), FaultKind::divergent_barrier, "low lanes shuffle");
}

template <std::uint32_t low, std::uint32_t high>
__global__ void shuffle_halves() {
  const int lane = lane_index();
  if (lane < 16)
    shuffle(lane, 0, low);  // low half
  else
    shuffle(lane, 16, high);
}

TEST(DivergentBarrier, AMaskNamesThoseWhoTakePart) {
  EXPECT_SILENT(run(shuffle_halves<0x0000ffff, 0xffff0000>));
  EXPECT_FAULT(run(shuffle_halves<0xffff0000, 0xffff0000>), FaultKind::divergent_barrier, "low half");
}

__global__ void shuffle_from_outside() {
  if (lane_index() < 16) shuffle(1, 20, 0x0000ffff);  // reads lane 20
}

TEST(DivergentBarrier, AShuffleReadsOnlyWhoTakesPart) {
  EXPECT_FAULT(run(shuffle_from_outside), FaultKind::divergent_barrier, "reads lane 20");
}

__global__ void sync_warp_in_branches() {
  if (lane_index() < 16)
    sync_warp();
  else
    sync_warp();
}

TEST(DivergentBarrier, SyncWarpMayStandInTwoLines) { EXPECT_SILENT(run(sync_warp_in_branches)); }

__global__ void use_whole_warps() {
  sync_warp();
  if (!all(ballot(true) != 0)) sync_threads();
  sync_threads();
}

TEST(DivergentBarrier, TheLastWarpMayBeIncomplete) { EXPECT_SILENT(run(use_whole_warps, 48)); }

__global__ void multiply() {
  float c[4] = {};
  mma_m16n8k16<bf16>(c, {0, 0, 0, 0}, {0, 0});  // multiplies
}

TEST(DivergentBarrier, AMatrixProductNeedsAWholeWarp) {
  EXPECT_SILENT(run(multiply, 64));
  EXPECT_FAULT(run(multiply, 48), FaultKind::divergent_barrier, "multiplies");
}

template <int kExpected>
__global__ void wait_at_barrier() {
  if (thread_index().x < 32)
    barrier_arrive(1, kExpected);
  else
    barrier_sync(1, kExpected);  // waits for more
}

TEST(Deadlock, ABarrierExpectsMoreThreadsThanCome) {
  EXPECT_SILENT(run(wait_at_barrier<64>));
  EXPECT_FAULT(run(wait_at_barrier<96>), FaultKind::deadlock, "waits for more");
}

template <bool kCrossed>
__global__ void wait_for_each_other() {
  if (thread_index().x < 32) {
    barrier_sync(1, 64);  // waits at 1
    barrier_sync(2, 64);
  } else {
    barrier_sync(kCrossed ? 2 : 1, 64);  // waits at 2
    barrier_sync(kCrossed ? 1 : 2, 64);
  }
}

TEST(Deadlock, WarpsWaitAtBarriersForEachOther) {
  EXPECT_SILENT(run(wait_for_each_other<false>));
  const auto faults = run(wait_for_each_other<true>);
  EXPECT_FAULT(faults, FaultKind::deadlock, "waits at 1");
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_NE(faults[0].message.find("barrier_test.cu:" + std::to_string(simulator::line_of(__FILE__, "waits at 2"))),
            std::string::npos)
      << faults[0].message;
}

__global__ void disagree() {
  barrier_sync(1, thread_index().x < 32 ? 64 : 96);  // disagrees
}

TEST(DivergentBarrier, ThreadsDisagreeHowManyComeToABarrier) {
  EXPECT_FAULT(run(disagree), FaultKind::divergent_barrier, "disagrees");
}

}  // namespace

}  // namespace attnspec::cuda
