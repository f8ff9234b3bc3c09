#include "cuda/simulator/stack.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <deque>
#include <new>

namespace attnspec::cuda::simulator {

namespace {

/// An odd number of pages, so that the tops of stacks that lie side by side use different parts of the caches. There
/// are no guard pages: a process may have fewer mappings than a large machine has simulated threads.
constexpr std::size_t kStackBytes = 33 * 4096;

}  // namespace

Stack::Stack()
    : mapping_(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
}

Stack::~Stack() { munmap(mapping_, kStackBytes); }

Extent Stack::extent() const { return {reinterpret_cast<std::uintptr_t>(mapping_), kStackBytes}; }

Stack& thread_stack(int n) {
  thread_local std::deque<Stack> stacks;
  while (stacks.size() <= static_cast<std::size_t>(n)) stacks.emplace_back();
  return stacks[static_cast<std::size_t>(n)];
}

}  // namespace attnspec::cuda::simulator
