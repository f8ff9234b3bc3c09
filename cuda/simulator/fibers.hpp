// The threads of a block as fibers of one OS thread.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "cuda/primitives/shape.cuh"
#include "cuda/simulator/buffers.hpp"

namespace attnspec::cuda::simulator {

/// Where a fiber that does not run goes on: its stack pointer, with the registers that calls preserve above it.
using Context = void*;

/// Keeps the running fiber in `mine`, and goes on with another one; returns when somebody goes on with `mine`. It ends
/// in a `ret`, so that the processor predicts the returns that follow: Boost.Context ends in a jump, after which every
/// return up to the kernel is mispredicted, and a meeting of threads takes twice as long.
extern "C" void attnspec_switch_context(Context* mine, Context target);

/// Runs fibers in warps of 32. One runs until it waits; then the next of its warp that can run, and when none of the
/// warp can, the next warp in an order that is shuffled anew in every round. A fiber that waits goes straight to the
/// next one: there is no scheduler between.
class Fibers {
 public:
  explicit Fibers(int count);
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  /// What every fiber does for its owner, with a copy of the parameters on its own stack.
  struct Task {
    void (*body)(void* owner, void* parameters);
    void* owner;
    const void* parameters;
    std::size_t bytes;
  };

  /// Starts all fibers, and returns when none can run or one has abandoned them. Returns how many have ended.
  int run(const Task& task, std::uint64_t seed);

  // The rest is for the running fiber.

  int running() const { return running_; }
  const Extent& stack() const { return stack_; }

  /// Waits until somebody releases it.
  void suspend() {
    Fiber& self = fibers_[static_cast<std::size_t>(running_)];
    runnable_[static_cast<std::size_t>(running_ / kWarpLanes)] &= ~(1u << running_ % kWarpLanes);
    leave(self.context, assignment());
  }

  /// Lets lanes of a warp run again.
  void release(int warp, std::uint32_t lanes) { runnable_[static_cast<std::size_t>(warp)] |= lanes; }

  /// Leaves for good, and nobody runs again.
  void abandon();

 private:
  struct Fiber {
    Context context;  // while it does not run
    Extent stack;
  };

  static void enter();

  /// Switches to a fiber, or to the caller of `run` where there is none, and comes back when somebody switches here.
  void leave(Context& mine, int next) {
    running_ = next;
    if (next < 0) return attnspec_switch_context(&mine, caller_);
    const Fiber& fiber = fibers_[static_cast<std::size_t>(next)];
    stack_ = fiber.stack;
    attnspec_switch_context(&mine, fiber.context);
  }

  /// The fiber that runs next; -1 where none can.
  int assignment() {
    const int warp = order_[turn_];
    const std::uint32_t lanes = runnable_[static_cast<std::size_t>(warp)];
    return lanes != 0 ? warp * kWarpLanes + std::countr_zero(lanes) : assignment_of_other_warp();
  }
  int assignment_of_other_warp();

  /// Where the parameters of a fiber lie on its stack.
  char* parameters_of(int fiber) const;

  std::vector<Fiber> fibers_;
  std::vector<std::uint32_t> runnable_;  // lanes, for every warp
  std::vector<int> order_;               // of warps
  std::size_t turn_ = 0;                 // whose in that order
  std::minstd_rand random_;
  const Task* task_ = nullptr;
  int running_ = -1, num_ended_ = 0;
  Extent stack_;  // of the running fiber
  Context caller_ = nullptr;
};

}  // namespace attnspec::cuda::simulator
