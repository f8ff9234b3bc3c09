// Query lists: assignments sorted by (head, block), stable. A chunk is a run of tokens:
//   counts[h, chunk, b] = assignments of block b by head h in the chunk            count_assignments
//   counts[h, chunk, b] = the same in all chunks before; the whole number    count_before_chunks
//   offsets[h, b]       = whole numbers of all (head, block) before          sum_before
//   assignments[offsets + counts + rank in the chunk] = assignment                       place_assignments
// There are about as many tokens in a chunk as there are blocks for each slot, so that counts are no larger than
// assignments.
#include <algorithm>
#include <cstdint>

#include "cuda/gathered_queries/query_lists.hpp"
#include "cuda/primitives/atomic.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr int kCountThreads = 128, kScanThreads = 1024;
constexpr int kChunksAtOnce = 16;  // whose counts a thread loads together
constexpr std::int64_t kMinChunkTokens = 256;
constexpr std::int64_t kMaxBlocks = 24 * 1024;  // 96 KB of counters

std::int64_t chunk_tokens(const Selection& s) {
  return std::max(kMinChunkTokens, (s.num_blocks + s.slots - 1) / std::max<std::int64_t>(s.slots, 1));
}

std::int64_t num_chunks(const Selection& s) { return (s.num_queries + chunk_tokens(s) - 1) / chunk_tokens(s); }

/// The number of the block that a assignment selected; -1 for none, or one wholly in the future.
__device__ __forceinline__ std::int64_t block_of_assignment(const Selection& s, int head, std::int64_t assignment) {
  const auto number = static_cast<std::uint32_t>(assignment), slots = static_cast<std::uint32_t>(s.slots);
  const std::int64_t token = number / slots, slot = number % slots;
  const std::int64_t selected = load_constant(s.selected.at(token, head) + slot);
  const Sequence sequence = sequence_of(s.sequences, s.sequences.q_offsets, token);
  if (selected < 0 || selected * s.block >= num_visible_keys(s.sequences, sequence, token - sequence.q_begin))
    return -1;
  return s.block_offsets[sequence.index] + selected;
}

/// The assignments of a chunk: [begin, end).
struct Range {
  std::int64_t begin, end;
};

__device__ __forceinline__ Range assignments_of_chunk(const Selection& s, std::int64_t tokens, std::int64_t chunk) {
  const std::int64_t first = chunk * tokens;
  const std::int64_t last = first + tokens < s.num_queries ? first + tokens : s.num_queries;
  return {first * s.slots, last * s.slots};
}

// A thread block owns a chunk (x) of a head (y), and counts in num_blocks * 4 bytes of dynamic shared memory.
__global__ void count_assignments(Selection s, std::int64_t tokens, std::int32_t* counts) {
  auto* of_block = dynamic_shared<std::int32_t>();
  const int head = block_index().y;
  for (std::int64_t b = thread_number(); b < s.num_blocks; b += kCountThreads) of_block[b] = 0;
  sync_threads();
  const Range range = assignments_of_chunk(s, tokens, block_index().x);
  for (std::int64_t assignment = range.begin + thread_number(); assignment < range.end; assignment += kCountThreads) {
    const std::int64_t block = block_of_assignment(s, head, assignment);
    if (block >= 0) atomic_add(of_block + block, 1);
  }
  sync_threads();
  std::int32_t* row = counts + (std::int64_t{head} * grid_size().x + block_index().x) * s.num_blocks;
  for (std::int64_t b = thread_number(); b < s.num_blocks; b += kCountThreads) row[b] = of_block[b];
}

// A thread owns a block of a head (y). The whole number waits in offsets[h, b], to be scanned there.
__global__ void count_before_chunks(Selection s, std::int64_t chunks, QueryLists lists) {
  const std::int64_t b = static_cast<std::int64_t>(block_index().x) * kCountThreads + thread_number();
  if (b >= s.num_blocks) return;
  const std::int64_t head = block_index().y;
  std::int32_t* column = lists.counts + head * chunks * s.num_blocks + b;
  std::int32_t before = 0;
  for (std::int64_t first = 0; first < chunks; first += kChunksAtOnce) {
    std::int32_t count[kChunksAtOnce];
#pragma unroll
    for (int i = 0; i < kChunksAtOnce; ++i) count[i] = first + i < chunks ? column[(first + i) * s.num_blocks] : 0;
#pragma unroll
    for (int i = 0; i < kChunksAtOnce; ++i) {
      if (first + i < chunks) column[(first + i) * s.num_blocks] = before;
      before += count[i];
    }
  }
  lists.offsets[head * s.num_blocks + b] = before;
}

// One thread block, of which a thread owns a run of counts.
__global__ void scan_counts(std::int64_t n, std::int64_t* counts) {
  struct Sums {
    std::int64_t of_warp[kScanThreads / kWarpLanes];
  };
  auto& sums = static_shared<Sums>();
  const std::int64_t run = (n + kScanThreads - 1) / kScanThreads;
  const std::int64_t first = run * thread_number(), begin = first < n ? first : n;
  const std::int64_t end = begin + run < n ? begin + run : n;

  // phase 1 - the sum of the run, and of the runs before it in the warp
  std::int64_t own = 0;
  for (std::int64_t i = begin; i < end; ++i) own += counts[i];
  std::int64_t up_to = own;
  for (int distance = 1; distance < kWarpLanes; distance *= 2) {
    const std::int64_t below = shuffle_up(up_to, distance);
    if (lane_index() >= distance) up_to += below;
  }
  if (lane_index() == kWarpLanes - 1) sums.of_warp[warp_index()] = up_to;
  sync_threads();

  // phase 2 - the warps before
  std::int64_t before = up_to - own;
  for (int warp = 0; warp < warp_index(); ++warp) before += sums.of_warp[warp];
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t count = counts[i];
    counts[i] = before;
    before += count;
  }
  if (thread_number() == kScanThreads - 1) counts[n] = before;
}

/// The lanes that hold the same value, of `bits` bits.
__device__ __forceinline__ std::uint32_t lanes_with(std::int64_t value, int bits) {
  std::uint32_t lanes = kAllLanes;
  for (int bit = 0; bit < bits; ++bit) {
    const bool is_set = (value >> bit & 1) != 0;
    const std::uint32_t set = ballot(is_set);
    lanes &= is_set ? set : ~set;
  }
  return lanes;
}

// A warp, alone in its thread block, owns a chunk (x) of a head (y) and takes its assignments in order, 32 at a time.
// Dynamic shared memory, num_blocks * 4 bytes: where each block's next assignment goes, among the head's. Block numbers
// are less than 2^bits - 1.
__global__ void place_assignments(Selection s, std::int64_t tokens, int bits, QueryLists lists) {
  auto* placed = dynamic_shared<std::int32_t>();
  const int head = block_index().y, lane = lane_index();
  const std::int32_t* row = lists.counts + (std::int64_t{head} * grid_size().x + block_index().x) * s.num_blocks;
  const std::int64_t* list = lists.offsets + head * s.num_blocks;
  std::int32_t* assignments = lists.assignments + list[0];
#pragma unroll 8
  for (std::int64_t b = lane; b < s.num_blocks; b += kWarpLanes)
    placed[b] = row[b] + static_cast<std::int32_t>(list[b] - list[0]);
  sync_warp();
  const Range range = assignments_of_chunk(s, tokens, block_index().x);
  const auto block_at = [&](std::int64_t assignment) {
    return assignment < range.end ? block_of_assignment(s, head, assignment) : -1;
  };
  std::int64_t block = block_at(range.begin + lane);
  for (std::int64_t assignment = range.begin + lane; assignment - lane < range.end; assignment += kWarpLanes) {
    const std::int64_t next = block_at(assignment + kWarpLanes);  // in advance
    const std::uint32_t alike = lanes_with(block, bits);
    const int rank = count_bits(alike & ((1U << lane) - 1));
    std::int32_t place = 0;
    if (block >= 0) {
      place = placed[block] + rank;
      assignments[place] = static_cast<std::int32_t>(assignment);
    }
    sync_warp();
    if (block >= 0 && lane == highest_bit(alike)) placed[block] = place + 1;
    sync_warp();
    block = next;
  }
}

}  // namespace

bool can_list_queries(const Selection& s) {
  return s.num_blocks <= kMaxBlocks && s.heads < 65536 && s.num_queries * s.slots <= INT32_MAX;
}

QueryLists take_query_lists(Workspace& workspace, const Selection& s) {
  QueryLists lists{};
  lists.assignments = workspace.take<std::int32_t>(s.heads * s.num_queries * s.slots);
  lists.offsets = workspace.take<std::int64_t>(s.heads * s.num_blocks + 1);
  lists.counts = workspace.take<std::int32_t>(s.heads * num_chunks(s) * s.num_blocks);
  return lists;
}

void sum_before(std::int64_t n, std::int64_t* counts, void* stream) {
  launch(scan_counts, {{1}, {kScanThreads}}, stream, n, counts);
}

void list_queries(const Selection& s, const QueryLists& lists, void* stream) {
  const std::int64_t chunks = num_chunks(s);
  const auto counter_bytes = static_cast<std::size_t>(s.num_blocks) * sizeof(std::int32_t);
  const LaunchShape per_chunk{{static_cast<int>(chunks), s.heads}, {kCountThreads}, counter_bytes};
  const LaunchShape per_block{{static_cast<int>((s.num_blocks + kCountThreads - 1) / kCountThreads), s.heads},
                              {kCountThreads}};
  int bits = 1;  // block numbers, and a pattern that none has: all bits set
  while ((std::int64_t{1} << bits) <= s.num_blocks) ++bits;
  if (s.num_blocks > 0) {
    if (chunks > 0) launch(count_assignments, per_chunk, stream, s, chunk_tokens(s), lists.counts);
    launch(count_before_chunks, per_block, stream, s, chunks, lists);
  }
  sum_before(s.heads * s.num_blocks, lists.offsets, stream);
  if (s.num_blocks > 0 && chunks > 0)
    launch(place_assignments, {{static_cast<int>(chunks), s.heads}, {kWarpLanes}, counter_bytes}, stream, s,
           chunk_tokens(s), bits, lists);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
