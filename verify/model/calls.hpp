// Calls as the model kernel's stages read them: one struct for each kind of operator.
#pragma once

#include "reference/problem.hpp"
#include "verify/operators/any_call.hpp"
#include "verify/operators/phi.hpp"

namespace attnspec::verify::model {

/// One call of an operator that attends or selects, but for `nsa` and those with an indexer. problem.block, top_k and
/// gate have no meaning for `dense`. The operators of NSA read `nsa`, the others `problem`.
struct ForwardCall {
  Operator op;
  const reference::MobaProblem& problem;
  const reference::NsaProblem& nsa;
  TensorView q, k, v;       // no v for moba_select
  SelectionView selection;  // read by `selected`, written by `moba`, `moba_select` and, per kv head, `nsa_compressed`
  TensorView o, lse;        // written
};

/// The backward reads what the forward was given and what it gave.
struct BackwardCall {
  ForwardCall forward;  // its o, lse and selection are read
  TensorView d_o;
  TensorView dq, dk, dv;  // written
};

/// One call of a selector with an indexer.
struct IndexCall {
  Operator op;
  const reference::MobaProblem& problem;
  const reference::NsaProblem& nsa;
  TensorView q, k;          // of the indexer
  TensorView w;             // weights of the index heads; absent where they have none
  SelectionView selection;  // written
};

/// One call of `nsa_compress`: rows = phi(blocks of tokens), for every sequence one after the other.
struct CompressCall {
  const reference::NsaProblem& nsa;
  TensorView tokens;
  PhiTensors<TensorView> phi;
  TensorView rows;  // written
};

struct CompressBackwardCall {
  CompressCall forward;  // its rows are not read
  TensorView d_rows;
  TensorView d_tokens;           // written
  PhiTensors<TensorView> d_phi;  // written
};

/// The inputs of one branch of NSA, and its outputs before the gate.
struct BranchCall {
  TensorView k, v;    // several branches may share theirs
  TensorView o, lse;  // written
};

/// One call of `nsa`, the whole of it.
struct NsaCall {
  const reference::NsaProblem& nsa;
  TensorView q;
  BranchCall compressed, selected, window;
  TensorView gates;
  PhiTensors<TensorView> phi_k, phi_v;
  TensorView k_compressed, v_compressed;  // written
  SelectionView selection;                // written: per kv head
  TensorView o;                           // written
};

struct BranchGradientViews {
  TensorView dk, dv;  // written: of the branch's own k and v
};

/// The backward reads what the forward was given and what it gave, but for o.
struct NsaBackwardCall {
  NsaCall forward;
  TensorView d_o;
  TensorView dq;  // written: summed over the branches
  BranchGradientViews compressed, selected, window;
  TensorView d_gates;                       // written
  TensorView dk_compressed, dv_compressed;  // written: of the compressed rows
  PhiTensors<TensorView> d_phi_k, d_phi_v;  // written
};

/// The call as one of these structs. It must be of that kind and direction.
ForwardCall attention_call(const AnyCall& call);
IndexCall index_call(const AnyCall& call);
BackwardCall attention_backward_call(const AnyCall& call);
CompressCall compress_call(const AnyCall& call);
CompressBackwardCall compress_backward_call(const AnyCall& call);
NsaCall nsa_call(const AnyCall& call);
NsaBackwardCall nsa_backward_call(const AnyCall& call);

}  // namespace attnspec::verify::model
