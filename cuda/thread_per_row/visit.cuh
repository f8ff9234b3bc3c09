// What the stages of this rung share: threads in a row, dot products, the keys of a query.
#pragma once

#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/thread_per_row/rows.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::thread_per_row {

inline constexpr int kThreads = 128;  // of a thread block

/// The thread's number in the grid.
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(block_index().x) * kThreads + thread_index().x;
}

/// Launches a thread for each row; nothing for none.
template <class... Parameters>
void launch_rows(void (*kernel)(Parameters...), std::int64_t rows, void* stream,
                 const std::type_identity_t<Parameters>&... arguments) {
  if (rows == 0) return;
  LaunchShape shape;
  shape.grid.x = static_cast<int>((rows + kThreads - 1) / kThreads);
  shape.block.x = kThreads;
  launch(kernel, shape, stream, arguments...);
}

template <class A, class B>
__device__ __forceinline__ float dot(const A* a, const B* b, int features) {
  float sum = 0;
  for (int d = 0; d < features; ++d) sum += to_float(a[d]) * to_float(b[d]);
  return sum;
}

/// The blocks of a query row; nullptr: all keys.
__device__ __forceinline__ const std::int32_t* blocks_of(const Blocks& blocks, std::int64_t token, int h,
                                                         const Attention& a) {
  if (blocks.data == nullptr) return nullptr;
  const std::int64_t head = blocks.heads == a.heads ? h : h / (a.heads / a.kv_heads);
  return blocks.data + (token * blocks.heads + head) * blocks.slots;
}

/// Calls visit(j) for every visible key of the blocks of a query row.
template <class Visit>
__device__ __forceinline__ void for_each_key(const Blocks& blocks, std::int64_t token, int h, const Attention& a,
                                             std::int64_t visible, const Visit& visit) {
  const std::int32_t* chosen = blocks_of(blocks, token, h, a);
  for (std::int64_t slot = 0; slot < (chosen == nullptr ? 1 : blocks.slots); ++slot) {
    const std::int64_t block = chosen == nullptr ? 0 : chosen[slot];
    if (block < 0) continue;
    const std::int64_t begin = block * blocks.tokens, end = chosen == nullptr ? visible : begin + blocks.tokens;
    for (std::int64_t j = begin; j < end && j < visible; ++j) visit(j);
  }
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::thread_per_row
