#include "verify/run/calls/calls.hpp"

#include "verify/run/calls/attention_calls.hpp"
#include "verify/run/calls/compression_calls.hpp"
#include "verify/run/calls/nsa_calls.hpp"

namespace attnspec::verify {

namespace {

/// Head by head in every other case with gaps.
RowOrder row_order(const Case& c) {
  return c.layout == Layout::strided && c.seed % 2 == 1 ? RowOrder::by_head : RowOrder::by_token;
}

}  // namespace

Calls::Calls(const Kernel& kernel, const Case& c)
    : kernel_(kernel),
      case_(c),
      output_format_(make_arithmetic(c.dtype, kernel.arithmetic).output),
      workspace_bytes_(kernel.workspace_bytes ? kernel.workspace_bytes(c) : 0),
      workspace_(Format::fp32, Layout::contiguous, 1, 1, (workspace_bytes_ + 3) / 4, kernel.memory),
      given_(c.layout, row_order(c), kernel.memory) {}

void Calls::run(const std::vector<NamedTensor>& inputs, const std::vector<NamedTensor>& outputs,
                const reference::Selection& selection, SelectionUse use, EqualBits promise,
                const std::function<void()>& call, CaseResult& result) {
  const bool repeats = promise >= EqualBits::same_call;
  for (const auto& [verdict, tensor, what] :
       run_guarded({inputs, outputs, selection, use, given_, workspace_, case_.seed, repeats, call}))
    result.add({.verdict = verdict, .output = tensor, .detail = what});
}

std::span<std::byte> Calls::workspace() {
  return {static_cast<std::byte*>(workspace_.view().data), static_cast<std::size_t>(workspace_bytes_)};
}

HostTensor Calls::input(const reference::Tensor& values) const {
  return {case_.dtype, case_.layout, values, kernel_.memory};
}
PhiTensors<HostTensor> Calls::input(const PhiTensors<reference::Tensor>& values) const {
  return map_parts(values, [this](const reference::Tensor& tensor) { return input(tensor); });
}
HostTensor Calls::output(std::int64_t tokens, std::int64_t heads, std::int64_t dim) const {
  return blank(output_format_, tokens, heads, dim);
}
PhiTensors<HostTensor> Calls::output_like(const PhiTensors<reference::Tensor>& values) const {
  return map_parts(values,
                   [this](const reference::Tensor& tensor) { return output(tensor.tokens, tensor.heads, tensor.dim); });
}
HostTensor Calls::compressed(std::int64_t tokens, std::int64_t heads, std::int64_t dim) const {
  return blank(case_.dtype, tokens, heads, dim);
}
HostTensor Calls::statistics(std::int64_t tokens, std::int64_t heads) const {
  return blank(Format::fp32, tokens, heads, 1);
}
HostTensor Calls::blank(Format format, std::int64_t tokens, std::int64_t heads, std::int64_t dim) const {
  return {format, case_.layout, tokens, heads, dim, kernel_.memory};
}

std::unique_ptr<Calls> make_calls(const Kernel& kernel, const Case& c, const Inputs& inputs) {
  if (c.op == Operator::nsa_compress) return std::make_unique<CompressionCalls>(kernel, c, inputs);
  if (c.op == Operator::nsa) return std::make_unique<NsaCalls>(kernel, c, inputs);
  return std::make_unique<AttentionCalls>(kernel, c, inputs);
}

}  // namespace attnspec::verify
