// Running a kernel over a grid in the simulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "cuda/primitives/shape.cuh"

namespace attnspec::cuda::simulator {

/// Until it goes, launches of this thread run warps in the order that a seed gives. Without one the seed is 0.
class ScheduleSeed {
 public:
  explicit ScheduleSeed(std::uint64_t seed);
  ~ScheduleSeed();
  ScheduleSeed(const ScheduleSeed&) = delete;
  ScheduleSeed& operator=(const ScheduleSeed&) = delete;

 private:
  std::uint64_t previous_;
};

/// Until it goes, this thread launches on a GPU that gives a thread block at most so much shared memory. Without one it
/// is the 227 KiB of compute capability 9.0; with less the GPU is an older one, without warpgroups.
class SharedMemoryLimit {
 public:
  explicit SharedMemoryLimit(std::size_t bytes);
  ~SharedMemoryLimit();
  SharedMemoryLimit(const SharedMemoryLimit&) = delete;
  SharedMemoryLimit& operator=(const SharedMemoryLimit&) = delete;

 private:
  std::size_t previous_;
};

/// The limit of this thread's GPU.
std::size_t max_shared_bytes();

/// Multiprocessors that a kernel is told of: few, so that small cases give a thread block more than one tile.
inline constexpr int kMultiprocessors = 3;

/// Whether this thread's GPU is of compute capability 9.0.
bool has_warpgroups();

/// Runs all blocks of a grid on the OpenMP threads. `body` runs as every thread, with a copy of the parameters of its
/// own. Throws KernelFaults if there were any, and std::invalid_argument for a shape that no GPU launches.
void run_grid(const LaunchShape& shape, void (*body)(void* parameters), const void* parameters, std::size_t bytes);

/// Runs a kernel with its arguments.
template <class... Parameters>
void run(void (*kernel)(Parameters...), const LaunchShape& shape,
         const std::type_identity_t<Parameters>&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "a GPU is given copies of the bytes");
  using Call = std::tuple<void (*)(Parameters...), Parameters...>;
  const Call call(kernel, arguments...);
  const auto body = [](void* parameters) {
    std::apply([](auto function, auto&... each) { function(each...); }, *static_cast<Call*>(parameters));
  };
  run_grid(shape, body, &call, sizeof call);
}

}  // namespace attnspec::cuda::simulator
