// moba_select: the blocks that each query of MoBA attends to.
#pragma once

#include "reference/moba/moba.hpp"
#include "verify/operators/parts.hpp"

namespace attnspec::verify {

inline OperatorPage moba_select_page() {
  return {.name = "moba_select",
          .summary = "q, k -> selection: the blocks each query of MoBA attends to",
          .keys = keys({kKeysOfAll, kKeysOfKvHeads, kKeysOfQueries, {"block", "top_k", "gate", "causal"}}),
          .tensors = {q_tensor<AttnspecMobaSelect>(), k_tensor<AttnspecMobaSelect>(),
                      written_selection(offsetof(AttnspecMobaSelect, selection), Heads::query)},
          .slots = [](const Case& c) { return reference::selection_slots(problem_of(c)); },
          .rule = rule_of_moba,
          .bit = ATTNSPEC_MOBA_SELECT,
          .forward = c_function<&AttnspecKernel::moba_select>(),
          .set_sizes = set_moba_sizes<AttnspecMobaSelect>};
}

}  // namespace attnspec::verify
