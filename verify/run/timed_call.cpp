#include "verify/run/timed_call.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>

#include "verify/cases/random.hpp"

namespace attnspec::verify {

namespace {

/// Runs in which the kernels on the GPU are traced.
constexpr int kTracedRuns = 3;

/// What the tensors of a call held when this was made, in memory of the same device.
class Snapshot {
 public:
  explicit Snapshot(CallMemory& memory) : memory_(memory) {
    for (const CallMemory::Placed& tensor : memory.tensors()) {
      const auto bytes = static_cast<std::size_t>(tensor.bytes());
      std::byte* copy =
          memory.is_on_device() ? on_device_.emplace_back(bytes).data() : on_host_.emplace_back(bytes).data();
      copy_heads(tensor, copy, tensor.data, 0, 0, tensor.heads);
      copies_.push_back(copy);
    }
  }

  /// Puts it back, turned: kv head g of so many gets what g + turn had, and its query heads likewise. What all heads
  /// share is not turned.
  void put_back(std::int64_t turn, std::int64_t kv_heads) {
    for (std::size_t i = 0; i < copies_.size(); ++i) {
      const CallMemory::Placed& tensor = memory_.tensors()[i];
      const std::int64_t first = tensor.heads % kv_heads == 0 ? turn * (tensor.heads / kv_heads) : 0;
      copy_heads(tensor, tensor.data, copies_[i], 0, first, tensor.heads - first);
      copy_heads(tensor, tensor.data, copies_[i], tensor.heads - first, 0, first);
    }
  }

 private:
  /// Copies `heads` heads of all tokens, from head from_head on, to those from to_head on.
  void copy_heads(const CallMemory::Placed& tensor, std::byte* to, const std::byte* from, std::int64_t to_head,
                  std::int64_t from_head, std::int64_t heads) {
    if (heads == 0) return;
    to += to_head * tensor.head_bytes;
    from += from_head * tensor.head_bytes;
    const auto pitch = static_cast<std::size_t>(tensor.token_bytes),
               width = static_cast<std::size_t>((heads - 1) * tensor.head_bytes + tensor.row_bytes),
               rows = static_cast<std::size_t>(tensor.tokens);
    if (memory_.is_on_device()) return cuda::copy_rows(to, from, pitch, width, rows, memory_.stream());
    for (std::size_t row = 0; row < rows; ++row) std::memcpy(to + row * pitch, from + row * pitch, width);
  }

  CallMemory& memory_;
  std::deque<cuda::DeviceMemory> on_device_;
  std::deque<std::vector<std::byte>> on_host_;
  std::vector<std::byte*> copies_;  // of each tensor
};

cuda::RunTime time_on_host(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  const double time = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return {time, time};
}

/// The timed runs of a call that takes so many milliseconds.
std::int64_t num_runs(const TimingPlan& plan, double milliseconds) {
  const double in_time = std::min(1e3 * plan.seconds / std::max(milliseconds, 1e-6), 1e9);
  return std::clamp(static_cast<std::int64_t>(in_time), std::min(kFewestRuns, plan.repetitions), plan.repetitions);
}

}  // namespace

Timing time_call(const TimingPlan& plan, CallMemory& memory, std::int64_t kv_heads, const std::function<void()>& call) {
  Snapshot before(memory);
  std::optional<cuda::StreamTimer> timer;
  if (memory.is_on_device()) timer.emplace(memory.stream());
  const auto time = [&] { return timer ? timer->time(call) : time_on_host(call); };
  const auto turn = [&](std::int64_t by) { before.put_back((by % kv_heads + kv_heads) % kv_heads, kv_heads); };

  double last = 0, warm_up = 0;
  for (std::int64_t run = 0; run < plan.warm_ups && warm_up <= 1e3 * plan.seconds; ++run) {
    turn(run + 1);
    last = time().host;
    warm_up += last;
  }
  const std::int64_t runs = num_runs(plan, last), judged = Random(plan.seed, "judged run").below(runs, 0);
  Timing timing;
  timing.on_device = memory.is_on_device();
  std::optional<Snapshot> written;
  for (std::int64_t run = 0; run < runs; ++run) {
    turn(run - judged);
    timing.runs.push_back(time());
    if (run == judged) written.emplace(memory);
  }
  for (int run = 0; timer && run < kTracedRuns; ++run) {
    turn(run + 1);
    std::vector<cuda::KernelTime> kernels = cuda::trace_kernels([&] { timer->time(call); });
    if (kernels.empty()) break;
    timing.kernels.push_back(std::move(kernels));
  }
  written->put_back(0, kv_heads);
  return timing;
}

}  // namespace attnspec::verify
