// The whole of NSA as the interface calls it: its parts, each done by a kernel that has it.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles {

/// The kernels that do the parts.
struct PartKernels {
  const AttnspecKernel &compress, &compressed, &selected, &window;
};

const char* nsa(const AttnspecNsa*, const PartKernels&);
const char* nsa_backward(const AttnspecNsaBackward*, const PartKernels&);

/// Bytes of workspace, from what workspace_bytes is given: the forward's parameters.
std::int64_t nsa_bytes(const AttnspecNsa&, const PartKernels&, bool is_backward);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::nsa_tiles
