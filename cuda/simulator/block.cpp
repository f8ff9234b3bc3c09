#include "cuda/simulator/block.hpp"

#include <map>
#include <utility>

#include "cuda/simulator/source_line.hpp"

namespace attnspec::cuda::simulator {

namespace {

int volume(const Dim3& size) { return size.x * size.y * size.z; }

}  // namespace

constinit thread_local Block* Block::running_ = nullptr;

Block::Block(const Launch& launch, FaultLog& log)
    : launch_(launch),
      log_(log),
      num_threads_(volume(launch.shape.block)),
      fibers_(num_threads_),
      shared_(num_threads_, launch.shape.shared_bytes),
      threads_(static_cast<std::size_t>(num_threads_)),
      warps_(static_cast<std::size_t>((num_threads_ + kWarpLanes - 1) / kWarpLanes)) {
  const Dim3& size = launch.shape.block;
  for (int z = 0; z < size.z; ++z)
    for (int y = 0; y < size.y; ++y)
      for (int x = 0; x < size.x; ++x) indices_.push_back({x, y, z});
}

void Block::start(Index3 index) {
  index_ = index;
  shared_.clear();
  const Knowledge nothing(std::vector<Time>(threads_.size()));
  for (Thread& thread : threads_) thread = {nothing, nullptr, nullptr, {}, 0, 0};
  for (Warp& warp : warps_) warp = {1, {}, {}, {}, 0, false};
  barriers_ = {};
}

void Block::run(Index3 index) {
  start(index);
  const Dim3& grid = launch_.shape.grid;
  const auto number =
      static_cast<std::uint64_t>(index.x) +
      static_cast<std::uint64_t>(grid.x) * (static_cast<std::uint64_t>(index.y) +
                                            static_cast<std::uint64_t>(grid.y) * static_cast<std::uint64_t>(index.z));
  const auto body = [](void* block, void* parameters) {
    running_ = static_cast<Block*>(block);
    running_->launch_.kernel.body(parameters);
    running_ = nullptr;
  };
  const Kernel& kernel = launch_.kernel;
  const int num_ended =
      fibers_.run({body, this, kernel.parameters, kernel.bytes}, launch_.seed * 0x9e3779b97f4a7c15u + number);
  if (num_ended < num_threads_ && !log_.is_stopped()) report_stall();
}

/// Threads wait and none can run: says who waits where.
void Block::report_stall() {
  std::map<std::string, int> places;
  int first = -1, num_waiting = 0;
  bool all_at_barriers = true;
  for (int n = 0; n < num_threads_; ++n) {
    const Thread& thread = at(n);
    if (thread.waits_for == nullptr) continue;
    if (first < 0) first = n;
    ++num_waiting;
    all_at_barriers = all_at_barriers && thread.waits_for == kNamedBarrier;
    const SourceLine line = source_line(thread.site);
    ++places[std::string(thread.waits_for) + " at " + line.file + ":" + std::to_string(line.line)];
  }
  std::string message;
  for (const auto& [where, count] : places)
    message += (message.empty() ? "" : "; ") + std::to_string(count) + " threads wait for " + where;
  if (num_waiting < num_threads_) message += "; " + std::to_string(num_threads_ - num_waiting) + " have exited";
  log_.add(all_at_barriers ? FaultKind::deadlock : FaultKind::divergent_barrier, at(first).site, index_,
           index_of(first), std::move(message));
}

}  // namespace attnspec::cuda::simulator
