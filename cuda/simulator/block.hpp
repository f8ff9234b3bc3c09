// One thread block while it runs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/primitives/shape.cuh"
#include "cuda/simulator/buffers.hpp"
#include "cuda/simulator/fault_log.hpp"
#include "cuda/simulator/fibers.hpp"
#include "cuda/simulator/knowledge.hpp"
#include "cuda/simulator/shared_memory.hpp"

namespace attnspec::cuda::simulator {

class Block;

/// A kernel, and what it is called with.
struct Kernel {
  void (*body)(void* parameters);
  const void* parameters;
  std::size_t bytes;  // of the parameters
};

/// What is the same for all blocks of a launch.
struct Launch {
  LaunchShape shape;
  Kernel kernel;
  GlobalMemory memory;
  std::uint64_t seed;
};

/// What lanes of a warp do together: whoever comes last does it for all.
struct Collective {
  /// The lanes that have met, each with what it brought and where its result goes.
  struct Lanes {
    std::uint32_t mask;
    int first_thread;
    const std::array<void*, kWarpLanes>& brought;

    bool has(int lane) const { return (mask >> lane & 1u) != 0; }
    template <class T>
    T& at(int lane) const {
      return *static_cast<T*>(brought[static_cast<std::size_t>(lane)]);
    }
  };

  const char* name;
  bool one_line;  // whether they must come from the same line of source
  void (*act)(Block& block, const Lanes& lanes);
};

/// A thread block, run again and again for the blocks of a grid. Functions with a `site` are called by its running
/// thread; the site is where the call returns to in kernel code.
class Block {
 public:
  Block(const Launch& launch, FaultLog& log);

  /// Runs one block to its end, or to its first fatal fault.
  void run(Index3 index);

  /// The block whose kernel code this OS thread runs; null while it runs other code, the simulator's own too.
  static Block* running() { return running_; }

  const LaunchShape& shape() const { return launch_.shape; }
  Index3 index() const { return index_; }
  int thread() const { return fibers_.running(); }
  const Index3& index_of(int thread) const { return indices_[static_cast<std::size_t>(thread)]; }

  /// Memory (block_memory.cpp). An access by kernel code, to anything it may touch.
  void access(AccessKind kind, const void* address, std::size_t bytes, std::size_t alignment, const void* site) {
    const auto begin = reinterpret_cast<std::uintptr_t>(address);
    if (fibers_.stack().contains(begin, bytes)) return;
    const Extent& last = kind == AccessKind::read ? last_read_ : last_written_;
    if (begin % alignment != 0 || !last.contains(begin, bytes)) access_elsewhere(kind, begin, bytes, alignment, site);
  }
  /// An access by a thread, not necessarily the running one, to what must be shared memory.
  void access_shared(int thread, AccessKind kind, std::uintptr_t address, std::size_t bytes, std::size_t alignment);
  std::byte* shared_object(const void* key, std::size_t bytes, std::size_t alignment, const void* site);
  std::byte* dynamic_shared() { return shared_.dynamic(); }
  void copy_async(void* to, const void* from, std::size_t bytes, std::size_t source_bytes, const void* site);
  void commit_copies() { ++current().groups; }
  /// Lets all copies arrive but those of the latest groups.
  void wait_for_copies(int groups_left);
  void wait_for_all_copies();

  /// Meetings (block_meetings.cpp).
  void meet(const Collective& what, std::uint32_t mask, void* brought, const void* site);
  void sync_threads(const void* site);
  void sync_barrier(int barrier, int num_threads, const void* site);
  void arrive_at_barrier(int barrier, int num_threads, const void* site);
  /// Orders what the lanes did before after what they do next.
  void order(const Collective::Lanes& lanes);

  /// A warp's part of the products of its warpgroup (block_products.cpp).
  void multiply(const Collective::Lanes& lanes);
  void fence_products(const Collective::Lanes& lanes) { warp_of(lanes.first_thread).is_fenced = true; }
  void commit_products(const Collective::Lanes& lanes) { ++warp_of(lanes.first_thread).groups; }
  /// Lets the sums of all products arrive but those of the latest groups.
  void wait_for_products(const Collective::Lanes& lanes, int groups_left);
  /// What the running thread has written, products may read.
  void fence_async_proxy() { current().fenced = warp_of(thread()).now; }

  /// Reports a fault of a thread, where it last called the simulator. Does not return from a fatal one, so the message
  /// comes from a function, which leaves nothing behind.
  template <class Message>
  [[gnu::noinline, gnu::cold]] void report(FaultKind kind, int thread, const Message& message) {
    log_.add(kind, at(thread).site, index_, index_of(thread), message());
    if (is_fatal(kind)) fibers_.abandon();
  }

 private:
  friend class Call;
  static constexpr int kNumBarriers = 16;
  static constexpr char kSyncThreads[] = "sync_threads", kNamedBarrier[] = "a named barrier";

  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes, source_bytes;
    int group;
  };
  struct Thread {
    Knowledge known;
    const void* site;       // of its last call
    const char* waits_for;  // null: it does not wait
    std::vector<Copy> copies;
    int groups;   // of copies, so far
    Time fenced;  // up to when products may read what it wrote
  };
  /// 16 bytes that a thread reads for a product.
  struct Chunk {
    int thread;
    std::uintptr_t address;
  };
  /// Sums of a warp, 16 rows, that products add to.
  struct Accumulation {
    std::array<float*, kWarpLanes> sums;  // of the lanes
    int columns, group;                   // of the last product
    std::vector<float> rows;              // [16, columns]
    std::vector<Chunk> chunks;            // that were read
  };
  /// Some lanes of a warp on their way to do something together.
  struct Gathering {
    const Collective* what;
    const void* site;  // of the first who came
    std::uint32_t mask, arrived;
  };
  struct Warp {
    Time now;
    std::vector<Gathering> gatherings;
    std::array<void*, kWarpLanes> brought;
    std::vector<Accumulation> accumulations;  // that nobody has waited for
    int groups;                               // of products, so far
    bool is_fenced;                           // since the last wait
  };
  struct Barrier {
    int expected = 0, arrived = 0;
    const void* site = nullptr;  // of the first who came
    Meeting meeting;
    std::vector<int> waiting;
  };

  Thread& at(int thread) { return threads_[static_cast<std::size_t>(thread)]; }
  Thread& current() { return at(thread()); }
  Warp& warp_of(int thread) { return warps_[static_cast<std::size_t>(thread / kWarpLanes)]; }
  Accessor accessor(int thread) { return {thread, warp_of(thread).now, at(thread).known.until()}; }
  void start(Index3 index);
  void report_stall();
  void wait_for(const char* what);
  Gathering& gathering(Warp& warp, const Collective& what, std::uint32_t mask, const void* site);
  [[gnu::noinline, gnu::cold]] void report(Trouble trouble, int thread, AccessKind kind, std::size_t bytes);
  Barrier& come_to_barrier(int barrier, int num_threads, const void* site);
  void open(Barrier& barrier);
  void tick(Warp& warp);
  void require_alignment(AccessKind kind, int thread, std::uintptr_t address, std::size_t bytes, std::size_t alignment);
  /// An access that is not to the buffer of the last one.
  void access_elsewhere(AccessKind kind, std::uintptr_t address, std::size_t bytes, std::size_t alignment,
                        const void* site);
  void arrive(const Copy& copy);
  Accumulation& accumulation(Warp& warp, const Collective::Lanes& lanes);
  void read_for_product(const Chunk& chunk);

  static constinit thread_local Block* running_;

  const Launch& launch_;
  FaultLog& log_;
  int num_threads_;
  Index3 index_;
  Fibers fibers_;
  SharedMemory shared_;
  Extent last_read_, last_written_;  // buffers
  std::vector<Index3> indices_;      // of threads
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::array<Barrier, kNumBarriers> barriers_;
};

/// A call from kernel code. While it lasts no access counts as the kernel's: the linker may have merged functions of
/// the standard library that simulator and kernel both use into those that were compiled along with the kernel.
class Call {
 public:
  Call() : block_(*Block::running_) { Block::running_ = nullptr; }
  ~Call() { Block::running_ = &block_; }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  Block* operator->() const { return &block_; }

 private:
  Block& block_;
};

}  // namespace attnspec::cuda::simulator
