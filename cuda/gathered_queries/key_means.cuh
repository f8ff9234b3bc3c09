// The mean of a block's keys, by a thread block.
#pragma once

#include <cstdint>

#include "cuda/gathered_queries/forward.hpp"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

inline constexpr int kMeanThreads = 128, kMeanWarps = kMeanThreads / kWarpLanes;
inline constexpr int kMeanBlocks = 8;      // on a multiprocessor
inline constexpr int kMeanKeysAtOnce = 8;  // that a thread loads before it adds them

/// What the lanes of the warps have of a mean, in shared memory.
struct WarpKeySums {
  float features[kMeanWarps][kWarpLanes][kVectorFeatures];
};

/// Lanes that share a key: a lane has eight features, those from lane % lanes * 8 on.
inline int lanes_of_key(int features) { return features <= 64 ? 8 : features <= 128 ? 16 : 32; }

/// mean = (1 / (end - begin)) sum_{begin <= j < end} k[j] in fp32, of one head: the features that the lane has, zeros
/// behind the last. The order of all sums is fixed by the number of keys and features.
template <class T>
__device__ __forceinline__ void mean_of_keys(const Rows<const T>& k, std::int64_t begin, std::int64_t end, int head,
                                             int features, int lanes, WarpKeySums& shared,
                                             float (&mean)[kVectorFeatures]) {
  // phase 1 - every thread sums its features of every so many keys
#pragma unroll
  for (float& sum : mean) sum = 0;
  const int feature = lane_index() % lanes * kVectorFeatures, step = kMeanThreads / lanes;
  const auto load = [&](std::int64_t j) { return load_128_constant(k.at(j, head) + feature); };
  const auto add = [&](const Words4& vector) {
#pragma unroll
    for (int n = 0; n < kVectorFeatures; ++n)
      mean[n] += n % 2 == 0 ? unpack_low<T>(vector.words[n / 2]) : unpack_high<T>(vector.words[n / 2]);
  };
  if (feature < features) {
    std::int64_t j = begin + thread_number() / lanes;
    for (; j + (kMeanKeysAtOnce - 1) * step < end; j += kMeanKeysAtOnce * step) {
      Words4 vectors[kMeanKeysAtOnce];
#pragma unroll
      for (int i = 0; i < kMeanKeysAtOnce; ++i) vectors[i] = load(j + i * step);
#pragma unroll
      for (const Words4& vector : vectors) add(vector);
    }
    for (; j < end; j += step) add(load(j));
  }

  // phase 2 - what the lanes, and then the warps have of a feature
  for (int flip = kWarpLanes / 2; flip >= lanes; flip /= 2)
#pragma unroll
    for (float& sum : mean) sum += shuffle_xor(sum, flip);
#pragma unroll
  for (int n = 0; n < kVectorFeatures; ++n) shared.features[warp_index()][lane_index()][n] = mean[n];
  sync_threads();
#pragma unroll
  for (int n = 0; n < kVectorFeatures; ++n) {
    mean[n] = 0;
#pragma unroll
    for (int warp = 0; warp < kMeanWarps; ++warp) mean[n] += shared.features[warp][lane_index()][n];
    mean[n] /= static_cast<float>(end - begin);
  }
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
