// nsa: the whole of native sparse attention. Its parts are outputs too, for the backward and for the judge.
#pragma once

#include "reference/nsa/nsa_selection.hpp"
#include "verify/operators/parts.hpp"

namespace attnspec::verify {

/// k and v of a branch.
inline std::vector<TensorInfo> branch_inputs(const std::string& branch, std::size_t offset,
                                             reference::Tensor Inputs::*k, reference::Tensor Inputs::*v,
                                             reference::Branch of) {
  return {{.name = branch + ".k",
           .rows = RowsOf::keys,
           .heads = Heads::kv,
           .offset = offset + offsetof(AttnspecBranch, k),
           .input = k,
           .branch = of},
          {.name = branch + ".v",
           .rows = RowsOf::keys,
           .heads = Heads::kv,
           .dim = Dim::dv,
           .offset = offset + offsetof(AttnspecBranch, v),
           .input = v,
           .branch = of}};
}

/// What a branch gives before its gate.
inline std::vector<TensorInfo> branch_outputs(const std::string& branch, std::size_t offset, reference::Branch of) {
  return {{.name = branch + ".o",
           .role = Role::output,
           .dim = Dim::dv,
           .format = Stored::as_output,
           .offset = offset + offsetof(AttnspecBranch, o),
           .degrees = {.v = 1},
           .branch = of,
           .follows_from_stored = of == reference::Branch::compressed},
          {.name = branch + ".lse",
           .role = Role::output,
           .dim = Dim::one,
           .format = Stored::fp32,
           .offset = offset + offsetof(AttnspecBranch, lse),
           .branch = of,
           .follows_from_stored = of == reference::Branch::compressed}};
}

/// A gradient of a row of keys or values. base: its name, offset and where it belongs.
inline TensorInfo gradient_of_keys(TensorInfo base) {
  base.role = Role::gradient;
  base.heads = Heads::kv;
  base.format = Stored::as_output;
  base.degrees = base.dim == Dim::dv ? Degrees{.gradient = 1} : Degrees{.q = 1, .v = 1, .gradient = 1};
  base.follows_from_stored = true;
  return base;
}

/// Gradients of a branch's own k and v.
inline std::vector<TensorInfo> branch_gradients(const std::string& branch, std::size_t offset,
                                                reference::Tensor Inputs::*k, reference::Tensor Inputs::*v,
                                                reference::Branch of) {
  return {gradient_of_keys({.name = "d_" + branch + ".dk",
                            .rows = RowsOf::keys,
                            .offset = offset + offsetof(AttnspecBranchGradients, dk),
                            .input = k,
                            .branch = of}),
          gradient_of_keys({.name = "d_" + branch + ".dv",
                            .rows = RowsOf::keys,
                            .dim = Dim::dv,
                            .offset = offset + offsetof(AttnspecBranchGradients, dv),
                            .input = v,
                            .branch = of})};
}

inline std::vector<TensorInfo> nsa_inputs() {
  using reference::Branch;
  return tensors(
      {{q_tensor<AttnspecNsa>(),
        {.name = "gates", .dim = Dim::branches, .offset = offsetof(AttnspecNsa, gates), .input = &Inputs::gates}},
       branch_inputs("compressed", offsetof(AttnspecNsa, compressed), &Inputs::k, &Inputs::v, Branch::compressed),
       branch_inputs("selected", offsetof(AttnspecNsa, selected), &Inputs::k_selected, &Inputs::v_selected,
                     Branch::selected),
       branch_inputs("window", offsetof(AttnspecNsa, window), &Inputs::k_window, &Inputs::v_window, Branch::window),
       phi_tensors("phi_k", {.offset = offsetof(AttnspecNsa, phi_k), .phi = &Inputs::phi_k}),
       phi_tensors("phi_v", {.dim = Dim::dv, .offset = offsetof(AttnspecNsa, phi_v), .phi = &Inputs::phi_v})});
}

inline std::vector<TensorInfo> nsa_outputs() {
  using reference::Branch;
  return tensors({{{.name = "k_compressed",
                    .role = Role::output,
                    .rows = RowsOf::compressed_rows,
                    .heads = Heads::kv,
                    .offset = offsetof(AttnspecNsa, k_compressed),
                    .degrees = {.k = 1},
                    .branch = Branch::compressed},
                   {.name = "v_compressed",
                    .role = Role::output,
                    .rows = RowsOf::compressed_rows,
                    .heads = Heads::kv,
                    .dim = Dim::dv,
                    .offset = offsetof(AttnspecNsa, v_compressed),
                    .degrees = {.v = 1},
                    .branch = Branch::compressed}},
                  branch_outputs("compressed", offsetof(AttnspecNsa, compressed), Branch::compressed),
                  branch_outputs("selected", offsetof(AttnspecNsa, selected), Branch::selected),
                  branch_outputs("window", offsetof(AttnspecNsa, window), Branch::window),
                  {written_selection(offsetof(AttnspecNsa, selection), Heads::kv),
                   {.name = "o",
                    .role = Role::output,
                    .dim = Dim::dv,
                    .format = Stored::as_output,
                    .offset = offsetof(AttnspecNsa, o),
                    .degrees = {.v = 1},
                    .in_backward = InBackward::absent,
                    .follows_from_stored = true}}});
}

inline std::vector<TensorInfo> nsa_gradients() {
  using reference::Branch;
  const auto of_phi = [](std::size_t offset, PhiTensors<reference::Tensor> Inputs::*phi, Dim dim) {
    TensorInfo base = gradient_of_keys({.dim = dim, .offset = offset, .phi = phi, .branch = Branch::compressed});
    return base;
  };
  return tensors({{{.name = "d_o",
                    .role = Role::given_gradient,
                    .dim = Dim::dv,
                    .offset = offsetof(AttnspecNsaBackward, d_o),
                    .input = &Inputs::d_o},
                   {.name = "dq",
                    .role = Role::gradient,
                    .format = Stored::as_output,
                    .offset = offsetof(AttnspecNsaBackward, dq),
                    .input = &Inputs::q,
                    .degrees = {.k = 1, .v = 1, .gradient = 1},
                    .follows_from_stored = true},
                   {.name = "d_gates",
                    .role = Role::gradient,
                    .dim = Dim::branches,
                    .format = Stored::as_output,
                    .offset = offsetof(AttnspecNsaBackward, d_gates),
                    .input = &Inputs::gates,
                    .degrees = {.v = 1, .gradient = 1},
                    .follows_from_stored = true},
                   gradient_of_keys({.name = "dk_compressed",
                                     .rows = RowsOf::compressed_rows,
                                     .offset = offsetof(AttnspecNsaBackward, dk_compressed),
                                     .branch = Branch::compressed}),
                   gradient_of_keys({.name = "dv_compressed",
                                     .rows = RowsOf::compressed_rows,
                                     .dim = Dim::dv,
                                     .offset = offsetof(AttnspecNsaBackward, dv_compressed),
                                     .branch = Branch::compressed})},
                  branch_gradients("compressed", offsetof(AttnspecNsaBackward, d_compressed), &Inputs::k, &Inputs::v,
                                   Branch::compressed),
                  branch_gradients("selected", offsetof(AttnspecNsaBackward, d_selected), &Inputs::k_selected,
                                   &Inputs::v_selected, Branch::selected),
                  branch_gradients("window", offsetof(AttnspecNsaBackward, d_window), &Inputs::k_window,
                                   &Inputs::v_window, Branch::window),
                  phi_tensors("d_phi_k", of_phi(offsetof(AttnspecNsaBackward, d_phi_k), &Inputs::phi_k, Dim::dk)),
                  phi_tensors("d_phi_v", of_phi(offsetof(AttnspecNsaBackward, d_phi_v), &Inputs::phi_v, Dim::dv))});
}

inline OperatorPage nsa_page() {
  return {.name = "nsa",
          .summary =
              "q, three k, v, gates, phi -> o, compressed rows, selection, o and lse of each branch; d_o -> all "
              "gradients: native sparse attention",
          .keys = keys({kKeysOfAll,
                        kKeysOfKvHeads,
                        kKeysOfQueries,
                        kKeysOfValues,
                        kKeysOfPhi,
                        kKeysOfImportance,
                        {"window", "shared_kv"}}),
          .is_nsa = true,
          .tensors = tensors({nsa_inputs(), nsa_outputs(), nsa_gradients()}),
          .slots = [](const Case& c) { return reference::selection_slots(nsa_problem_of(c)); },
          .bit = ATTNSPEC_NSA,
          .forward = c_function<&AttnspecKernel::nsa>(),
          .backward = c_function<&AttnspecKernel::nsa_backward>(),
          .set_sizes = set_nsa_sizes<AttnspecNsa>};
}

}  // namespace attnspec::verify
