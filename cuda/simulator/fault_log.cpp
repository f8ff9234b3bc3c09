#include "cuda/simulator/fault_log.hpp"

#include <algorithm>

#include "cuda/simulator/source_line.hpp"

namespace attnspec::cuda::simulator {

namespace {

constexpr std::size_t kMaxFaults = 20;

}  // namespace

void FaultLog::add(FaultKind kind, const void* site, Index3 block, Index3 thread, std::string message) {
  const std::scoped_lock lock(mutex_);
  if (is_fatal(kind)) is_stopped_ = true;
  if (!seen_.emplace(kind, site).second || faults_.size() == kMaxFaults) return;
  const SourceLine line = source_line(site);
  const bool is_known = std::any_of(faults_.begin(), faults_.end(), [&](const Fault& fault) {
    return fault.kind == kind && fault.line == line.line && fault.file == line.file;
  });
  if (!is_known) faults_.push_back({kind, line.file, line.line, std::move(message), block, thread});
}

}  // namespace attnspec::cuda::simulator
