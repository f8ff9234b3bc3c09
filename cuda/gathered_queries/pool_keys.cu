// Mean keys: kbar[b] = (1 / |b|) sum_{j in b} k[j] in fp32, for every key block b of every sequence and key/value head,
// split into two fp16 parts and a power of two (MeanKeys in forward.hpp).
//
// k [key tokens, Hkv, dk], rows on multiples of 16 bytes; parts [num_blocks, Hkv, 2, dk], scales [num_blocks, Hkv]. A
// thread block of 128 threads owns one mean: groups of 8, 16 or 32 lanes go through its keys, a key each at a time, a
// lane has eight features. The order of all sums is fixed. Shared memory: 4 KB.
#include <cmath>

#include "cuda/gathered_queries/forward.hpp"
#include "cuda/gathered_queries/key_means.cuh"
#include "cuda/gathered_queries/powers.cuh"
#include "cuda/primitives/launch.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

template <class T>
__global__ void __launch_bounds__(kMeanThreads, kMeanBlocks)
    pool_block(Attention a, std::int64_t block, const std::int64_t* block_offsets, Rows<const T> k, MeanKeys means,
               int lanes) {
  auto& shared = static_shared<WarpKeySums>();

  // phase 1 - the mean
  const int g = block_index().y;
  const std::int64_t number = block_index().x;
  const Sequence s = sequence_of(a.sequences, block_offsets, number);
  const std::int64_t begin = (number - block_offsets[s.index]) * block;
  const std::int64_t end = begin + block < s.num_keys ? begin + block : s.num_keys;
  float mean[kVectorFeatures];
  mean_of_keys(k, s.k_begin + begin, s.k_begin + end, g, a.dk, lanes, shared, mean);
  if (warp_index() > 0) return;

  // phase 2 - two parts of each feature
  float largest = 0;
#pragma unroll
  for (const float feature : mean) largest = fmaxf(largest, fabsf(feature));
  const int exponent = exponent_of_scale(max_lanes(largest)), lane = lane_index(), feature = lane * kVectorFeatures;
  const std::int64_t row = number * a.kv_heads + g;
  if (lane == 0) means.scales[row] = power_of_two(-exponent);
  if (lane >= lanes || feature >= a.dk) return;
  const float scale = power_of_two(exponent);
  Words4 high, low;
#pragma unroll
  for (int n = 0; n < kVectorFeatures; n += 2) {
    const float first = mean[n] * scale, second = mean[n + 1] * scale;
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
  shape.block.x = kMeanThreads;
  launch(pool_block<T>, shape, stream, a, block, block_offsets, k, means, lanes_of_key(a.dk));
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                \
  template void pool_keys<T>(const Attention&, std::int64_t, const std::int64_t*, std::int64_t, Rows<const T>, \
                             const MeanKeys&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
