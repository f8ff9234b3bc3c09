// Mean keys: kbar[b] = (1 / |b|) sum_{j in b} k[j] in fp32, for every key block b of every sequence and key/value head,
// split into two fp16 parts and a power of two (MeanKeys in forward.hpp).
//
// k [key tokens, Hkv, dk], rows on multiples of 16 bytes; parts [num_blocks, Hkv, 2, dk], scales [num_blocks, Hkv]. A
// thread block of 128 threads owns one mean: groups of 8, 16 or 32 lanes go through its keys, a key each at a time, a
// lane has eight features. The order of all sums is fixed. Shared memory: 4 KB.
#include <cmath>

#include "cuda/gathered_queries/forward.hpp"
#include "cuda/gathered_queries/powers.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr int kThreads = 128;

struct ThreadSums {
  float features[kThreads][kPieceFeatures];
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    pool_block(Attention a, std::int64_t block, const std::int64_t* block_offsets, Rows<const T> k, MeanKeys means,
               int lanes_per_key) {
  auto& shared = static_shared<ThreadSums>();
  const int thread = thread_index().x, g = block_index().y;
  const std::int64_t mean = block_index().x;
  const Sequence s = sequence_of(a.sequences, block_offsets, mean);
  const std::int64_t begin = (mean - block_offsets[s.index]) * block;
  const std::int64_t end = begin + block < s.num_keys ? begin + block : s.num_keys;

  // phase 1 - every thread sums its features of every so many keys
  float sums[kPieceFeatures] = {};
  const int feature = thread % lanes_per_key * kPieceFeatures;
  if (feature < a.dk) {
#pragma unroll 8
    for (std::int64_t j = begin + thread / lanes_per_key; j < end; j += kThreads / lanes_per_key) {
      const Words4 piece = load_128_constant(k.at(s.k_begin + j, g) + feature);
#pragma unroll
      for (int n = 0; n < kPieceFeatures; ++n)
        sums[n] += n % 2 == 0 ? unpack_low<T>(piece.words[n / 2]) : unpack_high<T>(piece.words[n / 2]);
    }
  }
#pragma unroll
  for (int n = 0; n < kPieceFeatures; ++n) shared.features[thread][n] = sums[n];
  sync_threads();
  if (thread >= kWarpLanes) return;

  // phase 2 - the first warp sums what the threads have, and divides
  float largest = 0;
#pragma unroll
  for (int n = 0; n < kPieceFeatures; ++n) {
    float sum = 0;
    for (int from = thread; thread < lanes_per_key && from < kThreads; from += lanes_per_key)
      sum += shared.features[from][n];
    sums[n] = sum / static_cast<float>(end - begin);
    largest = fmaxf(largest, fabsf(sums[n]));
  }

  // phase 3 - two parts of each feature
  const int exponent = exponent_of_scale(max_lanes(largest));
  const std::int64_t row = mean * a.kv_heads + g;
  if (thread == 0) means.scales[row] = power_of_two(-exponent);
  if (thread >= lanes_per_key || feature >= a.dk) return;
  const float scale = power_of_two(exponent);
  Words4 high, low;
#pragma unroll
  for (int n = 0; n < kPieceFeatures; n += 2) {
    const float first = sums[n] * scale, second = sums[n + 1] * scale;
    const std::uint32_t rounded = pack<fp16>(first, second);
    high.words[n / 2] = rounded;
    low.words[n / 2] = pack<fp16>(first - unpack_low<fp16>(rounded), second - unpack_high<fp16>(rounded));
  }
  store_128(means.parts + row * 2 * a.dk + feature, high);
  store_128(means.parts + (row * 2 + 1) * a.dk + feature, low);
}

}  // namespace

template <class T>
void pool_keys(const Attention& a, std::int64_t block, const std::int64_t* block_offsets, std::int64_t num_blocks,
               Rows<const T> k, const MeanKeys& means, void* stream) {
  if (num_blocks == 0) return;
  LaunchShape shape;
  shape.grid = {static_cast<int>(num_blocks), a.kv_heads, 1};
  shape.block.x = kThreads;
  const int lanes_per_key = a.dk <= 64 ? 8 : a.dk <= 128 ? 16 : 32;
  launch(pool_block<T>, shape, stream, a, block, block_offsets, k, means, lanes_per_key);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                \
  template void pool_keys<T>(const Attention&, std::int64_t, const std::int64_t*, std::int64_t, Rows<const T>, \
                             const MeanKeys&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
