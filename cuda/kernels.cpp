#include "cuda/kernels.hpp"

namespace attnspec::cuda {

namespace gpu::gathered_queries {
const AttnspecKernel& kernel();
}
namespace gpu::query_tiles {
const AttnspecKernel& kernel();
}
namespace gpu::thread_per_row {
const AttnspecKernel& kernel();
}
namespace simulated::gathered_queries {
const AttnspecKernel& kernel();
}
namespace simulated::query_tiles {
const AttnspecKernel& kernel();
}
namespace simulated::thread_per_row {
const AttnspecKernel& kernel();
}

std::vector<const AttnspecKernel*> gpu_kernels() {
#ifdef ATTNSPEC_HAS_GPU_KERNELS
  return {&gpu::thread_per_row::kernel(), &gpu::gathered_queries::kernel(), &gpu::query_tiles::kernel()};
#else
  return {};
#endif
}

std::vector<const AttnspecKernel*> simulated_kernels() {
#ifdef ATTNSPEC_HAS_SIMULATED_KERNELS
  return {&simulated::thread_per_row::kernel(), &simulated::gathered_queries::kernel(),
          &simulated::query_tiles::kernel()};
#else
  return {};
#endif
}

}  // namespace attnspec::cuda
