// The attentions of a case that can be X-rayed: that of an operator, or of each branch of nsa.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reference/nsa/nsa.hpp"
#include "verify/operators/operator.hpp"
#include "verify/run/calls/names.hpp"

namespace attnspec::verify {

struct Attention {
  std::optional<reference::Branch> branch{};
  AttentionNames names{};
  reference::AttentionProblem problem{};  // over the rows of k and v
  std::int64_t block = 0;                 // of its selection, in such rows
  Reach reach{};
  bool has_blocks = false;        // whether rows select blocks; else the one block is the whole sequence
  const TensorInfo* k = nullptr;  // inputs of the operator that it reads; of the compressed branch they are tokens
  const TensorInfo* v = nullptr;

  bool is_compressed() const { return branch == reference::Branch::compressed; }
  std::int64_t keys() const { return problem.k_offsets.back(); }
  std::int64_t query_rows() const { return problem.q_offsets.back() * problem.heads; }
  /// Columns of its weights: kv head * keys() + packed key.
  std::int64_t columns() const { return problem.kv_heads * keys(); }
};

/// Of an operator that attends.
std::vector<Attention> attentions_of(const Case& c);

/// The keys that a row sees in its blocks.
std::vector<reference::KeyRange> visible_keys(const Attention& attention, const reference::Selection& selection,
                                              const reference::Sequence& sequence, std::int64_t token,
                                              std::int64_t head);

}  // namespace attnspec::verify
