// Kernels whose threads do not wait for each other, and the same done right.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "cuda/primitives/atomic.cuh"
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

constexpr int kThreads = 128;

template <class T>
struct Array {
  T x[kThreads];
};

/// Runs a kernel of (int*) with one block of so many threads.
std::vector<Fault> run(void (*kernel)(int*), int threads = kThreads) {
  DeviceArray<int> out{std::vector<int>(kThreads)};
  return faults_of([&] { launch(kernel, {{}, {threads}}, nullptr, out.data()); });
}

template <bool kReadSynced, bool kWriteSynced>
__global__ void rotate_twice(int* out) {
  auto& shared = static_shared<Array<int>>();
  const int t = thread_index().x;
  shared.x[t] = t;
  for (int step = 0; step < 2; ++step) {
    if (kReadSynced) sync_threads();
    const int next = shared.x[(t + 32) % kThreads];  // reads the next warp's
    if (kWriteSynced) sync_threads();
    shared.x[t] = next;  // writes its own
  }
  out[t] = shared.x[t];
}

TEST(Race, AReadAfterAWriteNeedsABarrier) {
  EXPECT_SILENT(run(rotate_twice<true, true>));
  EXPECT_FAULT(run(rotate_twice<false, true>), FaultKind::race, "reads the next warp's");
}

TEST(Race, AWriteAfterAReadNeedsABarrier) {
  EXPECT_FAULT(run(rotate_twice<true, false>), FaultKind::race, "writes its own");
}

__global__ void write_all(int* out) {
  auto& shared = static_shared<Array<int>>();
  const int t = thread_index().x;
  shared.x[0] = 1;  // all write one word
  sync_threads();
  out[t] = shared.x[0];
}

TEST(Race, TwoWritesOfTheSameValueAreOne) { EXPECT_FAULT(run(write_all, 2), FaultKind::race, "all write one word"); }

__global__ void read_unwritten(int* out) {
  auto& shared = static_shared<Array<int>>();
  const int t = thread_index().x;
  if (t < 64) shared.x[t] = t;
  sync_threads();
  if (t <= 64) out[t] = shared.x[t];  // reads one more
}

TEST(ReadBeforeWrite, IsFoundInAWordThatNobodyWrites) {
  const auto faults = run(read_unwritten);
  EXPECT_FAULT(faults, FaultKind::read_before_write, "reads one more");
  EXPECT_EQ(faults.size(), 1u);
}

enum class Between { nothing, sync_warp, shuffle };

template <Between between>
__global__ void swap_in_warp(int* out) {
  auto& shared = static_shared<Array<int>>();
  const int t = thread_index().x;
  shared.x[t] = t;
  if (between == Between::sync_warp) sync_warp();
  if (between == Between::shuffle) out[t] = shuffle(t, 0);
  out[t] += shared.x[t ^ 1];  // reads a neighbour's
}

TEST(Race, LanesOfAWarpNeedSyncWarp) {
  EXPECT_SILENT(run(swap_in_warp<Between::sync_warp>));
  EXPECT_FAULT(run(swap_in_warp<Between::nothing>, 32), FaultKind::race, "reads a neighbour's");
}

TEST(Race, AShuffleOrdersNoMemory) {
  EXPECT_FAULT(run(swap_in_warp<Between::shuffle>, 32), FaultKind::race, "reads a neighbour's");
}

template <class T>
__global__ void update_neighbours(int* out) {
  auto& shared = static_shared<Array<T>>();
  const int t = thread_index().x;
  shared.x[t] = static_cast<T>(t);
  shared.x[t] = static_cast<T>(shared.x[t] + 1);
  out[t] = shared.x[t];
}

TEST(Race, NeighboursInOneWordAreNone) {
  EXPECT_SILENT(run(update_neighbours<std::uint8_t>));
  EXPECT_SILENT(run(update_neighbours<std::uint16_t>));
}

/// Lanes of warp 0 write for each half of the rest, which waits at a barrier of its own.
template <bool kWaits>
__global__ void produce_and_consume(int* out) {
  auto& shared = static_shared<Array<int>>();
  const int t = thread_index().x;
  if (t < 32) {
    for (int step = 0; step < 4; ++step) {
      barrier_sync(1, 64);  // the consumers are done
      shared.x[t] = t + step;
      barrier_arrive(2, 64);
    }
  } else if (t < 64) {
    barrier_arrive(1, 64);
    for (int step = 0; step < 4; ++step) {
      if (kWaits) barrier_sync(2, 64);
      if (!kWaits) barrier_arrive(2, 64);
      out[t] += shared.x[63 - t];  // consumes
      if (step < 3) barrier_arrive(1, 64);
    }
  }
}

TEST(Race, NamedBarriersOrderThoseWhoSync) { EXPECT_SILENT(run(produce_and_consume<true>)); }

template <bool kSynced>
__global__ void count_in_shared(int* out) {
  auto& shared = static_shared<Array<int>>();
  const int t = thread_index().x;
  if (t == 0) shared.x[0] = 0;
  sync_threads();
  atomic_add(&shared.x[0], 1);  // counts
  if (kSynced) sync_threads();
  out[t] = shared.x[0];
}

TEST(Race, AtomicsDoNotRaceWithEachOther) {
  EXPECT_SILENT(run(count_in_shared<true>));
  EXPECT_FAULT(run(count_in_shared<false>), FaultKind::race, "counts");  // after another lane's read
}

template <bool kWarpSynced>
__global__ void load_matrix(int* out) {
  struct alignas(16) Rows {
    std::uint16_t x[8][8];
  };
  auto& rows = static_shared<Rows>();
  const int lane = lane_index();
  for (int n = 0; n < 2; ++n) rows.x[lane / 4][lane % 4 * 2 + n] = static_cast<std::uint16_t>(lane);
  if (kWarpSynced) sync_warp();
  std::uint32_t fragment[1];
  ldmatrix(fragment, rows.x[lane % 8]);  // loads a matrix
  out[lane] = static_cast<int>(fragment[0]);
}

TEST(Race, LdmatrixReadsRowsThatOthersWrote) {
  EXPECT_SILENT(run(load_matrix<true>, 32));
  EXPECT_FAULT(run(load_matrix<false>, 32), FaultKind::race, "loads a matrix");
}

enum class Wrong { nothing, no_wait, no_barrier, early_copy };

/// Sums tiles of x, with one tile copied while another is summed.
template <Wrong wrong>
__global__ void sum_tiles(int* out, const int* x, int tiles) {
  struct Stages {
    int x[2][kThreads];
  };
  auto& stages = static_shared<Stages>();
  const int t = thread_index().x;
  int sum = 0;
  const auto start = [&](int tile) {
    if (tile < tiles) cp_async<4>(&stages.x[tile % 2][t], &x[tile * kThreads + t]);  // starts a copy
    cp_async_commit();
  };
  start(0);
  for (int tile = 0; tile < tiles; ++tile) {
    start(tile + 1);
    if (wrong != Wrong::no_wait) cp_async_wait<1>();
    if (wrong != Wrong::no_barrier) sync_threads();
    sum += stages.x[tile % 2][(t + 32) % kThreads];  // reads a tile
    if (wrong != Wrong::early_copy) sync_threads();
  }
  out[t] = sum;
}

template <Wrong wrong>
std::vector<Fault> sum_faults() {
  DeviceArray<int> x{std::vector<int>(4 * kThreads, 3)}, out{std::vector<int>(kThreads)};
  auto faults = faults_of([&] { launch(sum_tiles<wrong>, {{}, {kThreads}}, nullptr, out.data(), x.data(), 4); });
  if (faults.empty()) {
    EXPECT_EQ(out.values(), std::vector<int>(kThreads, 12));
  }
  return faults;
}

TEST(AsyncCopy, APipelineDoneRightIsSilent) { EXPECT_SILENT(sum_faults<Wrong::nothing>()); }

TEST(AsyncCopy, BytesHaveNotArrivedUntilTheirGroupIsWaitedFor) {
  EXPECT_FAULT(sum_faults<Wrong::no_wait>(), FaultKind::read_before_arrival, "reads a tile");
}

TEST(AsyncCopy, OtherThreadsNeedABarrierAfterTheWait) {
  const auto faults = sum_faults<Wrong::no_barrier>();
  EXPECT_TRUE(has(faults, FaultKind::race, __FILE__, "reads a tile") ||
              has(faults, FaultKind::read_before_arrival, __FILE__, "reads a tile"))
      << list(faults);
}

TEST(AsyncCopy, ATileThatIsStillReadMustNotBeCopiedOver) {
  EXPECT_FAULT(sum_faults<Wrong::early_copy>(), FaultKind::race, "starts a copy");
}

}  // namespace

}  // namespace attnspec::cuda
