// Running a call again and again to time it, so that its times are those of the work that is judged.
#pragma once

#include <functional>

#include "verify/run/call_memory.hpp"
#include "verify/run/timing.hpp"

namespace attnspec::verify {

/// Runs `call` as often as the plan says. Its tensors hold before every run what they hold now, but with the kv heads,
/// and the query heads that read them, turned on by one from each timed run to the next: it is the same work on other
/// numbers. One timed run, drawn by the plan's seed, has them as they are; what that one wrote is there in the end. The
/// workspace holds what the last run left. With one kv head nothing is turned.
///
/// Throws what `call` throws, and std::runtime_error with what the GPU says.
Timing time_call(const TimingPlan& plan, CallMemory& memory, std::int64_t kv_heads, const std::function<void()>& call);

}  // namespace attnspec::verify
