// A kernel of the kind that the simulator is for: causal attention with mma.sync, ldmatrix and a cp.async pipeline.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/selftest/device_array.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/simulator/grid.hpp"
#include "cuda/simulator/selftest/faults.hpp"

namespace attnspec::cuda {

namespace {

constexpr int kDim = 64, kTile = 64, kWarps = 4, kThreads = kWarps * kWarpLanes;

struct Tile {
  bf16 x[kTile][kDim + 8];  // padded, so that ldmatrix reads different banks
};

struct Stages {
  Tile q, k[2], v[2];
};

/// Starts to copy a tile from x [tokens, d]; rows at and after `tokens` become zero.
__device__ void copy_tile(Tile& to, const bf16* x, int first, int tokens) {
  for (int n = thread_number(); n < kTile * kDim / 8; n += kThreads) {
    const int row = n / (kDim / 8), column = n % (kDim / 8) * 8;
    cp_async<16>(&to.x[row][column], x + (first + row) * kDim + column, first + row < tokens ? 16 : 0);
  }
}

/// A block owns 64 queries, a warp 16 of them, a lane parts of rows lane / 4 and lane / 4 + 8 of these.
__global__ void attend(float* o, const bf16* q, const bf16* k, const bf16* v, int tokens, float scale_log2) {
  Stages& shared = *dynamic_shared<Stages>();
  const int lane = lane_index(), warp = warp_index(), first_query = block_index().x * kTile;
  const int tiles = std::min(first_query + kTile, (tokens + kTile - 1) / kTile * kTile) / kTile;
  float output[kDim / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};

  copy_tile(shared.q, q, first_query, tokens);
  copy_tile(shared.k[0], k, 0, tokens);
  copy_tile(shared.v[0], v, 0, tokens);
  cp_async_commit();
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      copy_tile(shared.k[(tile + 1) % 2], k, (tile + 1) * kTile, tokens);
      copy_tile(shared.v[(tile + 1) % 2], v, (tile + 1) * kTile, tokens);
    }
    cp_async_commit();
    cp_async_wait<1>();
    sync_threads();

    // phase 1 - scores
    float scores[kTile / 8][4] = {};
    for (int step = 0; step < kDim / 16; ++step) {
      std::uint32_t a[4], b[2];
      ldmatrix(a, &shared.q.x[16 * warp + lane % 16][16 * step + lane / 16 * 8]);
      for (int n = 0; n < kTile / 8; ++n) {
        ldmatrix(b, &shared.k[tile % 2].x[8 * n + lane % 8][16 * step + lane / 8 % 2 * 8]);
        mma_m16n8k16<bf16>(scores[n], a, b);
      }
    }

    // phase 2 - online softmax of the two rows
    for (int half = 0; half < 2; ++half) {
      const int query = first_query + 16 * warp + lane / 4 + 8 * half;
      float row_largest = largest[half];
      for (int n = 0; n < kTile / 8; ++n)
        for (int c = 2 * half; c < 2 * half + 2; ++c) {
          const int key = tile * kTile + 8 * n + lane % 4 * 2 + c % 2;
          scores[n][c] = key <= query ? scores[n][c] * scale_log2 : -INFINITY;
          row_largest = std::max(row_largest, scores[n][c]);
        }
      row_largest = max_lanes<4>(row_largest);
      const float kept = exp2_approx(largest[half] - row_largest);
      largest[half] = row_largest;
      sum[half] *= kept;
      for (int n = 0; n < kTile / 8; ++n)
        for (int c = 2 * half; c < 2 * half + 2; ++c) {
          scores[n][c] = exp2_approx(scores[n][c] - row_largest);
          sum[half] += scores[n][c];
        }
      for (int n = 0; n < kDim / 8; ++n)
        for (int c = 2 * half; c < 2 * half + 2; ++c) output[n][c] *= kept;
    }

    // phase 3 - weighted values
    for (int step = 0; step < kTile / 16; ++step) {
      const float *const low = scores[2 * step], *const high = scores[2 * step + 1];
      const std::uint32_t a[4] = {pack<bf16>(low[0], low[1]), pack<bf16>(low[2], low[3]), pack<bf16>(high[0], high[1]),
                                  pack<bf16>(high[2], high[3])};
      for (int n = 0; n < kDim / 8; ++n) {
        std::uint32_t b[2];
        ldmatrix_transposed(b, &shared.v[tile % 2].x[16 * step + lane % 16][8 * n]);
        mma_m16n8k16<bf16>(output[n], a, b);
      }
    }
    sync_threads();
  }

  for (int half = 0; half < 2; ++half) {
    const int query = first_query + 16 * warp + lane / 4 + 8 * half;
    const float scale = reciprocal_approx(sum_lanes<4>(sum[half]));
    if (query >= tokens) continue;
    for (int n = 0; n < kDim / 8; ++n)
      for (int c = 0; c < 2; ++c) o[query * kDim + 8 * n + lane % 4 * 2 + c] = output[n][2 * half + c] * scale;
  }
}

double decode(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

/// The attention of one query, [d].
std::vector<double> expected_row(int query, const std::vector<bf16>& q, const std::vector<bf16>& k,
                                 const std::vector<bf16>& v, double scale) {
  const auto at = [](const std::vector<bf16>& x, int row, int d) {
    return decode(x[static_cast<std::size_t>(row * kDim + d)]);
  };
  std::vector<double> row(kDim);
  double sum = 0;
  for (int key = 0; key <= query; ++key) {
    double score = 0;
    for (int d = 0; d < kDim; ++d) score += at(q, query, d) * at(k, key, d);
    const double weight = std::exp(scale * score);
    sum += weight;
    for (int d = 0; d < kDim; ++d) row[static_cast<std::size_t>(d)] += weight * at(v, key, d);
  }
  for (double& x : row) x /= sum;
  return row;
}

TEST(Attention, APipelinedKernelIsSilentAndRight) {
  constexpr int kTokens = 200;
  constexpr double kScale = 0.125;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<bf16> inputs[3];
  for (auto& input : inputs)
    for (int n = 0; n < kTokens * kDim; ++n)
      input.push_back({static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(normal(random)) >> 16)});
  DeviceArray<bf16> q(inputs[0]), k(inputs[1]), v(inputs[2]);
  std::vector<float> first;
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const simulator::ScheduleSeed scope(seed);
    DeviceArray<float> o{std::vector<float>(kTokens * kDim)};
    EXPECT_SILENT(simulator::faults_of([&] {
      launch(attend, {{(kTokens + kTile - 1) / kTile}, {kThreads}, sizeof(Stages)}, nullptr, o.data(), q.data(),
             k.data(), v.data(), kTokens, static_cast<float>(kScale / std::log(2.)));
    }));
    if (seed == 0) first = o.values();
    EXPECT_EQ(o.values(), first);
  }
  for (int query = 0; query < kTokens; ++query) {
    const std::vector<double> row = expected_row(query, inputs[0], inputs[1], inputs[2], kScale);
    for (int d = 0; d < kDim; ++d)
      ASSERT_NEAR(first[static_cast<std::size_t>(query * kDim + d)], row[static_cast<std::size_t>(d)], 0.02) << query;
  }
}

}  // namespace

}  // namespace attnspec::cuda
