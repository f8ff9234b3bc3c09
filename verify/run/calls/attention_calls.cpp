#include "verify/run/calls/attention_calls.hpp"

#include "reference/moba/moba.hpp"
#include "reference/nsa/nsa_selection.hpp"

namespace attnspec::verify {

using reference::Selection;

AttentionCalls::AttentionCalls(const Kernel& kernel, const Case& c, const Inputs& in)
    : Calls(kernel, c),
      problem_(problem_of(c)),
      nsa_(nsa_problem_of(c)),
      given_(in.selection),
      q_(input(in.q)),
      k_(input(in.k)),
      v_(input(in.v)),
      d_o_(input(in.d_o)),
      o(output(in.q.tokens, c.heads, c.dv)),
      lse(statistics(in.q.tokens, c.heads)),
      dq(output(in.q.tokens, c.heads, c.dk)),
      dk(output(in.k.tokens, c.kv_heads, c.dk)),
      dv(output(in.k.tokens, c.kv_heads, c.dv)) {}

void AttentionCalls::forward(CaseResult& result) {
  const std::int64_t queries = problem_.attention.q_offsets.back();
  Selection selection;
  SelectionUse use = SelectionUse::ignored;
  if (case_.op == Operator::selected) {
    selection = given_;
    use = SelectionUse::read;
  } else if (case_.op == Operator::nsa_compressed) {
    selection = Selection(queries, case_.kv_heads, reference::selection_slots(nsa_));
    use = SelectionUse::written;
  } else if (selects(case_.op)) {
    selection = Selection(queries, case_.heads, reference::selection_slots(problem_));
    if (kernel_.exports_selection) use = SelectionUse::written;
  }
  run(
      inputs(), forward_outputs(), selection, use, kernel_.equal_bits, [&] { kernel_.forward(call(true)); }, result);
}

void AttentionCalls::backward(const Selection& selection, CaseResult& result) {
  std::vector<NamedTensor> read = inputs();
  read.insert(read.end(), {{"d_o", d_o_}, {"o", o}});
  if (kernel_.exports_lse) read.push_back({"lse", lse});
  run(
      read, backward_outputs(), selection, SelectionUse::read, kernel_.equal_bits_backward,
      [&] {
        kernel_.backward({call(false), d_o_.view(), dq.view(), dk.view(), dv.view()});
      },
      result);
}

std::vector<NamedTensor> AttentionCalls::forward_outputs() {
  if (!attends(case_.op)) return {};
  if (!kernel_.exports_lse) return {{"o", o}};
  return {{"o", o}, {"lse", lse}};
}

std::vector<NamedTensor> AttentionCalls::backward_outputs() {
  const RowsOf keys = case_.op == Operator::nsa_compressed ? RowsOf::compressed_rows : RowsOf::keys;
  return {{"dq", dq}, {"dk", dk, keys}, {"dv", dv, keys}};
}

std::vector<NamedTensor> AttentionCalls::inputs() {
  if (!attends(case_.op)) return {{"q", q_}, {"k", k_}};
  return {{"q", q_}, {"k", k_}, {"v", v_}};
}

ForwardCall AttentionCalls::call(bool is_forward) {
  ForwardCall call{case_.op, problem_, nsa_, q_.view(), k_.view(), {}, {}, {}, {}, workspace()};
  if (case_.op == Operator::selected || selects(case_.op) || (case_.op == Operator::nsa_compressed && is_forward))
    call.selection = selection();
  if (attends(case_.op)) {
    call.v = v_.view();
    call.o = o.view();
    call.lse = kernel_.exports_lse ? lse.view() : absent_tensor(Format::fp32);
  }
  return call;
}

}  // namespace attnspec::verify
