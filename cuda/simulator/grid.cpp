#include "cuda/simulator/grid.hpp"

#include <omp.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cuda/simulator/block.hpp"

namespace attnspec::cuda::simulator {

namespace {

thread_local std::uint64_t schedule_seed = 0;
thread_local std::size_t shared_memory_limit = kMaxShared;

std::int64_t count(const Dim3& size) { return std::int64_t{size.x} * size.y * size.z; }

/// The limits of compute capability 8.0 and above, which differ in shared memory.
void require_valid(const LaunchShape& shape) {
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("launch: " + what);
  };
  const auto& [grid, block, shared_bytes] = shape;
  require(std::min({grid.x, grid.y, grid.z, block.x, block.y, block.z}) > 0, "every size must be positive");
  require(std::max(grid.y, grid.z) <= 65535, "grid.y and grid.z must be at most 65535");
  require(std::max(block.x, block.y) <= 1024 && block.z <= 64 && count(block) <= 1024,
          "a block has at most 1024 threads, 64 of them along z");
  require(shared_bytes <= shared_memory_limit,
          "a block has at most " + std::to_string(shared_memory_limit) + " bytes of shared memory");
}

}  // namespace

ScheduleSeed::ScheduleSeed(std::uint64_t seed) : previous_(std::exchange(schedule_seed, seed)) {}
ScheduleSeed::~ScheduleSeed() { schedule_seed = previous_; }

SharedMemoryLimit::SharedMemoryLimit(std::size_t bytes) : previous_(std::exchange(shared_memory_limit, bytes)) {}
SharedMemoryLimit::~SharedMemoryLimit() { shared_memory_limit = previous_; }
std::size_t max_shared_bytes() { return shared_memory_limit; }

bool has_warpgroups() { return shared_memory_limit >= kMaxShared; }

void run_grid(const LaunchShape& shape, void (*body)(void* parameters), const void* parameters, std::size_t bytes) {
  require_valid(shape);
  const Launch launch{shape, {body, parameters, bytes}, GlobalMemory(), schedule_seed};
  FaultLog log;
  const Dim3& grid = shape.grid;
  const std::int64_t num_blocks = count(grid);
  const int num_workers = static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), num_blocks));
#pragma omp parallel num_threads(num_workers)
  {
    Block block(launch, log);
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t n = 0; n < num_blocks; ++n) {
      const std::int64_t row = n / grid.x;
      if (!log.is_stopped())
        block.run({static_cast<int>(n % grid.x), static_cast<int>(row % grid.y), static_cast<int>(row / grid.y)});
    }
  }
  if (!log.faults().empty()) throw KernelFaults(log.faults());
}

}  // namespace attnspec::cuda::simulator
