// Sizes and positions in a grid of threads.
#pragma once

#include <cstddef>

namespace attnspec::cuda {

/// The number of threads in a warp.
inline constexpr int kWarpLanes = 32;

struct Dim3 {
  int x = 1, y = 1, z = 1;
};

struct Index3 {
  int x = 0, y = 0, z = 0;

  bool operator==(const Index3&) const = default;
};

/// How a kernel is launched.
struct LaunchShape {
  Dim3 grid, block;
  std::size_t shared_bytes = 0;  // of the dynamic block of shared memory
};

}  // namespace attnspec::cuda
