// query_tiles' kernel with the stages that warpgroups do better.
#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/launchers.hpp"
#include "cuda/warpgroup_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

namespace {

bool can_do(const Problem& p, int max_dk) {
  return has_warpgroups() && p.scale > 0 && p.dk <= max_dk && p.dv <= kMaxDv;
}
bool can_attend(const Problem& p) { return can_do(p, kMaxDk); }
bool can_differentiate(const Problem& p) { return can_do(p, kMaxGradientDk); }

struct Stages : query_tiles::OwnStages {
  static int forward_tile_rows(const Problem& p) {
    return can_attend(p) ? kForwardRows : OwnStages::forward_tile_rows(p);
  }
  static int query_gradient_tile_rows(const Problem& p) {
    return can_differentiate(p) ? kGradientRows : OwnStages::query_gradient_tile_rows(p);
  }
  static int key_gradient_tile_keys(const Problem& p) {
    return can_differentiate(p) ? kGradientKeys : OwnStages::key_gradient_tile_keys(p);
  }
  template <class T, class... Arguments>
  static void attend(const Problem& p, const Arguments&... arguments) {
    if (can_attend(p)) return warpgroup_tiles::attend<T>(p, arguments...);
    OwnStages::attend<T>(p, arguments...);
  }
  template <class T, class... Arguments>
  static void attend_backward(const Problem& p, const Arguments&... arguments) {
    if (can_differentiate(p)) return warpgroup_tiles::attend_backward<T>(p, arguments...);
    OwnStages::attend_backward<T>(p, arguments...);
  }
  static int select_tile_rows(const Problem& p, const ImportanceRule& rule) {
    return can_select(p, rule) ? kImportanceRows : OwnStages::select_tile_rows(p, rule);
  }
  template <class T, class... Arguments>
  static void select_important_blocks(const Problem& p, const Tiles& row_tiles, const ImportanceRule& rule,
                                      const Arguments&... arguments) {
    if (can_select(p, rule)) return warpgroup_tiles::select_important_blocks<T>(p, row_tiles, rule, arguments...);
    OwnStages::select_important_blocks<T>(p, row_tiles, rule, arguments...);
  }
};

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = query_tiles::declare<Stages>(
      "warpgroup_tiles", "query_tiles with the matrix products of warpgroups, where the GPU has them");
  return declared;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
