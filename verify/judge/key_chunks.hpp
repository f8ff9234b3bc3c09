// The keys of a sequence in short pieces, and the query rows that see them: the order in which dk and dv are judged.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/attention.hpp"

namespace attnspec::verify {

/// A query row, as packed token and query head.
struct QueryRow {
  std::int64_t token, head;
};

/// The selection inverted: for every key block of one sequence and kv head, the query rows that selected it.
std::vector<std::vector<QueryRow>> queries_by_block(const reference::AttentionProblem& problem,
                                                    const reference::Sequence& sequence, std::int64_t kv_head,
                                                    std::int64_t block, const reference::Selection& selection);

/// A part of one key block, short enough that its gradients stay in a cache.
struct KeyChunk {
  std::int32_t block;
  reference::KeyRange keys;  // positions in the sequence
};
std::vector<KeyChunk> key_chunks(const reference::Sequence& sequence, std::int64_t block);

/// The keys of a chunk that a query sees, if it selected the block.
reference::KeyRange visible_in(const KeyChunk& chunk, reference::KeyRange reach);

}  // namespace attnspec::verify
