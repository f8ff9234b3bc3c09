// Calls of a kernel through the C interface of kernel_abi.h.
#pragma once

#include <cstdint>
#include <vector>

#include "verify/abi/kernel_abi.h"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// Runs the calls of a foreign kernel: translates them, puts their tensors where the kernel wants them, and enters its
/// functions, all of them in one place. One call at a time.
class ForeignCalls {
 public:
  /// kernel: a declaration that was checked.
  explicit ForeignCalls(const AttnspecKernel& kernel) : kernel_(kernel) {}

  /// Throws CallFailed with the message that a function returned, and when the GPU reports an error.
  void run(const AnyCall& call);
  /// Runs the call many times, as time_call does. Throws what `run` throws.
  Timing time(const AnyCall& call, const TimingPlan& plan);
  /// What a forward and a backward of this forward call need, the larger of both. Its tensors need no data. Throws
  /// CallFailed.
  std::int64_t workspace_bytes(const AnyCall& call);

 private:
  AttnspecKernel kernel_;                  // without what a later version has at the end
  std::vector<std::int64_t> row_offsets_;  // of NSA's last call: what a kernel is given stays in its place
};

}  // namespace attnspec::verify
