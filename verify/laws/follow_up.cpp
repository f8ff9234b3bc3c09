#include "verify/laws/follow_up.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "verify/operators/operator.hpp"

namespace attnspec::verify {

using reference::Selection;
using reference::Tensor;

const Output& Outputs::at(const std::string& name) const {
  for (const Output& output : tensors)
    if (output.name == name) return output;
  throw std::out_of_range(name);
}

std::vector<std::int64_t> row_offsets(const Case& c, RowsOf of, std::int64_t tokens) {
  std::vector<std::int64_t> counts{tokens}, offsets{0};
  if (of != RowsOf::parameters) counts = row_counts(c, of);
  std::partial_sum(counts.begin(), counts.end(), std::back_inserter(offsets));
  return offsets;
}

std::vector<InputTensor> input_tensors(const Case& c) {
  std::vector<InputTensor> all;
  for (const TensorInfo& tensor : page_of(c.op).tensors)
    if (tensor.input != nullptr && tensor.role != Role::gradient) all.push_back({tensor.input, tensor.rows});
  return all;
}

namespace {

/// Calls copy(from token, from head, to token, to head) for every row that is in the follow_up.
template <class Copy>
void copy_rows(const Case& from, const Case& to, RowsOf of, std::int64_t tokens, std::int64_t heads, const Move& move,
               const Copy& copy) {
  const std::vector<std::int64_t> offsets = row_offsets(to, of, tokens);
  for_each_row(from, of, tokens, heads, [&](const RowPlace& row, std::int64_t token) {
    if (const auto place = move(row))
      copy(token, row.head, offsets[static_cast<std::size_t>(place->sequence)] + place->token, place->head);
  });
}

Tensor moved(const Tensor& tensor, const Case& from, const Case& to, RowsOf of, const Move& move) {
  if (tensor.values.empty()) return {tensor.tokens, tensor.heads, tensor.dim};
  Tensor result(row_offsets(to, of, tensor.tokens).back(), tensor.heads, tensor.dim);
  copy_rows(from, to, of, tensor.tokens, tensor.heads, move,
            [&](std::int64_t token, std::int64_t head, std::int64_t to_token, std::int64_t to_head) {
              result.row(to_token, to_head) = tensor.row(token, head);
            });
  return result;
}

}  // namespace

Inputs normal_inputs(const Case& c) {
  Case plain = c;
  plain.regime = "normal";
  return make_inputs(plain);
}

Inputs moved(const Case& from, const Inputs& inputs, const Case& to, const Move& move) {
  Inputs result;
  for (const auto& [tensor, rows] : input_tensors(from)) result.*tensor = moved(inputs.*tensor, from, to, rows, move);
  for (const auto phi : {&Inputs::phi_k, &Inputs::phi_v})
    result.*phi =
        map_parts(inputs.*phi, [&](const Tensor& tensor) { return moved(tensor, from, to, RowsOf::parameters, move); });
  const Selection& selection = inputs.selection;
  result.selection = Selection(row_offsets(to, RowsOf::queries, 0).back(), selection.heads, selection.slots);
  copy_rows(from, to, RowsOf::queries, selection.tokens, selection.heads, move,
            [&](std::int64_t token, std::int64_t head, std::int64_t to_token, std::int64_t to_head) {
              std::ranges::copy(selection.row(token, head), result.selection.row(to_token, to_head).begin());
            });
  return result;
}

}  // namespace attnspec::verify
