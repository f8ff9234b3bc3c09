// The memory that the judge and a worker share.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <span>

namespace attnspec::verify {

/// A file in memory, mapped into this process.
class SharedMemory {
 public:
  /// A new one, as large as the machine's memory; what nobody touches takes none. Throws std::runtime_error.
  SharedMemory();
  /// That of another process, by the descriptor, which it owns. Throws std::runtime_error.
  explicit SharedMemory(int descriptor);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  int descriptor() const { return descriptor_; }
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  int descriptor_;
  std::span<std::byte> bytes_;
};

/// Hands out shared memory from its beginning on, and again from there when everything was given back: calls of the
/// same shapes find their tensors at the same addresses.
class Arena : public std::pmr::memory_resource {
 public:
  const SharedMemory& memory() const { return memory_; }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override;
  void do_deallocate(void* address, std::size_t bytes, std::size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  SharedMemory memory_;
  std::size_t used_ = 0, allocations_ = 0;
};

}  // namespace attnspec::verify
