// The backward as the interface calls it.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#include "verify/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

/// By query lists where the tensor cores' formats and sizes allow it, else with a thread for each row. adds_dq: with
/// atomics, in any order.
const char* moba_backward(const AttnspecMobaBackward*, bool adds_dq);
const char* selected_backward(const AttnspecSelectedBackward*, bool adds_dq);

/// Bytes of workspace of a backward, from what workspace_bytes is given: the forward's parameters.
std::int64_t moba_backward_bytes(const AttnspecMoba&, bool adds_dq);
std::int64_t selected_backward_bytes(const AttnspecSelected&, bool adds_dq);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
