// nsa_compress: one compressed row of each compression block.
#pragma once

#include "verify/operators/parts.hpp"

namespace attnspec::verify {

inline OperatorPage nsa_compress_page() {
  const Degrees of_gradients{.gradient = 1};
  return {
      .name = "nsa_compress",
      .summary = "tokens, phi -> compressed rows; their gradient -> d_tokens, d_phi: one row of each block of tokens",
      .keys = keys({kKeysOfAll, kKeysOfKvHeads, kKeysOfPhi}),
      .is_nsa = true,
      .tensors = tensors({{{.name = "tokens",
                            .rows = RowsOf::keys,
                            .heads = Heads::kv,
                            .offset = offsetof(AttnspecNsaCompress, tokens),
                            .input = &Inputs::k}},
                          phi_tensors("phi", {.offset = offsetof(AttnspecNsaCompress, phi), .phi = &Inputs::phi_k}),
                          {{.name = "rows",
                            .role = Role::output,
                            .rows = RowsOf::compressed_rows,
                            .heads = Heads::kv,
                            .offset = offsetof(AttnspecNsaCompress, rows),
                            .degrees = {.v = 1},
                            .in_backward = InBackward::unread},
                           {.name = "d_rows",
                            .role = Role::given_gradient,
                            .rows = RowsOf::compressed_rows,
                            .heads = Heads::kv,
                            .offset = offsetof(AttnspecNsaCompressBackward, d_rows),
                            .input = &Inputs::d_o},
                           {.name = "d_tokens",
                            .role = Role::gradient,
                            .rows = RowsOf::keys,
                            .heads = Heads::kv,
                            .format = Stored::as_output,
                            .offset = offsetof(AttnspecNsaCompressBackward, d_tokens),
                            .input = &Inputs::k,
                            .degrees = of_gradients,
                            .follows_from_stored = true}},
                          phi_tensors("d_phi", {.role = Role::gradient,
                                                .format = Stored::as_output,
                                                .offset = offsetof(AttnspecNsaCompressBackward, d_phi),
                                                .phi = &Inputs::phi_k,
                                                .degrees = of_gradients,
                                                .follows_from_stored = true})}),
      .bit = ATTNSPEC_NSA_COMPRESS,
      .forward = c_function<&AttnspecKernel::nsa_compress>(),
      .backward = c_function<&AttnspecKernel::nsa_compress_backward>(),
      .set_sizes = set_nsa_sizes<AttnspecNsaCompress>};
}

}  // namespace attnspec::verify
