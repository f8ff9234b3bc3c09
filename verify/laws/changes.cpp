#include "verify/laws/changes.hpp"

#include <algorithm>

#include "verify/cases/random.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

/// Follow-up calls of one case that change other blocks.
constexpr std::uint64_t kMaxFollowUps = 2;

/// Another finite number, no larger than it or 1.
double changed(double x, std::int64_t d) { return x == 0 ? 1 : (d % 2 == 0 ? -x : x) / 2; }

void change_row(const Case& c, reference::Tensor& tensor, std::int64_t token, std::int64_t head) {
  for (std::int64_t d = 0; d < tensor.dim; ++d)
    tensor.at(token, head)[d] = reference::round_to(changed(tensor.at(token, head)[d], d), c.dtype);
}

/// Changes the rows of a tensor that `is_changed` names.
template <class Predicate>
void change_rows(const Case& c, reference::Tensor& tensor, RowsOf of, const Predicate& is_changed) {
  if (tensor.values.empty()) return;
  for_each_row(c, of, tensor.tokens, tensor.heads, [&](const RowPlace& row, std::int64_t token) {
    if (is_changed(row)) change_row(c, tensor, token, row.head);
  });
}

std::int64_t at(const std::vector<std::int64_t>& of_sequences, const RowPlace& row) {
  return of_sequences[static_cast<std::size_t>(row.sequence)];
}

/// The position of the last token that a row is made of, or that its query may see.
std::int64_t position(const Case& c, const RowPlace& row) {
  const auto s = static_cast<std::size_t>(row.sequence);
  if (row.of == RowsOf::queries) return row.token + c.lens[s] - c.q_lens[s];
  if (row.of == RowsOf::compressed_rows) return row.token * c.compress_stride + c.compress_block - 1;
  if (row.of == RowsOf::complete_blocks) return (row.token + 1) * c.block - 1;
  return row.token;
}

/// One of 0 .. n - 1 for each sequence; -1 where n is 0.
std::vector<std::int64_t> draw_below(const Random& random, const std::vector<std::int64_t>& n) {
  std::vector<std::int64_t> drawn;
  for (std::size_t s = 0; s < n.size(); ++s) drawn.push_back(n[s] > 0 ? random.below(n[s], s) : -1);
  return drawn;
}

}  // namespace

std::vector<FollowUp> future_follow_ups(const SourceCall& source) {
  const Case& c = source.c;
  std::vector<std::int64_t> choices = c.lens;
  for (std::int64_t& n : choices) n = std::max<std::int64_t>(0, n - 1);  // something must come after it
  const std::vector<std::int64_t> last = draw_below(Random(c.seed, "future"), choices);
  const auto is_later = [&c, last](const RowPlace& row) { return position(c, row) > at(last, row); };
  FollowUp follow_up{c, source.inputs, stay, {}};
  for (const auto& [tensor, rows] : input_tensors(c)) change_rows(c, follow_up.inputs.*tensor, rows, is_later);
  reference::Selection& selection = follow_up.inputs.selection;
  if (!selection.blocks.empty())
    for_each_row(c, RowsOf::queries, selection.tokens, selection.heads, [&](const RowPlace& row, std::int64_t token) {
      if (is_later(row)) std::ranges::fill(selection.row(token, row.head), -1);
    });
  follow_up.speaks_of = [&c, is_later](const std::string& output,
                                       const RowPlace& row) {  // not of sums over later queries
    const bool is_compressed_row = row.of == RowsOf::compressed_rows && !is_gradient(tensor_of(c.op, output));
    return (row.of == RowsOf::queries || is_compressed_row) && !is_later(row);
  };
  return {follow_up};
}

namespace {

/// Whether a query row may attend to a block, by the selection that it has.
bool selects_block(const Case& c, const reference::Selection& selection, const std::vector<std::int64_t>& q_offsets,
                   const RowPlace& row, std::int64_t block) {
  const std::int64_t head = selection.heads == row.heads ? row.head : row.head / (c.heads / c.kv_heads);
  const auto blocks = selection.row(at(q_offsets, row) + row.token, head);
  return std::ranges::find(blocks, block) != blocks.end();
}

}  // namespace

std::vector<FollowUp> unselected_follow_ups(const SourceCall& source) {
  const Case& c = source.c;
  const bool has_blocks = verify::has_blocks(c.op), has_window = verify::has_window(c.op);
  const reference::Selection& selection = reads_selection(c.op) ? source.inputs.selection : source.outputs.selection;
  if (has_blocks && selection.blocks.empty()) return {};
  if (c.shared_kv) return {};  // the compressed branch reads all values
  std::vector<std::int64_t> blocks = c.lens;
  for (std::int64_t& n : blocks) n = (n + c.block - 1) / c.block;
  std::vector<FollowUp> follow_ups;
  for (std::uint64_t i = 0; i < kMaxFollowUps; ++i) {
    const auto block = draw_below(Random(c.seed + i, "block"), blocks),
               key = draw_below(Random(c.seed + i, "key"), c.lens);
    FollowUp follow_up{c, source.inputs, stay, {}};
    if (has_blocks)
      change_rows(c, has_branches(c.op) ? follow_up.inputs.v_selected : follow_up.inputs.v, RowsOf::keys,
                  [&](const RowPlace& row) { return row.token / c.block == at(block, row); });
    if (has_window)
      change_rows(c, has_branches(c.op) ? follow_up.inputs.v_window : follow_up.inputs.v, RowsOf::keys,
                  [&](const RowPlace& row) { return row.token == at(key, row); });
    const auto offsets = row_offsets(c, RowsOf::queries, 0);
    follow_up.speaks_of = [=, &c, &selection](const std::string& output, const RowPlace& row) {
      const TensorInfo& tensor = tensor_of(c.op, output);
      if (tensor.format == Stored::blocks || tensor.format == Stored::fp32) return true;  // made of scores
      if (row.of == RowsOf::keys && tensor.dim == Dim::dv) return true;
      if (row.of == RowsOf::parameters || tensor.branch == reference::Branch::compressed) return true;
      if (row.of != RowsOf::queries) return false;
      const std::int64_t t = position(c, row);
      const bool sees_key = has_window && at(key, row) <= t && at(key, row) > t - c.window;
      const bool sees_block = has_blocks && selects_block(c, selection, offsets, row, at(block, row));
      return !(sees_key && tensor.branch != reference::Branch::selected) &&
             !(sees_block && tensor.branch != reference::Branch::window);
    };
    follow_ups.push_back(std::move(follow_up));
  }
  return follow_ups;
}

}  // namespace attnspec::verify
