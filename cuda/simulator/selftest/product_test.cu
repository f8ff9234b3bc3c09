// Kernels that use products of warpgroups wrongly, and the same done right.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warpgroup.cuh"
#include "cuda/simulator/grid.hpp"
#include "cuda/simulator/selftest/faults.hpp"

namespace attnspec::cuda {

namespace {

using simulator::FaultKind;
using simulator::faults_of;

enum class Mistake {
  none,
  reads_early,
  no_fence,
  no_proxy_fence,
  no_barrier,
  writes_early,
  begins_between_atoms,
};

struct alignas(1024) Panel {
  bf16 x[64 * 64];
};

/// out [threads]: the first sum of every thread, of a product of ones with itself.
template <Mistake mistake>
__global__ void square(float* out) {
  auto& shared = *dynamic_shared<Panel>();
  for (int n = thread_number(); n < 64 * 64; n += block_size().x) shared.x[n] = bf16{0x3f80};
  if (mistake != Mistake::no_proxy_fence) fence_async_proxy();
  if (mistake != Mistake::no_barrier) sync_threads();
  float sums[8][4];
  const SwizzledMatrix ones{shared.x + (mistake == Mistake::begins_between_atoms ? 64 : 0), sizeof shared};
  if (mistake != Mistake::no_fence) wgmma_fence(sums);
  wgmma<bf16, StoredB::transposed>(sums, ones, ones, false);  // multiplies
  wgmma_commit();
  if (mistake == Mistake::reads_early) out[thread_number()] = sums[0][0];
  if (mistake == Mistake::writes_early) {
    sync_threads();
    shared.x[thread_number()] = bf16{0};
  }
  wgmma_wait<0>(sums);  // waits
  if (mistake != Mistake::reads_early) out[thread_number()] = sums[0][0];
}

struct Outcome {
  std::vector<simulator::Fault> faults;
  std::vector<float> out;
};

Outcome run(void (*kernel)(float*), int threads = kWarpgroupThreads) {
  DeviceArray<float> out{std::vector<float>(kWarpgroupThreads)};
  const auto faults = faults_of([&] { launch(kernel, {{}, {threads}, sizeof(Panel)}, nullptr, out.data()); });
  return {faults, out.values()};
}

TEST(Product, IsSilentAndRightWhereEverythingIsFenced) {
  const Outcome right = run(square<Mistake::none>);
  EXPECT_SILENT(right.faults);
  EXPECT_EQ(right.out, std::vector<float>(kWarpgroupThreads, 16));
}

TEST(Product, ItsSumsAreNaNBeforeTheWait) {
  for (const float sum : run(square<Mistake::reads_early>).out) EXPECT_TRUE(std::isnan(sum));
}

TEST(Product, NeedsAFenceOfItsRegistersAndOneOfItsMemory) {
  EXPECT_FAULT(run(square<Mistake::no_fence>).faults, FaultKind::unfenced, "multiplies");
  EXPECT_FAULT(run(square<Mistake::no_proxy_fence>).faults, FaultKind::unfenced, "multiplies");
}

TEST(Product, ReadsMemoryAfterABarrierAndUntilTheWait) {
  EXPECT_FAULT(run(square<Mistake::no_barrier>).faults, FaultKind::race, "multiplies");
  EXPECT_FAULT(run(square<Mistake::writes_early>).faults, FaultKind::race, "waits");
}

TEST(Product, NeedsWholeAtomsAndAWholeWarpgroup) {
  EXPECT_FAULT(run(square<Mistake::begins_between_atoms>).faults, FaultKind::misaligned, "multiplies");
  EXPECT_FAULT(run(square<Mistake::none>, 96).faults, FaultKind::divergent_barrier, "multiplies");
}

TEST(Product, IsForAGpuWithWarpgroups) {
  EXPECT_TRUE(has_warpgroups());
  const simulator::SharedMemoryLimit older(163 * 1024);
  EXPECT_FALSE(has_warpgroups());
}

}  // namespace

}  // namespace attnspec::cuda
