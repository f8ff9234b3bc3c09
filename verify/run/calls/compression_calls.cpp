#include "verify/run/calls/compression_calls.hpp"

#include "verify/run/calls/phi_memory.hpp"

namespace attnspec::verify {

CompressionCalls::CompressionCalls(const Kernel& kernel, const Case& c, const Inputs& in)
    : Calls(kernel, c),
      problem_(nsa_problem_of(c)),
      tokens_(input(in.k)),
      d_rows_(input(in.d_o)),
      phi_(input(in.phi_k)),
      rows(compressed(in.d_o.tokens, c.kv_heads, c.dk)),
      d_tokens(output(in.k.tokens, c.kv_heads, c.dk)),
      d_phi(output_like(in.phi_k)) {}

void CompressionCalls::forward(CaseResult& result) {
  run(
      inputs(), forward_outputs(), {}, SelectionUse::ignored, kernel_.equal_bits, [&] { kernel_.compress(call()); },
      result);
}

void CompressionCalls::backward(const reference::Selection&, CaseResult& result) {
  std::vector<NamedTensor> read = inputs();
  read.push_back({"d_rows", d_rows_});
  run(
      read, backward_outputs(), {}, SelectionUse::ignored, kernel_.equal_bits_backward,
      [&] {
        kernel_.compress_backward({call(), d_rows_.view(), d_tokens.view(), views(d_phi)});
      },
      result);
}

std::vector<NamedTensor> CompressionCalls::backward_outputs() {
  const CompressionNames names;
  std::vector<NamedTensor> list{{names.d_tokens, d_tokens, RowsOf::keys}};
  append_parts(list, names.d_phi, d_phi);
  return list;
}

std::vector<NamedTensor> CompressionCalls::inputs() {
  std::vector<NamedTensor> list{{"tokens", tokens_}};
  append_parts(list, "phi", phi_);
  return list;
}

CompressCall CompressionCalls::call() { return {problem_, tokens_.view(), views(phi_), rows.view(), workspace()}; }

}  // namespace attnspec::verify
