// nsa_compressed: NSA's attention to compressed rows, and the blocks of tokens that it says are important.
#pragma once

#include "reference/nsa/nsa_selection.hpp"
#include "verify/operators/parts.hpp"

namespace attnspec::verify {

inline OperatorPage nsa_compressed_page() {
  return {
      .name = "nsa_compressed",
      .summary =
          "q, compressed k, v -> o, lse, selection per kv head; d_o -> dq, dk, dv: NSA's attention to "
          "compressed rows, and the blocks they say are important",
      .keys = keys({kKeysOfAll, kKeysOfKvHeads, kKeysOfQueries, kKeysOfValues, kKeysOfImportance}),
      .is_nsa = true,
      .tensors =
          tensors({attention_tensors<AttnspecNsaCompressed, AttnspecNsaCompressedBackward>(RowsOf::compressed_rows),
                   {written_selection(offsetof(AttnspecNsaCompressed, selection), Heads::kv, InBackward::absent)}}),
      .slots = [](const Case& c) { return reference::selection_slots(nsa_problem_of(c)); },
      .reach = [](const reference::MobaProblem&, const reference::NsaProblem& nsa) { return compressed_reach(nsa); },
      .rule = [](const Case& c, const reference::Arithmetic& arithmetic,
                 const Inputs& inputs) { return nsa_rule(arithmetic, nsa_problem_of(c), inputs.q, inputs.k); },
      .bit = ATTNSPEC_NSA_COMPRESSED,
      .forward = c_function<&AttnspecKernel::nsa_compressed>(),
      .backward = c_function<&AttnspecKernel::nsa_compressed_backward>(),
      .set_sizes = set_nsa_sizes<AttnspecNsaCompressed>};
}

}  // namespace attnspec::verify
