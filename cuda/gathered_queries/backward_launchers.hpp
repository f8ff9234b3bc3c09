// The backward as the interface calls it.
#pragma once

#include <cstdint>

#include "cuda/gathered_queries/attend_backward.hpp"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

/// By query lists where the tensor cores' formats and sizes allow it, else with a thread for each row.
const char* moba_backward(const AttnspecMobaBackward*, QueryGradients);
const char* selected_backward(const AttnspecSelectedBackward*, QueryGradients, const MakeQueryGradients& = {});

/// Bytes of workspace of a backward, from what workspace_bytes is given: the forward's parameters.
std::int64_t moba_backward_bytes(const AttnspecMoba&, QueryGradients);
std::int64_t selected_backward_bytes(const AttnspecSelected&, QueryGradients);

/// Whether it goes by query lists, and dq can be made so.
bool can_be_listed(const AttnspecSelected&, QueryGradients);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
