#include "fuzz/report/numbers.hpp"

#include "verify/cases/regimes.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

constexpr std::int64_t kMaxNumbers = 128;

bool is_given(const TensorInfo& tensor) { return tensor.role == Role::input || tensor.role == Role::given_gradient; }

}  // namespace

std::optional<std::vector<InputTensor>> few_numbers(const Case& c) {
  std::int64_t numbers = 0;
  for (const TensorInfo& tensor : page_of(c.op).tensors) {
    const Shape shape = shape_of(c, tensor);
    if (is_given(tensor)) numbers += shape.tokens * shape.heads * shape.dim;
  }
  if (numbers == 0 || numbers > kMaxNumbers) return std::nullopt;
  const Inputs inputs = make_inputs(c);
  std::vector<InputTensor> all;
  for (const TensorInfo& tensor : page_of(c.op).tensors) {
    if (!is_given(tensor)) continue;
    InputTensor& shown = all.emplace_back(InputTensor{tensor.name, {}});
    const Shape shape = shape_of(c, tensor);
    const reference::Tensor* input = find_input(tensor, inputs);
    for (std::int64_t token = 0; token < shape.tokens; ++token)
      for (std::int64_t head = 0; head < shape.heads; ++head) {
        InputRow& row = shown.rows.emplace_back(InputRow{token, head, {}});
        if (tensor.format == Stored::blocks) {
          const auto blocks = inputs.selection.row(token, head);
          row.values.assign(blocks.begin(), blocks.end());
        } else {
          row.values.assign(input->at(token, head), input->at(token, head) + input->dim);
        }
      }
    if (shape.tokens * shape.heads * shape.dim == 0) all.pop_back();
  }
  return all;
}

}  // namespace attnspec::fuzz
