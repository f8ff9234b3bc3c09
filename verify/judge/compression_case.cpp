#include "verify/judge/cases.hpp"
#include "verify/judge/compression.hpp"
#include "verify/run/calls/compression_calls.hpp"
#include "verify/run/calls/phi_memory.hpp"

namespace attnspec::verify {

void judge_compression(const Kernel& kernel, const Case& c, const Inputs& in, const RowObserver& observe,
                       CaseResult& result) {
  const reference::Arithmetic arithmetic = make_arithmetic(c.dtype, kernel.arithmetic);
  const CompressionStage stage{{}, nsa_problem_of(c), in.k, phi_heads(in.phi_k)};
  CompressionCalls calls(kernel, c, in);
  calls.forward(result);
  judge_compressed_rows(arithmetic, stage, calls.rows.view(), observe, result);
  if (!calls.has_backward()) return;
  calls.backward({}, result);
  judge_compression_gradients(arithmetic, stage, in.d_o, calls.d_tokens.view(), views(calls.d_phi), observe, result);
}

}  // namespace attnspec::verify
