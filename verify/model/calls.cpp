#include "verify/model/calls.hpp"

#include <string>

#include "verify/operators/operator.hpp"

namespace attnspec::verify::model {

namespace {

/// Absent where the operator does not have it.
TensorView if_any(const AnyCall& call, const char* tensor) {
  return find_tensor(call.op, tensor) == nullptr ? TensorView{} : call[tensor];
}

/// What holds these inputs, whatever the operator calls it; absent where it has none.
TensorView holding(const AnyCall& call, reference::Tensor Inputs::*inputs) {
  for (const TensorInfo& tensor : page_of(call.op).tensors)
    if (tensor.role == Role::input && tensor.input == inputs) return call[tensor.name];
  return {};
}

PhiTensors<TensorView> phi(const AnyCall& call, const std::string& field) {
  PhiTensors<TensorView> tensors;
  for (const auto& [name, part] : kPhiParts<TensorView>) tensors.*part = call[field + "." + name];
  return tensors;
}

BranchCall branch(const AnyCall& call, const std::string& name) {
  return {call[name + ".k"], call[name + ".v"], call[name + ".o"], call[name + ".lse"]};
}

BranchGradientViews branch_gradients(const AnyCall& call, const std::string& name) {
  return {call[name + ".dk"], call[name + ".dv"]};
}

}  // namespace

ForwardCall attention_call(const AnyCall& call) {
  return {call.op,
          call.problem,
          call.nsa,
          holding(call, &Inputs::q),
          holding(call, &Inputs::k),
          holding(call, &Inputs::v),
          call.selection,
          if_any(call, "o"),
          if_any(call, "lse")};
}

IndexCall index_call(const AnyCall& call) {
  return {call.op,
          call.problem,
          call.nsa,
          holding(call, &Inputs::q),
          holding(call, &Inputs::k),
          holding(call, &Inputs::w),
          call.selection};
}

BackwardCall attention_backward_call(const AnyCall& call) {
  return {attention_call(call), call["d_o"], call["dq"], call["dk"], call["dv"]};
}

CompressCall compress_call(const AnyCall& call) { return {call.nsa, call["tokens"], phi(call, "phi"), call["rows"]}; }

CompressBackwardCall compress_backward_call(const AnyCall& call) {
  return {compress_call(call), call["d_rows"], call["d_tokens"], phi(call, "d_phi")};
}

NsaCall nsa_call(const AnyCall& call) {
  return {
      call.nsa,       call["q"],          branch(call, "compressed"), branch(call, "selected"), branch(call, "window"),
      call["gates"],  phi(call, "phi_k"), phi(call, "phi_v"),         call["k_compressed"],     call["v_compressed"],
      call.selection, call["o"]};
}

NsaBackwardCall nsa_backward_call(const AnyCall& call) {
  return {nsa_call(call),
          call["d_o"],
          call["dq"],
          branch_gradients(call, "d_compressed"),
          branch_gradients(call, "d_selected"),
          branch_gradients(call, "d_window"),
          call["d_gates"],
          call["dk_compressed"],
          call["dv_compressed"],
          phi(call, "d_phi_k"),
          phi(call, "d_phi_v")};
}

}  // namespace attnspec::verify::model
