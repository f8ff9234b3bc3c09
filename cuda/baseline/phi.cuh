// What phi's forward and backward share: its blocks, the input of its first layer, and its activations.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/baseline/nsa.hpp"
#include "cuda/baseline/visit.cuh"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

/// A compression block: its compressed row, and its first token.
struct CompressionBlock {
  std::int64_t row, begin;
};

/// Block i of a sequence.
__device__ __forceinline__ CompressionBlock block_of(const Compression& c, const Sequence& s, std::int64_t i) {
  return {s.q_begin + i, s.k_begin + i * c.stride};
}

/// The block of a compressed row.
__device__ __forceinline__ CompressionBlock block_of(const Compression& c, std::int64_t row) {
  const Sequence s = sequence_of(c.sequences, c.sequences.q_offsets, row);
  return block_of(c, s, row - s.q_begin);
}

/// The parameters of a kv head.
__device__ __forceinline__ int set_of(const Compression& c, int g) { return c.sets == 1 ? 0 : g; }

/// z: feature f of token i of a block, with its position encoding.
template <class T>
__device__ __forceinline__ float encoded(const Compression& c, Rows<const T> tokens, const Phi<const T>& phi,
                                         const CompressionBlock& block, int g, std::int64_t i, int f) {
  return to_float(tokens.at(block.begin + i, g)[f]) + to_float(phi.position.at(i, set_of(c, g))[f]);
}

inline constexpr float kRootHalf = 0.70710678f, kInverseRootTwoPi = 0.39894228f;

/// relu, silu, or gelu with erf.
__device__ __forceinline__ float activation(int kind, float x) {
  if (kind == ATTNSPEC_RELU) return x > 0 ? x : 0;
  if (kind == ATTNSPEC_SILU) return x / (1 + expf(-x));
  return 0.5f * x * (1 + erff(x * kRootHalf));
}

/// Its derivative; that of relu at 0 is 0.
__device__ __forceinline__ float activation_slope(int kind, float x) {
  if (kind == ATTNSPEC_RELU) return x > 0 ? 1 : 0;
  if (kind == ATTNSPEC_SILU) {
    const float sigmoid = 1 / (1 + expf(-x));
    return sigmoid * (1 + x * (1 - sigmoid));
  }
  return 0.5f * (1 + erff(x * kRootHalf)) + x * kInverseRootTwoPi * expf(-0.5f * x * x);
}

/// h = b1 + W1^T z of every block, before the activation.
template <class T>
void find_hidden(const Compression&, Rows<const T> tokens, const Phi<const T>&, Rows<float> hidden, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
