#include "reference/nsa/nsa.hpp"

#include <cstddef>
#include <utility>

namespace attnspec::reference {

namespace {

Tensor sum(Tensor a, const Tensor& b, const Tensor& c) {
  for (std::size_t n = 0; n < a.values.size(); ++n) a.values[n] += b.values[n] + c.values[n];
  return a;
}

}  // namespace

NsaOutputs nsa(const NsaProblem& problem, const NsaInputs& in) {
  NsaOutputs out;
  out.k_compressed = compress(problem, in.phi_k, in.compressed.k);
  out.v_compressed = compress(problem, in.phi_v, in.compressed.v);
  out.compressed = compressed(problem, {in.q, out.k_compressed, out.v_compressed});
  out.selection = nsa_select(problem, in.q, out.k_compressed);
  out.selected = selected(problem.attention, problem.block, {in.q, in.selected.k, in.selected.v}, out.selection);
  out.window = window(problem, {in.q, in.window.k, in.window.v});
  out.o = combine(in.gates, out.compressed.o, out.selected.o, out.window.o);
  return out;
}

NsaGradients nsa_backward(const NsaProblem& problem, const NsaInputs& in, const Tensor& d_o,
                          const NsaOutputs& outputs) {
  const auto of_branch = [&](Branch branch) { return branch_gradient(in.gates, d_o, branch); };
  AttentionGradients cmp = compressed_backward(problem, {in.q, outputs.k_compressed, outputs.v_compressed},
                                               of_branch(Branch::compressed), outputs.compressed);
  AttentionGradients slc = selected_backward(problem.attention, problem.block, {in.q, in.selected.k, in.selected.v},
                                             outputs.selection, of_branch(Branch::selected), outputs.selected);
  AttentionGradients win =
      window_backward(problem, {in.q, in.window.k, in.window.v}, of_branch(Branch::window), outputs.window);
  CompressionGradients k = compress_backward(problem, in.phi_k, in.compressed.k, cmp.dk);
  CompressionGradients v = compress_backward(problem, in.phi_v, in.compressed.v, cmp.dv);
  NsaGradients gradients;
  gradients.dq = sum(std::move(cmp.dq), slc.dq, win.dq);
  gradients.compressed = {std::move(k.tokens), std::move(v.tokens)};
  gradients.selected = {std::move(slc.dk), std::move(slc.dv)};
  gradients.window = {std::move(win.dk), std::move(win.dv)};
  gradients.d_gates = gate_gradients(d_o, outputs.compressed.o, outputs.selected.o, outputs.window.o);
  gradients.dk_compressed = std::move(cmp.dk);
  gradients.dv_compressed = std::move(cmp.dv);
  gradients.d_phi_k = std::move(k.phi);
  gradients.d_phi_v = std::move(v.phi);
  return gradients;
}

KeyValueGradients shared_gradients(const NsaGradients& gradients) {
  const KeyValueGradients &cmp = gradients.compressed, &slc = gradients.selected, &win = gradients.window;
  return {sum(cmp.dk, slc.dk, win.dk), sum(cmp.dv, slc.dv, win.dv)};
}

}  // namespace attnspec::reference
