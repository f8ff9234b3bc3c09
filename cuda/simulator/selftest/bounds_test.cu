// Kernels that touch memory which is not theirs, and the same done right.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <vector>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/simulator/selftest/faults.hpp"

namespace attnspec::cuda {

namespace {

using simulator::Fault;
using simulator::FaultKind;
using simulator::faults_of;

constexpr int kThreads = 64;
const LaunchShape kOneBlock{{}, {kThreads}};

__global__ void add_one(float* x, int count) {
  const int t = thread_index().x;
  if (t < count) x[t] += 1;  // adds
}

TEST(GlobalMemory, AnAccessPastTheEndIsFoundAndNotMade) {
  std::vector<float> x(kThreads, 2.f);
  const simulator::RegisteredBuffer buffer(x.data(), 48 * sizeof(float), "x");
  EXPECT_SILENT(faults_of([&] { launch(add_one, kOneBlock, nullptr, x.data(), 48); }));
  const auto faults = faults_of([&] { launch(add_one, kOneBlock, nullptr, x.data(), 49); });
  EXPECT_FAULT(faults, FaultKind::out_of_bounds, "adds");
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].thread, (Index3{48, 0, 0}));
  EXPECT_NE(faults[0].message.find("read of 4 bytes at x + 192 (x has 192 bytes)"), std::string::npos)
      << faults[0].message;
  EXPECT_EQ(x[48], 2.f);
}

TEST(GlobalMemory, AnAccessBeforeTheStartIsFound) {
  DeviceArray<float> x{std::vector<float>(kThreads, 2.f)};
  EXPECT_FAULT(faults_of([&] { launch(add_one, kOneBlock, nullptr, x.data() - 1, kThreads); }),
               FaultKind::out_of_bounds, "adds");
}

TEST(GlobalMemory, ABufferThatIsGoneIsOutOfBounds) {
  std::vector<float> x(kThreads);
  { const simulator::RegisteredBuffer buffer(x.data(), kThreads * sizeof(float), "x"); }
  const auto faults = faults_of([&] { launch(add_one, kOneBlock, nullptr, x.data(), kThreads); });
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_NE(faults[0].message.find("no buffer is registered"), std::string::npos);
}

__global__ void write_at(char* bytes, std::int64_t offset) {
  if (thread_index().x == 0) bytes[offset] = 1;  // writes far
}

TEST(GlobalMemory, SparseBuffersOfTerabytesHave64BitOffsets) {
  const std::int64_t size = std::int64_t{1} << 40;
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  {
    const simulator::RegisteredBuffer buffer(memory, size, "huge");
    char* const bytes = static_cast<char*>(memory);
    EXPECT_SILENT(faults_of([&] { launch(write_at, kOneBlock, nullptr, bytes, size - 1); }));
    EXPECT_EQ(bytes[size - 1], 1);
    EXPECT_FAULT(faults_of([&] { launch(write_at, kOneBlock, nullptr, bytes, size); }), FaultKind::out_of_bounds,
                 "writes far");
  }
  munmap(memory, size);
}

struct Row {
  float x[24];
};

__global__ void copy_rows(Row* to, const Row* from) {
  const int t = thread_index().x;
  to[t] = from[t];  // copies a row
}

TEST(GlobalMemory, ACopyOfAStructIsAnAccess) {
  DeviceArray<Row> from{std::vector<Row>(kThreads)}, to{std::vector<Row>(kThreads)};
  EXPECT_SILENT(faults_of([&] { launch(copy_rows, kOneBlock, nullptr, to.data(), from.data()); }));
  EXPECT_FAULT(faults_of([&] { launch(copy_rows, kOneBlock, nullptr, to.data() + 1, from.data()); }),
               FaultKind::out_of_bounds, "copies a row");
}

struct Parameters {
  std::int64_t stride[3];
  float* x;
};
constexpr float kTable[4] = {1, 2, 3, 4};

__device__ void fill(float* values, const float* from, int count) {
  for (int n = 0; n < count; ++n) values[n] += from[n];
}

__global__ void use_local_memory(Parameters p) {
  const int t = thread_index().x;
  float values[4] = {};
  fill(values, kTable + t % 2, 3);
  p.x[t * p.stride[t % 3]] = values[t % 4];
}

TEST(GlobalMemory, ParametersLocalArraysAndConstantsAreNoBuffers) {
  DeviceArray<float> x{std::vector<float>(kThreads)};
  EXPECT_SILENT(faults_of([&] { launch(use_local_memory, kOneBlock, nullptr, Parameters{{1, 1, 1}, x.data()}); }));
  EXPECT_EQ(x.values()[5], 3.f);
}

struct Tile {
  float x[kThreads];
};

template <int kShift>
__global__ void shift_static(float* out) {
  auto& tile = static_shared<Tile>();
  const int t = thread_index().x;
  tile.x[t] = static_cast<float>(t);
  sync_threads();
  const float* const from = tile.x + kShift;
  out[t] = from[t];  // reads the static tile
}

TEST(SharedMemory, AnAccessPastAStaticObjectIsFound) {
  DeviceArray<float> out{std::vector<float>(kThreads)};
  EXPECT_SILENT(faults_of([&] { launch(shift_static<0>, kOneBlock, nullptr, out.data()); }));
  EXPECT_FAULT(faults_of([&] { launch(shift_static<1>, kOneBlock, nullptr, out.data()); }),
               FaultKind::shared_out_of_bounds, "reads the static tile");
}

__global__ void fill_dynamic() {
  dynamic_shared<float>()[thread_index().x] = 1;  // fills
}

TEST(SharedMemory, AnAccessPastTheDynamicBlockIsFound) {
  EXPECT_SILENT(faults_of([] { launch(fill_dynamic, {{}, {kThreads}, kThreads * sizeof(float)}, nullptr); }));
  EXPECT_FAULT(faults_of([] {
                 launch(fill_dynamic, {{}, {kThreads}, kThreads * sizeof(float) - 1}, nullptr);
               }),
               FaultKind::shared_out_of_bounds, "fills");
}

__global__ void copy_wide(std::uint32_t* to, const std::uint32_t* from, int first) {
  const Words4 words = load_128(from + first);  // loads 16 bytes
  store_128(to, words);
}

TEST(Alignment, AWideAccessMustBeAligned) {
  DeviceArray<std::uint32_t> words({0, 1, 2, 3, 4, 5, 6, 7}), to({0, 0, 0, 0});
  EXPECT_SILENT(faults_of([&] { launch(copy_wide, {}, nullptr, to.data(), words.data(), 4); }));
  EXPECT_EQ(to.values(), (std::vector<std::uint32_t>{4, 5, 6, 7}));
  EXPECT_FAULT(faults_of([&] { launch(copy_wide, {}, nullptr, to.data(), words.data(), 1); }), FaultKind::misaligned,
               "loads 16 bytes");
}

__global__ void copy_tail(float* out, const float* from, int count) {
  auto& tile = static_shared<Tile>();
  const int t = thread_index().x, first = 4 * t;
  const int left = count - first < 0 ? 0 : count - first < 4 ? count - first : 4;
  if (t < kThreads / 4) cp_async<16>(tile.x + first, from + first, left * 4);  // copies 16 bytes
  cp_async_commit();
  cp_async_wait<0>();
  sync_threads();
  out[t] = tile.x[t];
}

TEST(AsyncCopy, TheTailIsZeroAndNotRead) {
  DeviceArray<float> from({1, 2, 3, 4, 5}), out{std::vector<float>(kThreads, 9.f)};
  EXPECT_SILENT(faults_of([&] { launch(copy_tail, kOneBlock, nullptr, out.data(), from.data(), 5); }));
  std::vector<float> expected(kThreads);
  for (int n = 0; n < 5; ++n) expected[static_cast<std::size_t>(n)] = static_cast<float>(n + 1);
  EXPECT_EQ(out.values(), expected);
  EXPECT_FAULT(faults_of([&] { launch(copy_tail, kOneBlock, nullptr, out.data(), from.data(), 6); }),
               FaultKind::out_of_bounds, "copies 16 bytes");
}

__global__ void copy_to_global(float* to, const float* from) {
  cp_async<4>(to, from);  // copies to global memory
}

TEST(AsyncCopy, ItsTargetIsSharedMemory) {
  DeviceArray<float> from({1}), to({1});
  EXPECT_FAULT(faults_of([&] { launch(copy_to_global, {}, nullptr, to.data(), from.data()); }),
               FaultKind::shared_out_of_bounds, "copies to global memory");
}

TEST(Launch, AShapeThatNoGpuLaunchesIsRefused) {
  EXPECT_THROW(launch(fill_dynamic, {{}, {1025}}, nullptr), std::invalid_argument);
  EXPECT_THROW(launch(fill_dynamic, {{0}, {32}}, nullptr), std::invalid_argument);
  EXPECT_THROW(launch(fill_dynamic, {{}, {32}, 228 * 1024}, nullptr), std::invalid_argument);
}

TEST(Launch, AGpuMayHaveLessSharedMemory) {
  const simulator::SharedMemoryLimit limit(99 * 1024);
  EXPECT_EQ(max_shared_bytes(), 99 * 1024);
  EXPECT_THROW(launch(fill_dynamic, {{}, {32}, 100 * 1024}, nullptr), std::invalid_argument);
}

}  // namespace

}  // namespace attnspec::cuda
