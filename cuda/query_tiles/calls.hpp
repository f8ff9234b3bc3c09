// What launchers of row tiles share: a call's problem, its tiles, and what it must not be.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/launcher.cuh"
#include "cuda/query_tiles/problem.hpp"
#include "cuda/workspace.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

inline constexpr std::int64_t kMostFeatures = 256;

template <class Forward>
Problem problem_of(const Forward& f, const Sequences& sequences, std::int64_t window) {
  const int heads = static_cast<int>(f.q.shape[1]), kv_heads = static_cast<int>(f.k.shape[1]);
  return {sequences,
          window,
          heads,
          kv_heads,
          static_cast<int>(f.q.shape[2]),
          static_cast<int>(f.v.shape[2]),
          static_cast<float>(f.call.scale),
          heads / kv_heads,
          Divider(heads / kv_heads)};
}

/// Tiles of a call, and where on the device their offsets go.
struct TileOffsets {
  std::vector<std::int64_t> host;
  std::int64_t* device;

  Tiles tiles() const { return {device, static_cast<int>(host.back())}; }
};

/// The tiles of so many rows, and sequences of tokens with `group` rows each.
inline TileOffsets tile_offsets(Workspace& workspace, const std::int64_t* offsets, std::int64_t count,
                                std::int64_t group, std::int64_t rows) {
  TileOffsets tiles{{0}, workspace.take<std::int64_t>(count + 1)};
  for (std::int64_t s = 0; s < count; ++s)
    tiles.host.push_back(tiles.host.back() + ((offsets[s + 1] - offsets[s]) * group + rows - 1) / rows);
  return tiles;
}

/// Throws std::runtime_error if a call has more rows than are counted in 32 bits.
template <class Forward>
void require_countable(const Forward& f) {
  for (const DLTensor* t : {&f.q, &f.k})
    if (t->shape[0] > std::numeric_limits<std::int32_t>::max() / t->shape[1])
      throw std::runtime_error("tokens " + std::to_string(t->shape[0]) + " times heads " + std::to_string(t->shape[1]) +
                               " are more rows than 2147483647");
}

template <class Use>
void with_16_bits(const DLTensor& tensor, const Use& use) {
  if (tensor.dtype.code == kDLBfloat) return use(bf16{});
  use(fp16{});
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
