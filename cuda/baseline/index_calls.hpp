// The launchers of the selectors with an indexer, as the interface has them.
#pragma once

#include <cstdint>

#include "cuda/primitives/qualifiers.cuh"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

const char* msa_select(const AttnspecMsaSelect*);
const char* dsa_select(const AttnspecDsaSelect*);
const char* qsa_select(const AttnspecQsaSelect*);

/// What a call of one of them needs of a workspace.
std::int64_t index_workspace_bytes(const AttnspecCall& call);

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
