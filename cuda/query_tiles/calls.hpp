// What launchers of row tiles share: a call's problem, its tiles, and what it must not be.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/calls.hpp"
#include "cuda/query_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

inline constexpr std::int64_t kMaxFeatures = 256;
inline constexpr std::int64_t kMaxCountable = std::numeric_limits<std::int32_t>::max();

template <class Forward>
Problem problem_of(const Forward& f, const Sequences& sequences, const Reach& reach) {
  const int heads = static_cast<int>(f.q.shape[1]), kv_heads = static_cast<int>(f.k.shape[1]);
  return {sequences,
          reach,
          heads,
          kv_heads,
          static_cast<int>(f.q.shape[2]),
          static_cast<int>(f.v.shape[2]),
          static_cast<float>(f.call.scale),
          heads / kv_heads,
          Divider(heads / kv_heads)};
}

/// Keys are tokens, and all of them are in reach.
inline Reach all_keys(const std::int64_t* token_offsets) {
  return {token_offsets, 1, 1, Divider(1), std::numeric_limits<std::int64_t>::max()};
}

/// A number of tokens or blocks; what is more than any sequence has means the same as less.
inline int countable(std::int64_t number) { return static_cast<int>(std::min(number, kMaxCountable)); }

inline bool is_causal(const AttnspecDense& p) { return p.call.causal != 0; }
inline bool is_causal(const AttnspecSelected& p) { return p.call.causal != 0; }
inline bool is_causal(const AttnspecMoba& p) { return p.call.causal != 0; }
inline bool is_causal(const AttnspecWindow&) { return true; }
inline bool is_causal(const AttnspecNsaCompressed&) { return true; }

/// Where sequences have their keys, in host memory.
template <class Forward>
const std::int64_t* key_offsets(const Forward& p) {
  return p.call.k_offsets;
}
inline const std::int64_t* key_offsets(const AttnspecNsaCompressed& p) { return p.sizes.row_offsets; }

template <class Forward>
Reach reach_of(const Forward&, const std::int64_t* token_offsets) {
  return all_keys(token_offsets);
}
inline Reach reach_of(const AttnspecWindow& p, const std::int64_t* token_offsets) {
  Reach reach = all_keys(token_offsets);
  reach.window = p.window_size;
  return reach;
}
inline Reach reach_of(const AttnspecNsaCompressed& p, const std::int64_t* token_offsets) {
  const int stride = countable(p.sizes.compress_stride);
  return {token_offsets, p.sizes.compress_block, stride, Divider(stride), std::numeric_limits<std::int64_t>::max()};
}

inline ImportanceRule rule_of(const AttnspecNsaSizes& sizes, std::int64_t slots) {
  const int rows = countable(sizes.block / sizes.compress_stride);
  return {Divider(countable(sizes.block)),
          rows,
          Divider(rows),
          countable(sizes.compress_block / sizes.compress_stride),
          countable(sizes.top_n),
          countable(sizes.initial_blocks),
          countable(sizes.local_blocks),
          countable(slots)};
}

/// Whether a call's rows are for tiles, whole vectors of 16 bytes; what is not goes to another kernel.
template <class Forward>
bool is_for_tiles(const Forward& f) {
  const auto has_vectors = [](const DLTensor& t) { return t.dtype.bits == 16 && t.shape[2] % 8 == 0; };
  return has_vectors(f.q) && has_vectors(f.v);
}

/// Tiles of a call (run_offsets), and where on the device their offsets go, followed by a 0: Tiles::taken.
struct TileOffsets {
  std::vector<std::int64_t> host;
  std::int64_t* device = nullptr;

  int count() const { return static_cast<int>(host.back()); }
  Tiles tiles() const { return {device, count(), reinterpret_cast<int*>(device + host.size())}; }
};

/// The tiles of so many rows, in sequences of tokens that have `rows_of_token` each.
inline TileOffsets take_tiles(Workspace& workspace, const AttnspecCall& call, const std::int64_t* tokens,
                              std::int64_t rows_of_token, std::int64_t rows) {
  return {run_offsets(tokens, call.num_sequences, rows, rows_of_token),
          workspace.take<std::int64_t>(call.num_sequences + 2)};
}

inline void copy_tiles(const AttnspecCall& call, const TileOffsets& to) {
  if (to.host.empty()) return;
  std::vector<std::int64_t> numbers = to.host;
  numbers.push_back(0);
  copy_to_device(to.device, numbers.data(), numbers.size() * sizeof(std::int64_t), call.stream);
}

/// Throws std::runtime_error if rows of tokens are more than are counted in 32 bits.
inline void require_countable_rows(std::int64_t tokens, std::int64_t rows_of_token) {
  if (tokens > kMaxCountable / rows_of_token)
    throw std::runtime_error("tokens " + std::to_string(tokens) + " times heads " + std::to_string(rows_of_token) +
                             " are more rows than 2147483647");
}

/// Likewise for the rows and the tokens of a call.
template <class Forward>
void require_countable(const Forward& f) {
  for (const DLTensor* t : {&f.q, &f.k}) require_countable_rows(t->shape[0], t->shape[1]);
  require_countable_rows(f.call.k_offsets[f.call.num_sequences], 1);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
