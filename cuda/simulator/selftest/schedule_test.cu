// The order in which warps run: shuffled by a seed, and of no consequence for a kernel that is right.
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "cuda/primitives/atomic.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/simulator/grid.hpp"
#include "cuda/simulator/selftest/faults.hpp"

namespace attnspec::cuda {

namespace {

using simulator::faults_of;
using simulator::ScheduleSeed;

constexpr int kWarps = 8, kThreads = kWarps * kWarpLanes;
constexpr std::uint64_t kSeeds = 20;

__global__ void record_order(int* order, int* count) {
  if (lane_index() == 0) order[atomic_add(count, 1)] = warp_index();
}

std::vector<int> order_of_warps() {
  DeviceArray<int> order{std::vector<int>(kWarps)}, count({0});
  launch(record_order, {{}, {kThreads}}, nullptr, order.data(), count.data());
  return order.values();
}

TEST(Schedule, ASeedChoosesTheOrderOfWarps) {
  std::set<std::vector<int>> orders;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const ScheduleSeed scope(seed);
    orders.insert(order_of_warps());
    EXPECT_EQ(order_of_warps(), order_of_warps());
  }
  EXPECT_GT(orders.size(), kSeeds / 2);
}

/// Every block sums its rows of 256 numbers, in an order that does not depend on the schedule.
__global__ void sum_rows(float* sums, const float* x, int rows) {
  struct Partial {
    float x[kWarps];
  };
  auto& partial = static_shared<Partial>();
  for (int row = block_index().x; row < rows; row += grid_size().x) {
    const float sum = sum_lanes(x[std::int64_t{row} * kThreads + thread_number()]);
    if (lane_index() == 0) partial.x[warp_index()] = sum;
    sync_threads();
    if (warp_index() == 0) {
      const float total = sum_lanes(lane_index() < kWarps ? partial.x[lane_index()] : 0.f);
      if (lane_index() == 0) sums[row] = total;
    }
    sync_threads();
  }
}

TEST(Schedule, ARightKernelComputesTheSameBitsInAnyOrder) {
  constexpr int kRows = 40;
  std::vector<float> x(kRows * kThreads);
  for (std::size_t n = 0; n < x.size(); ++n) x[n] = 1.f / static_cast<float>(n % 1013 + 1);
  DeviceArray<float> in(x);
  std::set<std::vector<float>> results;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const ScheduleSeed scope(seed);
    DeviceArray<float> sums{std::vector<float>(kRows)};
    EXPECT_SILENT(faults_of([&] { launch(sum_rows, {{7}, {kThreads}}, nullptr, sums.data(), in.data(), kRows); }));
    results.insert(sums.values());
  }
  EXPECT_EQ(results.size(), 1u);
  double first = 0;
  for (int n = 0; n < kThreads; ++n) first += x[static_cast<std::size_t>(n)];
  EXPECT_NEAR((*results.begin())[0], first, 1e-5);
}

template <int kSyncs>
__global__ void synchronise_often(int* out) {
  auto& shared = static_shared<int>();
  for (int n = 0; n < kSyncs; ++n) sync_warp();
  if (lane_index() == 0) shared = 1;
  sync_warp();
  out[lane_index()] = shared;
}

TEST(Schedule, MoreSynchronisationsThanAStampCountsGiveNoFalseAlarm) {
  DeviceArray<int> out{std::vector<int>(kWarpLanes)};
  EXPECT_SILENT(faults_of([&] { launch(synchronise_often<(1 << 20) + 5>, {{}, {kWarpLanes}}, nullptr, out.data()); }));
}

}  // namespace

}  // namespace attnspec::cuda
