// The kernel as the judge takes it.
#include "cuda/query_tiles/launchers.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared =
      declare<OwnStages>("query_tiles",
                         "dense attention, NSA's window and its compressed rows on tensor cores; tiles of queries, the "
                         "heads of a group together");
  return declared;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
