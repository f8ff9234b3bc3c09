#include "verify/laws/near_moves.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "reference/attention.hpp"
#include "verify/cases/random.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

using reference::Selection;
using reference::Tensor;

/// Whether the rows of the case that the judge knows depend on a selection that it does not know.
bool hides_selection(const JudgedCall& source) { return selects(source.c.op) && !source.kernel.exports_selection; }

/// A row's slots in another order that has all that the case says of it.
void reorder(SelectionOrder order, std::span<std::int32_t> row) {
  if (order == SelectionOrder::any) {
    std::reverse(row.begin(), row.end());
  } else if (order == SelectionOrder::packed) {
    std::reverse(row.begin(), std::find(row.begin(), row.end(), -1));
  }
}

/// Takes the blocks out of a row that a shorter sequence does not have.
void drop_blocks_from(std::int64_t num_blocks, std::span<std::int32_t> row) {
  const auto end = std::stable_partition(row.begin(), row.end(),
                                         [&](std::int32_t block) { return block >= 0 && block < num_blocks; });
  std::fill(end, row.end(), -1);
}

/// [tokens, Hkv, dim] with every head as often as its group has query heads.
Tensor repeated_heads(const Tensor& tensor, std::int64_t heads) {
  Tensor repeated(tensor.tokens, heads, tensor.dim);
  for (std::int64_t token = 0; token < tensor.tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      repeated.row(token, head) = tensor.row(token, head * tensor.heads / heads);
  return repeated;
}

}  // namespace

std::vector<NearFollowUp> slots_follow_ups(const JudgedCall& source) {
  if (source.c.selection_order > SelectionOrder::packed) return {};
  NearFollowUp follow_up{source.c, source.inputs, same_row};
  Selection& selection = follow_up.inputs.selection;
  for (std::int64_t token = 0; token < selection.tokens; ++token)
    for (std::int64_t head = 0; head < selection.heads; ++head)
      reorder(source.c.selection_order, selection.row(token, head));
  return {follow_up};
}

std::vector<NearFollowUp> groups_follow_ups(const JudgedCall& source) {
  const std::int64_t heads = source.c.heads, group = heads / source.c.kv_heads;
  if (group == 1 || hides_selection(source)) return {};
  NearFollowUp follow_up{source.c, source.inputs, [group](const std::string& output, const RowPlace& row) {
                           if (row.of == RowsOf::queries) return same_row(output, row);
                           std::vector<RowRef> rows;
                           for (std::int64_t head = row.head * group; head < (row.head + 1) * group; ++head)
                             rows.push_back({output, {row.sequence, row.token, head}});
                           return rows;
                         }};
  follow_up.c.kv_heads = heads;
  follow_up.inputs.k = repeated_heads(source.inputs.k, heads);
  follow_up.inputs.v = repeated_heads(source.inputs.v, heads);
  const Selection& given = source.inputs.selection;
  if (given.heads != source.c.kv_heads || given.blocks.empty()) return {follow_up};
  Selection& selection = follow_up.inputs.selection;
  selection = Selection(given.tokens, heads, given.slots);
  for (std::int64_t token = 0; token < given.tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      std::ranges::copy(given.row(token, head / group), selection.row(token, head).begin());
  return {follow_up};
}

std::vector<NearFollowUp> prefix_follow_ups(const JudgedCall& source) {
  const Case& c = source.c;
  if (hides_selection(source)) return {};
  Case to = c;
  const Random random(c.seed, "prefix");
  for (std::size_t s = 0; s < c.lens.size(); ++s) {
    const std::int64_t most = std::min(c.lens[s], c.q_lens[s]) - 1;
    const std::int64_t left_out = most > 0 ? 1 + random.below(most, s) : 0;
    to.lens[s] -= left_out;
    to.q_lens[s] -= left_out;
  }
  if (to.lens == c.lens) return {};
  std::map<RowsOf, std::vector<std::int64_t>> counts;
  for (const TensorInfo& tensor : page_of(c.op).tensors) counts[tensor.rows] = row_counts(to, tensor.rows);
  const Move move = [counts](const RowPlace& row) -> std::optional<RowPlace> {
    if (row.of == RowsOf::parameters) return row;
    if (row.token >= counts.at(row.of)[static_cast<std::size_t>(row.sequence)]) return {};
    return row;
  };
  NearFollowUp follow_up{to, moved(c, source.inputs, to, move), {}};
  Selection& selection = follow_up.inputs.selection;
  if (!selection.blocks.empty())
    for_each_row(to, RowsOf::queries, selection.tokens, selection.heads, [&](const RowPlace& row, std::int64_t token) {
      const std::int64_t length = to.lens[static_cast<std::size_t>(row.sequence)];
      drop_blocks_from(reference::num_blocks(length, to.block), selection.row(token, row.head));
    });
  follow_up.same_as = [&c, move](const std::string& output, const RowPlace& row) -> std::vector<RowRef> {
    const bool is_later_sum = row.of == RowsOf::keys || row.of == RowsOf::parameters ||
                              (row.of == RowsOf::compressed_rows && is_gradient(tensor_of(c.op, output)));
    if (is_later_sum || !move(row)) return {};
    return same_row(output, row);
  };
  return {follow_up};
}

}  // namespace attnspec::verify
