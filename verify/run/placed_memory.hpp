// Memory in places, for calls whose tensors move from one place to another.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <vector>

namespace attnspec::verify {

/// Memory in places. The first allocations after a visit of a place lie where those after its last visit lay, as far as
/// they are large enough; all others lie where nothing has ever been. It is given back at the end.
class PlacedMemory : public std::pmr::memory_resource {
 public:
  explicit PlacedMemory(std::pmr::memory_resource* upstream) : upstream_(upstream) {}
  ~PlacedMemory() override;
  PlacedMemory(const PlacedMemory&) = delete;
  PlacedMemory& operator=(const PlacedMemory&) = delete;

  /// Overwrites everything that was ever allocated, in all places, with NaN: nothing of earlier calls is left for a
  /// kernel that kept an address. Allocates in `place` from now on.
  void visit(std::size_t place);

 private:
  struct Block {
    void* data;
    std::size_t bytes, alignment;
  };

  void* do_allocate(std::size_t bytes, std::size_t alignment) override;
  void do_deallocate(void*, std::size_t, std::size_t) override {}
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  std::pmr::memory_resource* upstream_;
  std::vector<std::vector<Block>> places_;
  std::vector<Block> all_;
  std::size_t place_ = 0, next_ = 0;
};

}  // namespace attnspec::verify
