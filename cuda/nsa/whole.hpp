// The whole of NSA as the interface calls it: its parts, each done by the kernel that is best at it.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#include "verify/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

const char* nsa(const AttnspecNsa*);
const char* nsa_backward(const AttnspecNsaBackward*);

/// Bytes of workspace, from what workspace_bytes is given: the forward's parameters.
std::int64_t nsa_bytes(const AttnspecNsa&, bool is_backward);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
