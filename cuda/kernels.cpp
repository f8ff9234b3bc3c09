#include "cuda/kernels.hpp"

namespace attnspec::cuda {

namespace gpu {
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
namespace thread_per_row {
const AttnspecKernel& kernel();
}
namespace token_tiles {
const AttnspecKernel& kernel();
}
namespace warpgroup_tiles {
const AttnspecKernel& kernel();
}
}  // namespace gpu

namespace simulated {
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
namespace thread_per_row {
const AttnspecKernel& kernel();
}
namespace token_tiles {
const AttnspecKernel& kernel();
}
namespace warpgroup_tiles {
const AttnspecKernel& kernel();
}
}  // namespace simulated

std::vector<const AttnspecKernel*> gpu_kernels() {
#ifdef ATTNSPEC_HAS_GPU_KERNELS
  return {&gpu::thread_per_row::kernel(),   &gpu::query_tiles::kernel(),
          &gpu::warpgroup_tiles::kernel(),  &gpu::token_tiles::kernel(),
          &gpu::split_keys::kernel(),       &gpu::nsa_tiles::kernel(),
          &gpu::gathered_queries::kernel(), &gpu::gathered_queries::atomic_kernel()};
#else
  return {};
#endif
}

std::vector<const AttnspecKernel*> simulated_kernels() {
#ifdef ATTNSPEC_HAS_SIMULATED_KERNELS
  return {&simulated::thread_per_row::kernel(),   &simulated::query_tiles::kernel(),
          &simulated::warpgroup_tiles::kernel(),  &simulated::token_tiles::kernel(),
          &simulated::split_keys::kernel(),       &simulated::nsa_tiles::kernel(),
          &simulated::gathered_queries::kernel(), &simulated::gathered_queries::atomic_kernel()};
#else
  return {};
#endif
}

}  // namespace attnspec::cuda
