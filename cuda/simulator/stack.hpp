// Stacks of simulated threads.
#pragma once

#include <cstddef>

#include "cuda/simulator/buffers.hpp"

namespace attnspec::cuda::simulator {

/// A stack of one simulated thread: memory that is backed when it is touched.
class Stack {
 public:
  Stack();
  ~Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  Extent extent() const;

 private:
  void* mapping_;
};

/// The n-th stack of the calling OS thread, which keeps its stacks.
Stack& thread_stack(int n);

}  // namespace attnspec::cuda::simulator
