// The threads of a block as fibers of one OS thread.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "cuda/simulator/buffers.hpp"

namespace attnspec::cuda::simulator {

/// Runs fibers in warps of 32. One runs until it waits; then the next of its warp that can run, and when none of the
/// warp can, the next warp in an order that is shuffled anew in every round. A fiber that waits goes straight to the
/// next one: there is no scheduler between. This uses the context switch below boost::context::fiber, which would
/// unwind abandoned fibers by throwing through kernel code.
class Fibers {
 public:
  explicit Fibers(int count);
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  /// What every fiber does, with a copy of the parameters on its own stack.
  struct Task {
    void (*body)(void* parameters);
    const void* parameters;
    std::size_t bytes;
  };

  /// Starts all fibers, and returns when none can run or one has abandoned them. Returns how many have ended.
  int run(const Task& task, std::uint64_t seed);

  // The rest is for the running fiber.

  int running() const { return running_; }
  const Extent& stack() const { return stack_; }

  /// Waits until somebody releases it.
  void suspend();

  /// Lets lanes of a warp run again.
  void release(int warp, std::uint32_t lanes) { runnable_[static_cast<std::size_t>(warp)] |= lanes; }

  /// Leaves, and nobody runs again.
  [[noreturn]] void abandon();

 private:
  using Context = boost::context::detail::fcontext_t;

  static void enter(boost::context::detail::transfer_t from);
  void leave(Context& mine, int next);
  int pick();

  std::vector<Context> contexts_;        // of fibers that do not run
  std::vector<std::uint32_t> runnable_;  // lanes, for every warp
  std::vector<int> order_;               // of warps
  std::size_t turn_ = 0;                 // whose in that order
  std::minstd_rand random_;
  const Task* task_ = nullptr;
  int running_ = -1, num_ended_ = 0;
  Extent stack_;  // of the running fiber
  Context caller_ = nullptr;
  Context* left_ = nullptr;  // where the context of whoever switched last belongs
};

}  // namespace attnspec::cuda::simulator
