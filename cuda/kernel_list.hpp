// The kernels of this project, as they are compiled for one target.
#pragma once

#include <vector>

#include "cuda/primitives/qualifiers.cuh"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace gathered_queries {
const AttnspecKernel& kernel();
const AttnspecKernel& atomic_kernel();
}  // namespace gathered_queries
namespace nsa_tiles {
const AttnspecKernel& kernel();
}
namespace query_tiles {
const AttnspecKernel& kernel();
}
namespace split_keys {
const AttnspecKernel& kernel();
}
namespace baseline {
const AttnspecKernel& kernel();
}
namespace token_tiles {
const AttnspecKernel& kernel();
}
namespace warpgroup_tiles {
const AttnspecKernel& kernel();
}

/// All of them, the baseline first.
std::vector<const AttnspecKernel*> kernel_list();

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
