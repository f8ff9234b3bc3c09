// The queries of each key block: a selection turned around. Forward and backward go through them block by block.
#pragma once

#include <cstdint>

#include "cuda/tensors.cuh"
#include "cuda/workspace.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

/// A selection. A assignment is one slot of one query: token * slots + slot, the same for every head.
struct Selection {
  Sequences sequences;
  const std::int64_t* block_offsets;  // [count + 1], on the device: run_offsets of the keys
  Rows<const std::int32_t> selected;  // [num_queries, heads, slots]: blocks, counted within their sequence; -1 is none
  std::int64_t num_queries;           // of all sequences
  std::int64_t num_blocks;            // of all sequences, numbered one after the other
  std::int64_t block;                 // tokens in a block
  std::int64_t slots;
  int heads;  // query heads, or key/value heads, whose lists then serve all query heads of the group
};

/// For every head h and block b the assignments that selected it, in ascending order:
/// assignments[offsets[h * num_blocks + b]] .. assignments[offsets[h * num_blocks + b + 1] - 1]. The lists lie one
/// after the other. A assignment of a block that lies wholly in the query's future is in no list: whoever is in a list
/// sees at least the block's first key.
struct QueryLists {
  std::int32_t* assignments;  // [up to heads * num_queries * slots]
  std::int64_t* offsets;      // [heads * num_blocks + 1]
  std::int32_t* counts;       // [heads, chunks of tokens, num_blocks], scratch
};

/// Whether lists can be made: blocks are counted in shared memory, assignments in 31 bits. Reads sizes only.
bool can_list_queries(const Selection&);

/// The room that lists need; reads sizes only.
QueryLists take_query_lists(Workspace&, const Selection&);

/// Replaces counts[0] .. counts[n - 1] by the sums before each, and adds the whole sum as counts[n].
void sum_before(std::int64_t n, std::int64_t* counts, void* stream);

/// Fills lists in the stream: a stable counting sort, the same bits every time.
void list_queries(const Selection&, const QueryLists&, void* stream);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
