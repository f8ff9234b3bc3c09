// NSA: native sparse attention (DeepSeek, "Native Sparse Attention: Hardware-Aligned and Natively Trainable Sparse
// Attention", 2025), the whole of it: three branches, gated.
//
// Letters: cmp, slc, win the compressed, selected and window branches; K~ V~ compressed rows; g gate.
#pragma once

#include "reference/nsa/nsa_compression.hpp"
#include "reference/nsa/nsa_gates.hpp"
#include "reference/nsa/nsa_selection.hpp"
#include "reference/nsa/nsa_window.hpp"

namespace attnspec::reference {

/// The keys and values of one branch.
struct KeysAndValues {
  const Tensor& k;  // [key tokens, Hkv, dk]
  const Tensor& v;  // [key tokens, Hkv, dv]
};

/// What NSA reads. The paper gives every branch keys and values of its own; the same tensors may be given to several.
struct NsaInputs {
  const Tensor& q;  // [query tokens, H, dk]
  KeysAndValues compressed, selected, window;
  const Tensor& gates;  // [query tokens, H, 3], after the sigmoid
  const PhiHeads& phi_k;
  const PhiHeads& phi_v;
};

/// What the forward gives, and the backward takes.
struct NsaOutputs {
  Tensor o;                     // [query tokens, H, dv]
  Tensor k_compressed;          // K~ [compressed rows, Hkv, dk]
  Tensor v_compressed;          // V~ [compressed rows, Hkv, dv]
  Selection selection;          // [query tokens, Hkv, slots]
  AttentionOutputs compressed;  // each branch before its gate
  AttentionOutputs selected;
  AttentionOutputs window;
};

/// NSA forward: C8, C10, I7, M7 on that selection, W3, and N2 over them. Equation N3.
NsaOutputs nsa(const NsaProblem& problem, const NsaInputs& in);

/// Gradients with respect to the keys and values of one branch, or of all that share them.
struct KeyValueGradients {
  Tensor dk;  // [key tokens, Hkv, dk]
  Tensor dv;  // [key tokens, Hkv, dv]
};

struct NsaGradients {
  Tensor dq;  // [query tokens, H, dk], summed over the branches
  KeyValueGradients compressed, selected, window;
  Tensor d_gates;        // [query tokens, H, 3]
  Tensor dk_compressed;  // of K~
  Tensor dv_compressed;  // of V~
  PhiHeads d_phi_k;      // as the parameters
  PhiHeads d_phi_v;
};

/// NSA backward: N4, N5, the backward of each branch from the o, lse and selection that `outputs` holds, C15 from the
/// gradients of K~ and V~, and dq summed over the branches. Nothing flows through the selection. Equation N7.
///
/// d_o [query tokens, H, dv]; outputs: what the forward gave, whose o is not read.
NsaGradients nsa_backward(const NsaProblem& problem, const NsaInputs& in, const Tensor& d_o, const NsaOutputs& outputs);

/// dk and dv where all three branches were given the same keys and values: the sum over the branches. Equation N8.
KeyValueGradients shared_gradients(const NsaGradients& gradients);

}  // namespace attnspec::reference
