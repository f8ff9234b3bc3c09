#include "verify/judge/cases.hpp"
#include "verify/judge/compression.hpp"
#include "verify/run/calls/calls.hpp"

namespace attnspec::verify {

void judge_compression(const Kernel& kernel, const Case& c, const Inputs& in, const RowObserver& observe,
                       CaseResult& result) {
  const reference::Arithmetic arithmetic = make_arithmetic(c.dtype, kernel.arithmetic);
  const CompressionStage stage{{}, nsa_problem_of(c), in.k, phi_heads(in.phi_k)};
  Calls calls(kernel, c, in);
  result.add(calls.forward());
  judge_compressed_rows(arithmetic, stage, calls.view("rows"), observe, result);
  if (!calls.has_backward()) return;
  result.add(calls.backward({}));
  judge_compression_gradients(arithmetic, stage, in.d_o, calls.view("d_tokens"), calls.phi("d_phi"), observe, result);
}

}  // namespace attnspec::verify
