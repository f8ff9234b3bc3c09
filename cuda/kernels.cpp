#include "cuda/kernels.hpp"

namespace attnspec::cuda {

namespace gpu {
std::vector<const AttnspecKernel*> kernel_list();
}
namespace simulated {
std::vector<const AttnspecKernel*> kernel_list();
}

std::vector<const AttnspecKernel*> gpu_kernels() {
#ifdef ATTNSPEC_HAS_GPU_KERNELS
  return gpu::kernel_list();
#else
  return {};
#endif
}

std::vector<const AttnspecKernel*> simulated_kernels() {
#ifdef ATTNSPEC_HAS_SIMULATED_KERNELS
  return simulated::kernel_list();
#else
  return {};
#endif
}

}  // namespace attnspec::cuda
