// The launchers of NSA and its parts, as the interface has them.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

const char* nsa_compress(const AttnspecNsaCompress*);
const char* nsa_compress_backward(const AttnspecNsaCompressBackward*);
const char* nsa_compressed(const AttnspecNsaCompressed*);
const char* nsa_compressed_backward(const AttnspecNsaCompressedBackward*);
const char* window(const AttnspecWindow*);
const char* window_backward(const AttnspecWindowBackward*);
const char* nsa(const AttnspecNsa*);
const char* nsa_backward(const AttnspecNsaBackward*);

/// What a call of one of them needs of a workspace.
std::int64_t nsa_workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
