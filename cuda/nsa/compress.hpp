// NSA's phi and its gradients on tensor cores: one compressed row of the tokens of each compression block.
// What is counted is below 2^31, where it lies may be beyond.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/baseline/nsa.hpp"
#include "cuda/tensors.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

using baseline::Compression;
using baseline::Phi;

/// Room for what stages hand on.
template <class T>
struct Room {
  std::int64_t* starts;               // [compressed rows], first tokens
  const std::int64_t* chunk_offsets;  // [sequences + 1]: sequences are cut into chunks of `stride` tokens. Given
  std::int64_t num_chunks;            // of all sequences. Given
  Rows<float> hidden;                 // h, [compressed rows, Hkv, hidden]
  Rows<T> activations, d_hidden;      // likewise
  float* partials;                    // num_partials of them
  float* sums;                        // [sets, max(features, hidden)]
};

/// Bytes of shared memory that phis other than the mean need.
std::size_t product_shared_bytes();

/// Sums that gradients of weights are made of.
std::int64_t num_partials(const Compression&);

/// rows [compressed rows, Hkv, features], T being bf16 or fp16. Features and hidden features are multiples of 8.
template <class T>
void compress(const Compression&, Rows<const T> tokens, const Phi<const T>&, const Room<T>&, Rows<T> rows,
              void* stream);

/// d_tokens [tokens, Hkv, features], and the gradients of the parameters.
template <class T>
void compress_backward(const Compression&, Rows<const T> tokens, const Phi<const T>&, const Room<T>&,
                       Rows<const T> d_rows, Rows<T> d_tokens, const Phi<T>& d_phi, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
