// Products of warpgroups against sums in exact arithmetic: on a GPU of compute capability 9.0 where nvcc compiles this,
// and else in the simulator.
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warpgroup.cuh"

namespace attnspec::cuda {

namespace {

constexpr int kDepth = 128, kGroups = 2;  // two warpgroups, with an A and a C each

/// Panels of 64 columns in shared memory.
template <class T, int rows, int columns>
struct alignas(1024) Panels {
  T x[columns / 64][rows][8][8];

  __device__ SwizzledMatrix from(int row, int column) const {
    return {&x[column / 64][row][column % 64 / 8][0], static_cast<int>(sizeof x[0])};
  }
  /// All threads copy a matrix from global memory.
  __device__ void fill(const T* from) {
    for (int n = thread_number(); n < rows * columns; n += block_size().x) {
      const int row = n / columns, column = n % columns;
      x[column / 64][row][(column % 64 / 8) ^ (row % 8)][column % 8] = from[n];
    }
  }
};

template <class T, int n, StoredB stored>
struct Operands {
  Panels<T, 64 * kGroups, kDepth> a;
  std::conditional_t<stored == StoredB::as_it_is, Panels<T, kDepth, n>, Panels<T, n, kDepth>> b;
};

/// c = c + a b, with a [64 kGroups, kDepth], b [kDepth, n] or its transpose, and c [64 kGroups, n].
template <class T, int n, StoredB stored, bool a_in_registers>
__global__ void multiply_by_warpgroups(float* c, const T* a, const T* b) {
  auto& shared = *dynamic_shared<Operands<T, n, stored>>();
  shared.a.fill(a);
  shared.b.fill(b);
  fence_async_proxy();
  sync_threads();

  float sums[n / 8][4];
  const int first = warp_index() * 16;  // row
  const auto place = [&](int group, int number) {
    return (first + lane_index() / 4 + number / 2 * 8) * n + 8 * group + lane_index() % 4 * 2 + number % 2;
  };
  for (int group = 0; group < n / 8; ++group)
    for (int number = 0; number < 4; ++number) sums[group][number] = c[place(group, number)];
  std::uint32_t fragments[kDepth / 16][4];
  for (int step = 0; step < kDepth / 16; ++step)
    for (int pair = 0; pair < 4; ++pair) {
      const int row = first + lane_index() / 4 + pair % 2 * 8;
      const T* from = a + row * kDepth + 16 * step + pair / 2 * 8 + lane_index() % 4 * 2;
      fragments[step][pair] = static_cast<std::uint32_t>(from[1].bits) << 16 | from[0].bits;
    }
  wgmma_fence(sums, fragments);
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step) {
    const SwizzledMatrix right =
        stored == StoredB::as_it_is ? shared.b.from(16 * step, 0) : shared.b.from(0, 16 * step);
    if constexpr (a_in_registers)
      wgmma<T, stored>(sums, fragments[step], right, true);
    else
      wgmma<T, stored>(sums, shared.a.from(first / 64 * 64, 16 * step), right, true);
  }
  wgmma_commit();
  wgmma_wait<0>(sums, fragments);
  for (int group = 0; group < n / 8; ++group)
    for (int number = 0; number < 4; ++number) c[place(group, number)] = sums[group][number];
}

/// A small whole number.
template <class T>
T number(int value) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  if constexpr (std::is_same_v<T, bf16>) return {static_cast<std::uint16_t>(bits >> 16)};
  if (value == 0) return {0};
  return {static_cast<std::uint16_t>((bits >> 16 & 0x8000) | (((bits >> 23 & 0xff) - 127 + 15) << 10) |
                                     (bits >> 13 & 0x3ff))};
}

template <class T>
struct Matrix {
  int rows, columns;
  std::vector<int> values;
  std::vector<T> stored;

  int at(int row, int column) const { return values[static_cast<std::size_t>(row * columns + column)]; }
};

template <class T>
Matrix<T> random_matrix(int rows, int columns, std::mt19937& random) {
  Matrix<T> made{rows, columns, {}, {}};
  for (int n = 0; n < rows * columns; ++n) {
    made.values.push_back(std::uniform_int_distribution<int>(-15, 15)(random));
    made.stored.push_back(number<T>(made.values.back()));
  }
  return made;
}

template <class T, int n, StoredB stored, bool a_in_registers>
void expect_product() {
  std::mt19937 random(n);
  constexpr bool kAsItIs = stored == StoredB::as_it_is;
  const auto a = random_matrix<T>(64 * kGroups, kDepth, random);
  const auto b = kAsItIs ? random_matrix<T>(kDepth, n, random) : random_matrix<T>(n, kDepth, random);
  const auto c = random_matrix<T>(64 * kGroups, n, random);
  DeviceArray<T> a_device(a.stored), b_device(b.stored);
  DeviceArray<float> c_device(std::vector<float>(c.values.begin(), c.values.end()));
  launch(multiply_by_warpgroups<T, n, stored, a_in_registers>,
         {{}, {kWarpgroupThreads * kGroups}, sizeof(Operands<T, n, stored>)}, nullptr, c_device.data(), a_device.data(),
         b_device.data());
  const std::vector<float> products = c_device.values();
  for (int row = 0; row < a.rows; ++row)
    for (int column = 0; column < n; ++column) {
      int expected = c.at(row, column);
      for (int k = 0; k < kDepth; ++k) expected += a.at(row, k) * (kAsItIs ? b.at(k, column) : b.at(column, k));
      ASSERT_EQ(products[static_cast<std::size_t>(row * n + column)], expected) << row << " " << column;
    }
}

template <class T>
class WarpgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_warpgroups()) GTEST_SKIP() << "needs a CUDA device of compute capability 9.0";
  }
};
using Formats = testing::Types<bf16, fp16>;
TYPED_TEST_SUITE(WarpgroupTest, Formats);

TYPED_TEST(WarpgroupTest, TheProductIsThatOfMatricesInSharedMemory) {
  expect_product<TypeParam, 64, StoredB::transposed, false>();
  expect_product<TypeParam, 128, StoredB::transposed, false>();
  expect_product<TypeParam, 64, StoredB::as_it_is, false>();
  expect_product<TypeParam, 128, StoredB::as_it_is, false>();
}

TYPED_TEST(WarpgroupTest, TheFirstFactorMayLieInRegisters) {
  expect_product<TypeParam, 64, StoredB::transposed, true>();
  expect_product<TypeParam, 128, StoredB::transposed, true>();
  expect_product<TypeParam, 64, StoredB::as_it_is, true>();
  expect_product<TypeParam, 128, StoredB::as_it_is, true>();
}

}  // namespace

}  // namespace attnspec::cuda
