#include "verify/run/calls/nsa_calls.hpp"

#include "reference/nsa/nsa_compression.hpp"
#include "reference/nsa/nsa_selection.hpp"
#include "verify/run/calls/phi_memory.hpp"

namespace attnspec::verify {

using reference::Branch;
using reference::Selection;

NsaCalls::NsaCalls(const Kernel& kernel, const Case& c, const Inputs& in)
    : Calls(kernel, c),
      problem_(nsa_problem_of(c)),
      queries_(in.q.tokens),
      tokens_(in.k.tokens),
      compressed_rows_(reference::compressed_offsets(problem_).back()),
      q_(input(in.q)),
      gates_(input(in.gates)),
      d_o_(input(in.d_o)),
      k_(input(in.k)),
      v_(input(in.v)),
      k_selected_(input(in.k_selected)),
      v_selected_(input(in.v_selected)),
      k_window_(input(in.k_window)),
      v_window_(input(in.v_window)),
      phi_k_(input(in.phi_k)),
      phi_v_(input(in.phi_v)),
      k_compressed(compressed(compressed_rows_, c.kv_heads, c.dk)),
      v_compressed(compressed(compressed_rows_, c.kv_heads, c.dv)),
      o(output(queries_, c.heads, c.dv)),
      branches{branch(k_, v_), branch(c.shared_kv ? k_ : k_selected_, c.shared_kv ? v_ : v_selected_),
               branch(c.shared_kv ? k_ : k_window_, c.shared_kv ? v_ : v_window_)},
      dq(output(queries_, c.heads, c.dk)),
      d_gates(output(queries_, c.heads, 3)),
      dk_compressed(output(compressed_rows_, c.kv_heads, c.dk)),
      dv_compressed(output(compressed_rows_, c.kv_heads, c.dv)),
      d_phi_k(output_like(in.phi_k)),
      d_phi_v(output_like(in.phi_v)) {}

void NsaCalls::forward(CaseResult& result) {
  const Selection blank(queries_, case_.kv_heads, reference::selection_slots(problem_));
  run(
      inputs(), forward_outputs(), blank, SelectionUse::written, kernel_.equal_bits, [&] { kernel_.nsa(call()); },
      result);
}

void NsaCalls::backward(const Selection& selection, CaseResult& result) {
  std::vector<NamedTensor> read = inputs();
  read.push_back({"d_o", d_o_});
  for (const NamedTensor& tensor : kept()) read.push_back(tensor);
  run(
      read, backward_outputs(), selection, SelectionUse::read, kernel_.equal_bits_backward,
      [&] {
        NsaCall forward = call();
        forward.o = {};
        kernel_.nsa_backward({forward, d_o_.view(), dq.view(), branches[0].gradients(), branches[1].gradients(),
                              branches[2].gradients(), d_gates.view(), dk_compressed.view(), dv_compressed.view(),
                              views(d_phi_k), views(d_phi_v)});
      },
      result);
}

std::vector<NamedTensor> NsaCalls::forward_outputs() {
  std::vector<NamedTensor> list = kept();
  list.push_back({"o", o});
  return list;
}

std::vector<NamedTensor> NsaCalls::backward_outputs() {
  const AttentionNames compressed = names_of(kBranches[0]);
  const CompressionNames keys = names_of_keys(), values = names_of_values();
  std::vector<NamedTensor> list{{"dq", dq},
                                {"d_gates", d_gates},
                                {compressed.dk, dk_compressed, RowsOf::compressed_rows},
                                {compressed.dv, dv_compressed, RowsOf::compressed_rows},
                                {keys.d_tokens, branches[0].dk, RowsOf::keys},
                                {values.d_tokens, branches[0].dv, RowsOf::keys}};
  for (const Branch branch : {Branch::selected, Branch::window}) {
    const AttentionNames names = names_of(branch);
    list.push_back({names.dk, of(branches, branch).dk, RowsOf::keys});
    list.push_back({names.dv, of(branches, branch).dv, RowsOf::keys});
  }
  append_parts(list, keys.d_phi, d_phi_k);
  append_parts(list, values.d_phi, d_phi_v);
  return list;
}

BranchTensors NsaCalls::branch(HostTensor& k, HostTensor& v) const {
  return {k,
          v,
          output(queries_, case_.heads, case_.dv),
          statistics(queries_, case_.heads),
          output(tokens_, case_.kv_heads, case_.dk),
          output(tokens_, case_.kv_heads, case_.dv)};
}

std::vector<NamedTensor> NsaCalls::inputs() {
  std::vector<NamedTensor> list{{"q", q_}, {"gates", gates_}, {"compressed.k", k_}, {"compressed.v", v_}};
  if (!case_.shared_kv)
    list.insert(
        list.end(),
        {{"selected.k", k_selected_}, {"selected.v", v_selected_}, {"window.k", k_window_}, {"window.v", v_window_}});
  append_parts(list, "phi_k", phi_k_);
  append_parts(list, "phi_v", phi_v_);
  return list;
}

std::vector<NamedTensor> NsaCalls::kept() {
  std::vector<NamedTensor> list{{names_of_keys().rows, k_compressed, RowsOf::compressed_rows},
                                {names_of_values().rows, v_compressed, RowsOf::compressed_rows}};
  for (const Branch branch : kBranches) {
    list.push_back({names_of(branch).o, of(branches, branch).o});
    if (kernel_.exports_lse) list.push_back({names_of(branch).lse, of(branches, branch).lse});
  }
  return list;
}

NsaCall NsaCalls::call() {
  return {problem_,
          q_.view(),
          branches[0].call(kernel_.exports_lse),
          branches[1].call(kernel_.exports_lse),
          branches[2].call(kernel_.exports_lse),
          gates_.view(),
          views(phi_k_),
          views(phi_v_),
          k_compressed.view(),
          v_compressed.view(),
          selection(),
          o.view(),
          workspace()};
}

}  // namespace attnspec::verify
