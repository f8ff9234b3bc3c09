#include "cuda/simulator/fibers.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "cuda/primitives/shape.cuh"
#include "cuda/simulator/stack.hpp"

namespace attnspec::cuda::simulator {

namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

/// Bytes at the top of the n-th stack that its fiber does not use: tops that are the same distance apart as stacks
/// would compete for the same lines of the cache.
std::size_t offset_from_top(int n) { return static_cast<std::size_t>(n % kWarpLanes) * 128; }

/// Where the parameters of the n-th fiber lie.
char* parameters_of(int n, std::size_t bytes) {
  const Extent extent = thread_stack(n).extent();
  const std::uintptr_t top = extent.begin + extent.bytes - offset_from_top(n);
  return reinterpret_cast<char*>((top - bytes) / 64 * 64);
}

}  // namespace

Fibers::Fibers(int count)
    : contexts_(static_cast<std::size_t>(count)),
      runnable_(static_cast<std::size_t>((count + kWarpLanes - 1) / kWarpLanes)),
      order_(runnable_.size()) {
  std::iota(order_.begin(), order_.end(), 0);
}

int Fibers::run(const Task& task, std::uint64_t seed) {
  task_ = &task;
  num_ended_ = 0;
  random_.seed(static_cast<std::minstd_rand::result_type>(seed ^ seed >> 32));
  for (int n = 0; n < static_cast<int>(contexts_.size()); ++n) {
    char* const parameters = parameters_of(n, task.bytes);
    std::memcpy(parameters, task.parameters, task.bytes);
    const auto bytes_below =
        static_cast<std::size_t>(parameters - reinterpret_cast<char*>(thread_stack(n).extent().begin));
    contexts_[static_cast<std::size_t>(n)] = make_fcontext(parameters, bytes_below, &Fibers::enter);
    runnable_[static_cast<std::size_t>(n / kWarpLanes)] |= 1u << n % kWarpLanes;
  }
  std::shuffle(order_.begin(), order_.end(), random_);
  turn_ = 0;
  leave(caller_, pick());
  std::fill(runnable_.begin(), runnable_.end(), 0);
  return num_ended_;
}

void Fibers::suspend() {
  const int self = running_;
  runnable_[static_cast<std::size_t>(self / kWarpLanes)] &= ~(1u << self % kWarpLanes);
  leave(contexts_[static_cast<std::size_t>(self)], pick());
}

void Fibers::abandon() {
  Context nobody;
  leave(nobody, -1);
  __builtin_unreachable();
}

void Fibers::enter(transfer_t from) {
  Fibers& self = *static_cast<Fibers*>(from.data);
  *self.left_ = from.fctx;
  self.task_->body(parameters_of(self.running_, self.task_->bytes));
  ++self.num_ended_;
  self.suspend();
}

/// Switches to a fiber, or to the caller of `run` where there is none, and comes back when somebody switches here.
void Fibers::leave(Context& mine, int next) {
  running_ = next;
  left_ = &mine;
  const Context target = next < 0 ? caller_ : contexts_[static_cast<std::size_t>(next)];
  if (next >= 0) stack_ = thread_stack(next).extent();
  *left_ = jump_fcontext(target, this).fctx;
}

/// The fiber that runs next; -1 where none can.
int Fibers::pick() {
  for (std::size_t tries = 0; tries <= 2 * order_.size(); ++tries) {
    const int warp = order_[turn_];
    const std::uint32_t lanes = runnable_[static_cast<std::size_t>(warp)];
    if (lanes != 0) return warp * kWarpLanes + std::countr_zero(lanes);
    if (++turn_ < order_.size()) continue;
    turn_ = 0;
    std::shuffle(order_.begin(), order_.end(), random_);
  }
  return -1;
}

}  // namespace attnspec::cuda::simulator
