// selected: attention to key blocks that are given.
#pragma once

#include "verify/operators/parts.hpp"

namespace attnspec::verify {

inline OperatorPage selected_page() {
  return {.name = "selected",
          .summary = "q, k, v, selection -> o, lse; d_o -> dq, dk, dv: attention over given key blocks",
          .keys = keys({kKeysOfAll,
                        kKeysOfKvHeads,
                        kKeysOfQueries,
                        kKeysOfValues,
                        {"block", "top_k", "selection", "selection_order", "causal"}}),
          .tensors = tensors({attention_tensors<AttnspecSelected, AttnspecSelectedBackward>(),
                              {{.name = "selection",
                                .heads = Heads::given,
                                .dim = Dim::slots,
                                .format = Stored::blocks,
                                .offset = offsetof(AttnspecSelected, selection)}}}),
          .slots = [](const Case& c) { return c.top_k; },
          .reach = reach_of_attention,
          .bit = ATTNSPEC_SELECTED,
          .forward = c_function<&AttnspecKernel::selected>(),
          .backward = c_function<&AttnspecKernel::selected_backward>(),
          .set_sizes = [](const AnyCall& call, const AttnspecNsaSizes&,
                          void* forward) { static_cast<AttnspecSelected*>(forward)->block = call.problem.block; }};
}

}  // namespace attnspec::verify
