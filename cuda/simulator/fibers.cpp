#include "cuda/simulator/fibers.hpp"

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "cuda/simulator/stack.hpp"

namespace attnspec::cuda::simulator {

asm(R"(
  .text
  .globl attnspec_switch_context
  .hidden attnspec_switch_context
  .type attnspec_switch_context, @function
attnspec_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size attnspec_switch_context, .-attnspec_switch_context
)");

namespace {

thread_local Fibers* entering = nullptr;

/// A context that begins with a call of `enter`, below `top`, a multiple of 16.
Context make_context(char* top, void (*enter)()) {
  void** const frame = reinterpret_cast<void**>(top) - 8;
  std::fill_n(frame, 8, nullptr);  // six registers, where to begin, and nowhere to return to
  frame[6] = reinterpret_cast<void*>(enter);
  return frame;
}

}  // namespace

Fibers::Fibers(int count) : runnable_(static_cast<std::size_t>((count + kWarpLanes - 1) / kWarpLanes)) {
  for (int n = 0; n < count; ++n) fibers_.push_back({nullptr, thread_stack(n).extent()});
  order_.resize(runnable_.size());
  std::iota(order_.begin(), order_.end(), 0);
}

/// Below the top of the stack by a distance that differs, so that fibers use different lines of the first cache.
char* Fibers::parameters_of(int fiber) const {
  const Extent& stack = fibers_[static_cast<std::size_t>(fiber)].stack;
  const std::uintptr_t top = stack.begin + stack.bytes - static_cast<std::uintptr_t>(fiber % kWarpLanes) * 128;
  return reinterpret_cast<char*>((top - task_->bytes) / 64 * 64);
}

int Fibers::run(const Task& task, std::uint64_t seed) {
  task_ = &task;
  entering = this;
  num_ended_ = 0;
  random_.seed(static_cast<std::minstd_rand::result_type>(seed ^ seed >> 32));
  for (int n = 0; n < static_cast<int>(fibers_.size()); ++n) {
    Fiber& fiber = fibers_[static_cast<std::size_t>(n)];
    ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void*>(fiber.stack.begin), fiber.stack.bytes);  // abandoned frames
    char* const parameters = parameters_of(n);
    std::memcpy(parameters, task.parameters, task.bytes);
    fiber.context = make_context(parameters, &Fibers::enter);
    runnable_[static_cast<std::size_t>(n / kWarpLanes)] |= 1u << n % kWarpLanes;
  }
  std::shuffle(order_.begin(), order_.end(), random_);
  turn_ = 0;
  leave(caller_, assignment());
  std::fill(runnable_.begin(), runnable_.end(), 0);
  return num_ended_;
}

void Fibers::abandon() {
  Context nobody;
  leave(nobody, -1);
}

void Fibers::enter() {
  Fibers& self = *entering;
  self.task_->body(self.task_->owner, self.parameters_of(self.running_));
  ++self.num_ended_;
  self.suspend();
}

int Fibers::assignment_of_other_warp() {
  for (std::size_t tries = 0; tries < 2 * order_.size(); ++tries) {
    if (++turn_ == order_.size()) {
      turn_ = 0;
      std::shuffle(order_.begin(), order_.end(), random_);
    }
    if (runnable_[static_cast<std::size_t>(order_[turn_])] != 0) return assignment();
  }
  return -1;
}

}  // namespace attnspec::cuda::simulator
