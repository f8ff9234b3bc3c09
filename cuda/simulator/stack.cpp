#include "cuda/simulator/stack.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <deque>
#include <new>

namespace attnspec::cuda::simulator {

namespace {

constexpr std::size_t kStackBytes = 128 * 1024, kGuardBytes = 4096;

}  // namespace

Stack::Stack()
    : mapping_(mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapping_, kGuardBytes, PROT_NONE);
}

Stack::~Stack() { munmap(mapping_, kGuardBytes + kStackBytes); }

Extent Stack::extent() const { return {reinterpret_cast<std::uintptr_t>(mapping_) + kGuardBytes, kStackBytes}; }

Stack& thread_stack(int n) {
  thread_local std::deque<Stack> stacks;
  while (stacks.size() <= static_cast<std::size_t>(n)) stacks.emplace_back();
  return stacks[static_cast<std::size_t>(n)];
}

}  // namespace attnspec::cuda::simulator
