// Tensors and sequences as kernels see them.
#pragma once

#include <dlpack/dlpack.h>

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// A tensor [tokens, heads, dim] on the device, features contiguous; strides in elements.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t token_stride = 0, head_stride = 0;

  __device__ __forceinline__ T* at(std::int64_t token, std::int64_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};

template <class T>
Rows<T> rows_of(const DLTensor& tensor) {
  return {static_cast<T*>(tensor.data), tensor.strides[0], tensor.strides[1]};
}

/// Packed sequences, offsets on the device.
struct Sequences {
  const std::int64_t* q_offsets = nullptr;  // [count + 1]
  const std::int64_t* k_offsets = nullptr;  // [count + 1]
  std::int64_t count = 0;
  bool is_causal = true;
};

struct Sequence {
  std::int64_t index, q_begin, num_queries, k_begin, num_keys;
};

/// The offsets are where the caller is: on the device, or on the host.
__host__ __device__ __forceinline__ Sequence sequence(const Sequences& all, std::int64_t s) {
  return {s, all.q_offsets[s], all.q_offsets[s + 1] - all.q_offsets[s], all.k_offsets[s],
          all.k_offsets[s + 1] - all.k_offsets[s]};
}

/// The sequence that holds a token, by bisection of q_offsets or k_offsets.
__device__ __forceinline__ Sequence sequence_of(const Sequences& all, const std::int64_t* offsets, std::int64_t token) {
  std::int64_t least = 0, most = all.count - 1;
  while (least < most) {
    const std::int64_t middle = (least + most) / 2;
    if (offsets[middle + 1] > token)
      most = middle;
    else
      least = middle + 1;
  }
  return sequence(all, least);
}

/// How many of a sequence's keys its query i sees: queries are aligned with the last keys.
__device__ __forceinline__ std::int64_t num_visible_keys(const Sequences& all, const Sequence& s, std::int64_t i) {
  if (!all.is_causal) return s.num_keys;
  const std::int64_t position = i + s.num_keys - s.num_queries;
  return position < 0 ? 0 : position + 1;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
