// moba: mixture of block attention, moba_select and attention to what it selected.
#pragma once

#include "reference/moba/moba.hpp"
#include "verify/operators/parts.hpp"

namespace attnspec::verify {

inline OperatorPage moba_page() {
  return {
      .name = "moba",
      .summary = "q, k, v -> selection, o, lse; d_o -> dq, dk, dv: mixture of block attention",
      .keys = keys({kKeysOfAll, kKeysOfKvHeads, kKeysOfQueries, kKeysOfValues, {"block", "top_k", "gate", "causal"}}),
      .tensors = tensors({attention_tensors<AttnspecMoba, AttnspecMobaBackward>(),
                          {written_selection(offsetof(AttnspecMoba, selection), Heads::query)}}),
      .slots = [](const Case& c) { return reference::selection_slots(problem_of(c)); },
      .reach = reach_of_attention,
      .rule = rule_of_moba,
      .bit = ATTNSPEC_MOBA,
      .forward = c_function<&AttnspecKernel::moba>(),
      .backward = c_function<&AttnspecKernel::moba_backward>(),
      .set_sizes = set_moba_sizes<AttnspecMoba>};
}

}  // namespace attnspec::verify
