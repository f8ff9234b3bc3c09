// The shared memory of a block, and what was done to every byte of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/simulator/buffers.hpp"
#include "cuda/simulator/fault.hpp"
#include "cuda/simulator/knowledge.hpp"

namespace attnspec::cuda::simulator {

/// What a kernel may have: of static objects, and with the dynamic block.
inline constexpr std::size_t kMaxStaticShared = 48 * 1024, kMaxShared = 227 * 1024;

/// Who touches shared memory, and when.
struct Accessor {
  int thread;
  Time now;
  const std::vector<Time>& known;  // of every thread, up to when its accesses came before
};

enum class AccessKind { read, write, atomic, async_copy };

/// What is wrong with an access.
enum class Trouble {
  none,
  unwritten,  // it reads what nobody has written
  in_flight,  // it touches what a copy is still to write
  race_with_write,
  race_with_read,
};

/// Shared memory with a shadow: for every byte its last write, and for every warp its last read. Accesses of two
/// threads race when one writes (not both atomically) and nothing orders them: barriers and sync_warp do, for those who
/// take part; shuffles, votes and atomics do not, as the programming guide says.
class SharedMemory {
 public:
  SharedMemory(int num_threads, std::size_t dynamic_bytes);

  /// Forgets everything, for the next block. All bytes become 0xff: NaN.
  void clear();

  const Extent& extent() const { return extent_; }
  std::byte* dynamic() { return memory_; }

  /// The object of a key, made where it is asked for first; null where it does not fit.
  std::byte* object(const void* key, std::size_t bytes, std::size_t alignment);

  /// Whether all bytes of an access lie in one object.
  bool is_inside(std::uintptr_t address, std::size_t bytes) const {
    for (const Object& object : objects_)
      if (object.extent.contains(address, bytes)) return true;
    return false;
  }

  /// Records an access inside an object, and returns the first thing wrong with it.
  Trouble access(AccessKind kind, const Accessor& who, std::uintptr_t address, std::size_t bytes);

  /// Who wrote a byte last, and when; time 0: nobody.
  struct Writer {
    int thread;
    Time time;
  };
  Writer writer(std::uintptr_t address) const;

  /// The other thread of the latest trouble.
  int other_thread() const { return other_thread_; }

  /// A copy has arrived: its bytes are now as if who had written them.
  void arrive(const Accessor& who, std::uintptr_t address, std::size_t bytes);

 private:
  /// One access: time, thread, and a flag. Zero: none.
  using Stamp = std::uint32_t;
  struct Object {
    const void* key;
    Extent extent;
  };

  /// For accesses of `fixed` bytes, or of any number where that is 0.
  template <std::size_t fixed>
  Trouble access(AccessKind kind, const Accessor& who, std::size_t first, std::size_t bytes);
  template <std::size_t fixed>
  Trouble read(const Accessor& who, std::size_t first, std::size_t bytes);
  template <std::size_t fixed>
  Trouble write(AccessKind kind, const Accessor& who, std::size_t first, std::size_t bytes);
  /// What is wrong with an access after an earlier write.
  Trouble check_write(Stamp write, AccessKind kind, const Accessor& who);
  /// What is wrong with a write after an earlier read.
  Trouble check_read(Stamp read, const Accessor& who);

  int num_threads_, num_warps_, other_thread_ = 0;
  std::size_t dynamic_bytes_, capacity_, used_ = 0;
  std::unique_ptr<std::byte[]> allocation_;
  std::byte* memory_;
  Extent extent_;
  std::vector<Object> objects_;
  std::vector<Stamp> writes_;       // [capacity]
  std::unique_ptr<Stamp[]> reads_;  // [warp, capacity]; means nothing where nobody has written
};

}  // namespace attnspec::cuda::simulator
