// The faults of one launch, while it runs.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda/simulator/fault.hpp"

namespace attnspec::cuda::simulator {

/// Keeps the first faults: one of a kind for each line of source. The OS threads of a launch share it.
class FaultLog {
 public:
  /// Adds a fault seen where a call returns to `site`.
  void add(FaultKind kind, const void* site, Index3 block, Index3 thread, std::string message);

  /// Whether a fault was fatal: no more blocks are run.
  bool is_stopped() const { return is_stopped_.load(std::memory_order_relaxed); }

  /// What was found, to be called when the launch is over.
  const std::vector<Fault>& faults() const { return faults_; }

 private:
  std::mutex mutex_;
  std::set<std::pair<FaultKind, const void*>> seen_;
  std::vector<Fault> faults_;
  std::atomic<bool> is_stopped_ = false;
};

}  // namespace attnspec::cuda::simulator
