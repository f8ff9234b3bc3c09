// What a simulated thread pays: each kernel does one thing many times, in one block of 128 threads.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/simulator/buffers.hpp"

namespace attnspec::cuda {

namespace {

constexpr int kThreads = 128, kRounds = 1000;

struct alignas(16) Tile {
  float x[16 * kThreads];
};

__global__ void meet_at_barrier(float*) {
  for (int n = 0; n < kRounds; ++n) sync_threads();
}
__global__ void meet_in_warp(float*) {
  for (int n = 0; n < kRounds; ++n) sync_warp();
}
__global__ void shuffle_values(float* x) {
  float value = 1;
  for (int n = 0; n < kRounds; ++n) value = shuffle_xor(value, 1);
  x[thread_index().x] = value;
}
__global__ void read_global(float* x) {
  float sum = 0;
  for (int n = 0; n < kRounds; ++n) sum += x[n % 16 * kThreads + thread_index().x];
  x[thread_index().x] = sum;
}

__device__ float* fill_tile() {
  auto& tile = static_shared<Tile>();
  for (int n = 0; n < 16; ++n) tile.x[n * kThreads + thread_index().x] = 0;
  sync_threads();
  return tile.x;
}
__global__ void read_shared(float* x) {
  const float* const tile = fill_tile();
  float sum = 0;
  for (int n = 0; n < kRounds; ++n) sum += tile[n % 16 * kThreads + thread_index().x];
  x[thread_index().x] = sum;
}
__global__ void write_shared(float*) {
  float* const tile = fill_tile();
  for (int n = 0; n < kRounds; ++n) tile[n % 16 * kThreads + thread_index().x] = 1;
}
__global__ void read_shared_wide(float*) {
  const float* const tile = fill_tile();
  for (int n = 0; n < kRounds; ++n) load_128(tile + n % 4 * 4 * kThreads + 4 * thread_index().x);
}
__global__ void load_matrices(float*) {
  const float* const tile = fill_tile();
  std::uint32_t fragments[4];
  for (int n = 0; n < kRounds; ++n) ldmatrix(fragments, tile + 4 * thread_index().x);
}
__global__ void copy_tile(float* x) {
  float* const tile = fill_tile();
  for (int n = 0; n < kRounds; ++n) {
    cp_async<16>(tile + 4 * thread_index().x, x + 4 * thread_index().x);
    cp_async_commit();
    cp_async_wait<0>();
  }
}
template <class T>
__global__ void multiply(float* x) {
  const std::uint32_t one = pack<T>(1, 1), a[4] = {one, one, one, one}, b[2] = {one, one};
  float c[4] = {};
  for (int n = 0; n < kRounds; ++n) mma_m16n8k16<T>(c, a, b);
  x[thread_index().x] = c[0];
}

/// Time per round of one thread (of one warp, for what a warp does).
void measure(benchmark::State& state, void (*kernel)(float*), int doers) {
  std::vector<float> x(16 * kThreads);
  const simulator::RegisteredBuffer buffer(x.data(), x.size() * sizeof(float), "x");
  for (auto _ : state) launch(kernel, {{}, {kThreads}}, nullptr, x.data());
  state.counters["each"] = benchmark::Counter(
      double{kRounds} * doers, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

BENCHMARK_CAPTURE(measure, sync_threads_per_thread, meet_at_barrier, kThreads);
BENCHMARK_CAPTURE(measure, sync_warp_per_thread, meet_in_warp, kThreads);
BENCHMARK_CAPTURE(measure, shuffle_per_thread, shuffle_values, kThreads);
BENCHMARK_CAPTURE(measure, read_global_4_bytes, read_global, kThreads);
BENCHMARK_CAPTURE(measure, read_shared_4_bytes, read_shared, kThreads);
BENCHMARK_CAPTURE(measure, read_shared_16_bytes, read_shared_wide, kThreads);
BENCHMARK_CAPTURE(measure, write_shared_4_bytes, write_shared, kThreads);
BENCHMARK_CAPTURE(measure, cp_async_16_bytes, copy_tile, kThreads);
BENCHMARK_CAPTURE(measure, ldmatrix_x4_per_warp, load_matrices, kThreads / kWarpLanes);
BENCHMARK_CAPTURE(measure, mma_bf16_per_warp, multiply<bf16>, kThreads / kWarpLanes);
BENCHMARK_CAPTURE(measure, mma_fp16_per_warp, multiply<fp16>, kThreads / kWarpLanes);

}  // namespace

}  // namespace attnspec::cuda
