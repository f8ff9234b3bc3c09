// The functions that g++ -fsanitize=thread has kernel code call at every access to memory. ThreadSanitizer's own
// library is not linked; these take its place.
#include <cstddef>
#include <cstdint>

#include "cuda/simulator/block.hpp"

namespace {

using attnspec::cuda::simulator::AccessKind;
using attnspec::cuda::simulator::Block;
using attnspec::cuda::simulator::Call;

/// Host code that was compiled along with a kernel calls these as well, outside of any block.
void access(AccessKind kind, const void* address, std::size_t bytes, std::size_t alignment, const void* site) {
  if (Block::running() == nullptr) return;
  const Call call;
  call->access(kind, address, bytes, alignment, site);
}

}  // namespace

// g++ calls the 16-byte functions for what is aligned to 8 bytes, and the ranges for what is aligned to less.
#define ATTNSPEC_ACCESS(BYTES, ALIGNMENT)                                              \
  void __tsan_read##BYTES(void* address) {                                             \
    access(AccessKind::read, address, BYTES, ALIGNMENT, __builtin_return_address(0));  \
  }                                                                                    \
  void __tsan_write##BYTES(void* address) {                                            \
    access(AccessKind::write, address, BYTES, ALIGNMENT, __builtin_return_address(0)); \
  }

extern "C" {

ATTNSPEC_ACCESS(1, 1)
ATTNSPEC_ACCESS(2, 2)
ATTNSPEC_ACCESS(4, 4)
ATTNSPEC_ACCESS(8, 8)
ATTNSPEC_ACCESS(16, 8)

void __tsan_read_range(void* address, std::size_t bytes) {
  access(AccessKind::read, address, bytes, 1, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
  access(AccessKind::write, address, bytes, 1, __builtin_return_address(0));
}

// Host code: the guards of local statics, and std::shared_ptr. Kernels use cuda/primitives/atomic.cuh.
std::uint8_t __tsan_atomic8_load(const volatile std::uint8_t* address, int) {
  return __atomic_load_n(address, __ATOMIC_SEQ_CST);
}
std::uint32_t __tsan_atomic32_fetch_add(volatile std::uint32_t* address, std::uint32_t value, int) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}

void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
}
