// What the stages of this rung share: threads in a row, dot products, the keys of a query, the order of its blocks.
#pragma once

#include <cstdint>

#include "cuda/baseline/rows.hpp"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

inline constexpr int kThreads = 128;  // of a thread block

/// The thread's number in the grid.
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(block_index().x) * kThreads + thread_index().x;
}

/// Which number of a tensor [rows, heads, columns] a thread owns.
struct Place {
  std::int64_t row;
  int head, column;
};
__device__ __forceinline__ Place place_of(std::int64_t number, int heads, int columns) {
  return {number / columns / heads, static_cast<int>(number / columns % heads), static_cast<int>(number % columns)};
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
  if (blocks.selected.data == nullptr) return nullptr;
  const std::int64_t head = blocks.heads == a.heads ? h : h / (a.heads / a.kv_heads);
  return blocks.selected.at(token, head);
}

/// How many tokens of its sequence query i sees.
__device__ __forceinline__ std::int64_t num_visible_tokens(const Attention& a, Sequence s, std::int64_t i) {
  const std::int64_t* offsets = a.reach.token_offsets;
  if (offsets != nullptr) s.num_keys = offsets[s.index + 1] - offsets[s.index];
  return num_visible_keys(a.sequences, s, i);
}

/// Keys begin .. end - 1 of a sequence.
struct KeyRange {
  std::int64_t begin, end;

  __device__ __forceinline__ bool contains(std::int64_t j) const { return begin <= j && j < end; }
};

/// The keys that query i of a sequence sees, whatever its blocks.
__device__ __forceinline__ KeyRange visible_keys(const Attention& a, const Sequence& s, std::int64_t i) {
  const std::int64_t tokens = num_visible_tokens(a, s, i);
  const std::int64_t end = tokens < a.reach.tokens ? 0 : (tokens - a.reach.tokens) / a.reach.stride + 1;
  return {end > a.reach.window ? end - a.reach.window : 0, end};
}

/// Calls visit(j) for every visible key of the blocks of a query row.
template <class Visit>
__device__ __forceinline__ void for_each_key(const Blocks& blocks, std::int64_t token, int h, const Attention& a,
                                             const KeyRange& visible, const Visit& visit) {
  const std::int32_t* selected = blocks_of(blocks, token, h, a);
  for (std::int64_t slot = 0; slot < blocks.slots; ++slot) {
    const std::int64_t block = selected == nullptr ? 0 : selected[slot];
    if (block < 0) continue;
    const std::int64_t begin = block * blocks.tokens, end = begin + blocks.tokens;
    for (std::int64_t j = begin < visible.begin ? visible.begin : begin; j < end && j < visible.end; ++j) visit(j);
  }
}

/// A block in the order of preference: higher scores first, then earlier blocks.
struct Candidate {
  float score;
  std::int64_t block;

  __device__ __forceinline__ bool is_before(const Candidate& other) const {
    return score > other.score || (score == other.score && block < other.block);
  }
};

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
