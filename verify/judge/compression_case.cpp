#include "verify/judge/cases.hpp"
#include "verify/judge/compression.hpp"
#include "verify/judge/phi_memory.hpp"
#include "verify/judge/runner.hpp"
#include "verify/regimes.hpp"

namespace attnspec::verify {

void judge_compression(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result) {
  const reference::NsaProblem problem = nsa_problem_of(c);
  const reference::Profile profile = make_profile(c.dtype, kernel.departures);
  const Inputs in = make_inputs(c);
  Runner runner(kernel, c);
  HostTensor tokens(c.dtype, c.layout, in.k), d_rows(c.dtype, c.layout, in.d_o);
  HostTensor rows(c.dtype, c.layout, in.d_o.tokens, c.kv_heads, c.dk);
  HostTensor d_tokens(profile.output, c.layout, in.k.tokens, c.kv_heads, c.dk);
  PhiTensors<HostTensor> phi = host_parameters(c.dtype, c.layout, in.phi_k);
  PhiTensors<HostTensor> d_phi = host_parameters(profile.output, c.layout, in.phi_k);
  const auto call = [&] { return CompressCall{problem, tokens.view(), views(phi), rows.view(), runner.workspace()}; };

  std::vector<NamedTensor> inputs{{"tokens", tokens}};
  append_parts(inputs, "phi.", phi);
  runner.run(
      inputs, {{"rows", rows}}, {}, SelectionUse::ignored, [&] { kernel.compress(call()); }, result);
  const CompressionStage stage{"", problem, in.k, phi_heads(in.phi_k)};
  judge_compressed_rows(profile, stage, rows.view(), observe, result);
  if (!kernel.compress_backward) return;

  inputs.push_back({"drows", d_rows});
  std::vector<NamedTensor> outputs{{"dtokens", d_tokens}};
  append_parts(outputs, "d", d_phi);
  runner.run(
      inputs, outputs, {}, SelectionUse::ignored,
      [&] {
        kernel.compress_backward({call(), d_rows.view(), d_tokens.view(), views(d_phi)});
      },
      result);
  judge_compression_gradients(profile, stage, in.d_o, d_tokens.view(), views(d_phi), observe, result);
}

}  // namespace attnspec::verify
