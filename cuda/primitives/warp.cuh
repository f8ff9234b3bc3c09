// What the lanes of a warp tell each other. The lanes of a mask must come from the same line, and none of these orders
// memory: only `sync_warp` does.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/primitives/thread.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

#ifndef __CUDACC__
/// A shuffle of a type of 4 or 8 bytes, in words of 4.
template <class T>
__forceinline__ T shuffle_words(T value, simulator::ShuffleFrom from, int operand, std::uint32_t mask) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  std::uint32_t words[sizeof(T) / 4];
  std::memcpy(words, &value, sizeof value);
  for (std::uint32_t& word : words) word = simulator::shuffle(word, from, operand, mask);
  std::memcpy(&value, words, sizeof value);
  return value;
}
#endif

/// The value of lane `source`. T: an arithmetic type of 4 or 8 bytes, as in all shuffles.
template <class T>
__device__ __forceinline__ T shuffle(T value, int source, std::uint32_t mask = kAllLanes) {
#ifdef __CUDACC__
  return __shfl_sync(mask, value, source);
#else
  return shuffle_words(value, simulator::ShuffleFrom::lane, source, mask);
#endif
}

/// The value of the lane `distance` below, or the lane's own where there is none.
template <class T>
__device__ __forceinline__ T shuffle_up(T value, int distance, std::uint32_t mask = kAllLanes) {
#ifdef __CUDACC__
  return __shfl_up_sync(mask, value, static_cast<unsigned>(distance));
#else
  return shuffle_words(value, simulator::ShuffleFrom::below, distance, mask);
#endif
}

/// The value of the lane `distance` above, or the lane's own where there is none.
template <class T>
__device__ __forceinline__ T shuffle_down(T value, int distance, std::uint32_t mask = kAllLanes) {
#ifdef __CUDACC__
  return __shfl_down_sync(mask, value, static_cast<unsigned>(distance));
#else
  return shuffle_words(value, simulator::ShuffleFrom::above, distance, mask);
#endif
}

/// The value of the lane whose number differs in the bits of `flips`.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int flips, std::uint32_t mask = kAllLanes) {
#ifdef __CUDACC__
  return __shfl_xor_sync(mask, value, flips);
#else
  return shuffle_words(value, simulator::ShuffleFrom::flipped, flips, mask);
#endif
}

/// Bit n: what lane n of the mask says.
__device__ __forceinline__ std::uint32_t ballot(bool predicate, std::uint32_t mask = kAllLanes) {
#ifdef __CUDACC__
  return __ballot_sync(mask, predicate);
#else
  return simulator::ballot(predicate, mask);
#endif
}

__device__ __forceinline__ bool any(bool predicate, std::uint32_t mask = kAllLanes) {
  return ballot(predicate, mask) != 0;
}

/// Whether all lanes of the mask, in a complete warp, say so.
__device__ __forceinline__ bool all(bool predicate, std::uint32_t mask = kAllLanes) {
  return ballot(!predicate, mask) == 0;
}

/// `combine` over every group of lanes whose numbers differ in the lowest bits only; every lane gets the result.
template <int lanes = kWarpLanes, class T, class Combine>
__device__ __forceinline__ T reduce_lanes(T value, const Combine& combine) {
#pragma unroll
  for (int flip = lanes / 2; flip > 0; flip /= 2) value = combine(value, shuffle_xor(value, flip));
  return value;
}

template <int lanes = kWarpLanes, class T>
__device__ __forceinline__ T sum_lanes(T value) {
  return reduce_lanes<lanes>(value, [](T a, T b) { return a + b; });
}

template <int lanes = kWarpLanes, class T>
__device__ __forceinline__ T max_lanes(T value) {
  return reduce_lanes<lanes>(value, [](T a, T b) { return a > b ? a : b; });
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
