// The fragments of ldmatrix and mma.sync, against the PTX documentation: on the GPU where nvcc compiles this, and else
// in the simulator. The documentation's names: groupID = laneid >> 2, threadID_in_group = laneid % 4.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/thread.cuh"

namespace attnspec::cuda {

namespace {

struct alignas(16) Matrices {
  std::uint16_t x[4][8][8];
};

template <int count, bool transposed>
__global__ void load_fragments(std::uint32_t* out) {
  auto& shared = static_shared<Matrices>();
  const int lane = lane_index();
  for (int n = lane; n < 4 * 8 * 8; n += kWarpLanes) shared.x[n / 64][n / 8 % 8][n % 8] = static_cast<std::uint16_t>(n);
  sync_warp();
  std::uint32_t fragments[count];
  const void* const row = shared.x[lane / 8 % count][lane % 8];
  if constexpr (transposed)
    ldmatrix_transposed(fragments, row);
  else
    ldmatrix(fragments, row);
  for (int matrix = 0; matrix < count; ++matrix) out[matrix * kWarpLanes + lane] = fragments[matrix];
}

/// "Matrix fragments for m8n8 .b16": without .trans, thread T holds of row T / 4 the elements 2 (T % 4) and the next;
/// with it, the matrix is loaded in column-major order.
template <int count, bool transposed>
void expect_fragments() {
  DeviceArray<std::uint32_t> out{std::vector<std::uint32_t>(count * kWarpLanes)};
  launch(load_fragments<count, transposed>, {{}, {kWarpLanes}}, nullptr, out.data());
  const std::vector<std::uint32_t> fragments = out.values();
  for (std::uint32_t matrix = 0; matrix < count; ++matrix)
    for (std::uint32_t lane = 0; lane < kWarpLanes; ++lane) {
      const auto element = [&](std::uint32_t half) {
        const std::uint32_t row = lane / 4, column = 2 * (lane % 4) + half;
        return 64 * matrix + (transposed ? 8 * column + row : 8 * row + column);
      };
      EXPECT_EQ(fragments[matrix * kWarpLanes + lane], element(1) << 16 | element(0)) << matrix << " " << lane;
    }
}

TEST(Ldmatrix, FragmentsAreThoseOfTheDocumentation) {
  expect_fragments<1, false>();
  expect_fragments<2, false>();
  expect_fragments<4, false>();
  expect_fragments<1, true>();
  expect_fragments<2, true>();
  expect_fragments<4, true>();
}

/// The fragments of all lanes: a [lane, 4], b [lane, 2], c [lane, 4].
template <class T>
__global__ void multiply(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  const int lane = lane_index();
  std::uint32_t a_frag[4], b_frag[2];
  float c_frag[4];
  for (int n = 0; n < 4; ++n) a_frag[n] = a[4 * lane + n];
  for (int n = 0; n < 2; ++n) b_frag[n] = b[2 * lane + n];
  for (int n = 0; n < 4; ++n) c_frag[n] = c[4 * lane + n];
  mma_m16n8k16<T>(c_frag, a_frag, b_frag);
  for (int n = 0; n < 4; ++n) c[4 * lane + n] = c_frag[n];
}

// "Matrix fragments for mma.m16n8k16 with floating point type", in the documentation's words.

struct Place {
  int row, column;
};

/// ai, i = 0..7: row = groupID for 0 <= i < 2 or 4 <= i < 6, else groupID + 8;
/// col = threadID_in_group * 2 + (i & 1) for i < 4, and that + 8 for i >= 4.
Place place_a(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {i < 2 || (4 <= i && i < 6) ? group : group + 8, thread * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}

/// bi, i = 0..3: row = threadID_in_group * 2 + (i & 1) for i < 2, and that + 8 for i >= 2; col = groupID.
Place place_b(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {thread * 2 + (i & 1) + (i >= 2 ? 8 : 0), group};
}

/// ci, i = 0..3: row = groupID for i < 2, and groupID + 8 for i >= 2; col = threadID_in_group * 2 + (i & 1).
Place place_c(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}

/// The bits of a small number that both formats hold: m / 32 with |m| < 256 (8 significant bits).
template <class T>
std::uint16_t bits_of(int m) {
  if (m == 0) return 0;
  const bool is_bf16 = std::is_same_v<T, bf16>;
  const int exponent = std::ilogb(m), digits = is_bf16 ? 7 : 10, bias = is_bf16 ? 127 : 15;
  const auto fraction = static_cast<int>(std::ldexp(std::abs(m), digits - exponent)) - (1 << digits);
  return static_cast<std::uint16_t>((m < 0 ? 0x8000 : 0) | (exponent - 5 + bias) << digits | fraction);
}

template <class T>
class MmaTest : public testing::Test {};
using Formats = testing::Types<bf16, fp16>;
TYPED_TEST_SUITE(MmaTest, Formats);

TYPED_TEST(MmaTest, TheProductIsThatOfTheDocumentedFragments) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int> number(-255, 255);
  for (int round = 0; round < 20; ++round) {
    int a[16][16], b[16][8], c[16][8];
    for (auto& row : a)
      for (int& x : row) x = number(random);
    for (auto& row : b)
      for (int& x : row) x = number(random);
    for (auto& row : c)
      for (int& x : row) x = number(random);
    std::vector<std::uint32_t> a_frags(4 * kWarpLanes), b_frags(2 * kWarpLanes);
    std::vector<float> c_frags(4 * kWarpLanes);
    for (int lane = 0; lane < kWarpLanes; ++lane) {
      for (int i = 0; i < 8; ++i) {
        const auto [row, column] = place_a(lane, i);
        a_frags[static_cast<std::size_t>(4 * lane + i / 2)] |= std::uint32_t{bits_of<TypeParam>(a[row][column])}
                                                               << 16 * (i % 2);
      }
      for (int i = 0; i < 4; ++i) {
        const auto [row, column] = place_b(lane, i);
        b_frags[static_cast<std::size_t>(2 * lane + i / 2)] |= std::uint32_t{bits_of<TypeParam>(b[row][column])}
                                                               << 16 * (i % 2);
      }
      for (int i = 0; i < 4; ++i) {
        const auto [row, column] = place_c(lane, i);
        c_frags[static_cast<std::size_t>(4 * lane + i)] = static_cast<float>(c[row][column]);
      }
    }
    DeviceArray<std::uint32_t> a_device(a_frags), b_device(b_frags);
    DeviceArray<float> c_device(c_frags);
    launch(multiply<TypeParam>, {{}, {kWarpLanes}}, nullptr, c_device.data(), a_device.data(), b_device.data());
    const std::vector<float> products = c_device.values();
    for (int lane = 0; lane < kWarpLanes; ++lane)
      for (int i = 0; i < 4; ++i) {
        const auto [row, column] = place_c(lane, i);
        double expected = c[row][column];
        for (int k = 0; k < 16; ++k) expected += a[row][k] * b[k][column] / 1024.;
        EXPECT_EQ(products[static_cast<std::size_t>(4 * lane + i)], expected) << row << " " << column;
      }
  }
}

}  // namespace

}  // namespace attnspec::cuda
