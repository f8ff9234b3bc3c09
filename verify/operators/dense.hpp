// dense: attention to all keys.
#pragma once

#include "verify/operators/parts.hpp"

namespace attnspec::verify {

inline OperatorPage dense_page() {
  return {.name = "dense",
          .summary = "q, k, v -> o, lse; d_o -> dq, dk, dv: full causal attention",
          .keys = keys({kKeysOfAll, kKeysOfKvHeads, kKeysOfQueries, kKeysOfValues, {"causal"}}),
          .tensors = attention_tensors<AttnspecDense, AttnspecDenseBackward>(),
          .reach = reach_of_attention,
          .bit = ATTNSPEC_DENSE,
          .forward = c_function<&AttnspecKernel::dense>(),
          .backward = c_function<&AttnspecKernel::dense_backward>()};
}

}  // namespace attnspec::verify
