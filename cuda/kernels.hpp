// The kernels of this project, behind the same interface as those of others.
#pragma once

#include <vector>

#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda {

/// Those compiled for a GPU; none without the toolkit.
std::vector<const AttnspecKernel*> gpu_kernels();

/// The same sources in the simulator, on host memory. They may be called from several threads.
std::vector<const AttnspecKernel*> simulated_kernels();

}  // namespace attnspec::cuda
