#include "cuda/kernel_list.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

std::vector<const AttnspecKernel*> kernel_list() {
  return {
      &baseline::kernel(),   &query_tiles::kernel(), &warpgroup_tiles::kernel(),  &token_tiles::kernel(),
      &split_keys::kernel(), &nsa_tiles::kernel(),   &gathered_queries::kernel(), &gathered_queries::atomic_kernel()};
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
