// Regimes: what kind of numbers a case's tensors hold, and which mistake each kind provokes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "reference/selected.hpp"
#include "reference/tensor.hpp"
#include "verify/cases/case.hpp"
#include "verify/operators/phi.hpp"

namespace attnspec::verify {

/// The tensors of a case: doubles that are exact in its dtype.
struct Inputs {
  reference::Tensor q;             // [query tokens, H, dk]; no rows for nsa_compress
  reference::Tensor k;             // [rows of k, Hkv, dk]: the tokens of nsa_compress, the compressed branch of nsa
  reference::Tensor v;             // [rows of k, Hkv, dv]
  reference::Tensor d_o;           // [query tokens, H, dv]; for nsa_compress [compressed rows, Hkv, dk]
  reference::Selection selection;  // of `selected`: [query tokens, H or Hkv, top_k]
  PhiTensors<reference::Tensor> phi_k;                           // of nsa_compress and nsa
  PhiTensors<reference::Tensor> phi_v;                           // of nsa
  reference::Tensor k_selected, v_selected, k_window, v_window;  // of nsa, as k and v
  reference::Tensor gates;                                       // of nsa: [query tokens, H, 3]
  reference::Tensor w;                                           // of dsa_select: [query tokens, 1, H], fp32
};

/// Inputs are a pure function of the case. Throws std::runtime_error when a captured file cannot be read.
Inputs make_inputs(const Case& c);

struct Regime {
  const char* name;
  const char* mistake;  // one sentence: what it is and the mistake it provokes
  void (*fill)(const Case& c, Inputs& inputs);
  bool exact_scores = false;      // every gate score is exact in fp32, so that selections have no margin
  bool (*has)(Operator) = any;    // whose mistakes it provokes
  bool zero_mean_values = false;  // values have mean zero and scores differ, so that noise has no direction
  bool any_gates = false;         // of nsa: gates that no sigmoid makes, such as -1, 3 and 100

  static bool any(Operator) { return true; }
};

const std::vector<Regime>& regimes();

/// The regime of a case; captured:NAME is the regime `captured`. Throws as validate_regime does.
const Regime& regime_of(const Case& c);

/// Whether the case's selections have no margin, and whether its noise has no direction: as its regime says, unless
/// some tensors hold plain numbers.
bool has_exact_scores(const Case& c);
bool has_zero_mean_values(const Case& c);

/// Throws reference::InvalidProblem for a regime that is unknown, or a captured one that the case does not fit.
void validate_regime(const Case& c);

}  // namespace attnspec::verify
