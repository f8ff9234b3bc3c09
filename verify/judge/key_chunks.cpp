#include "verify/judge/key_chunks.hpp"

#include <algorithm>
#include <cstddef>

#include "reference/selected.hpp"

namespace attnspec::verify {

using namespace reference;

std::vector<std::vector<QueryRow>> queries_by_block(const AttentionProblem& problem, const Sequence& sequence,
                                                    std::int64_t g, std::int64_t block, const Selection& selection) {
  const std::int64_t blocks = num_blocks(sequence.num_keys(), block), group = problem.heads / problem.kv_heads;
  std::vector<std::vector<QueryRow>> rows(static_cast<std::size_t>(blocks));
  for (std::int64_t h = g * group; h < (g + 1) * group; ++h)
    for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
      for (const std::int32_t b : selected_blocks(problem, selection, token, h))
        if (b >= 0 && b < blocks) rows[static_cast<std::size_t>(b)].push_back({token, h});
  return rows;
}

std::vector<KeyChunk> key_chunks(const Sequence& sequence, std::int64_t block) {
  constexpr std::int64_t kMaxKeys = 64;
  std::vector<KeyChunk> chunks;
  for (std::int32_t b = 0; b < num_blocks(sequence.num_keys(), block); ++b) {
    const std::int64_t begin = b * block, end = std::min(sequence.num_keys() - begin, block) + begin;
    for (std::int64_t first = begin; first < end; first += kMaxKeys)
      chunks.push_back({b, {first, std::min(end, first + kMaxKeys)}});
  }
  return chunks;
}

KeyRange visible_in(const KeyChunk& chunk, KeyRange reach) {
  return {std::max(chunk.keys.begin, reach.begin), std::min(chunk.keys.end, reach.end)};
}

}  // namespace attnspec::verify
