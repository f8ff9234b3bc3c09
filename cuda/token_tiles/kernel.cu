// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <cstdint>

#include "cuda/gathered_queries/backward_launchers.hpp"
#include "cuda/query_tiles/calls.hpp"
#include "cuda/token_tiles/attend.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace gathered_queries {
const AttnspecKernel& kernel();
}

namespace token_tiles {

using query_tiles::kMostFeatures;
using query_tiles::TileOffsets;

namespace {

/// Heads that must share a selection: of fewer, 16 rows are so many tokens that few of them selected a block.
constexpr std::int64_t kLeastGroup = 4;

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  Selection selection;
  Offsets offsets;
  TileOffsets row_tiles;
  std::int64_t bytes;
};

Layout lay_out(const AttnspecSelected& f) {
  Workspace workspace(f.call.workspace);
  Layout l{};
  l.offsets = take_offsets(workspace, f.call);
  l.problem = query_tiles::problem_of(f, {l.offsets.q, l.offsets.k, f.call.num_sequences, f.call.causal != 0},
                                      query_tiles::all_keys(l.offsets.k));
  l.selection = {static_cast<const std::int32_t*>(f.selection.data), f.selection.shape[2], f.block};
  l.row_tiles = query_tiles::take_tiles(workspace, f.call, f.call.q_offsets, l.problem.group,
                                        tile_rows(l.problem.dk, l.problem.dv));
  l.bytes = workspace.bytes();
  return l;
}

bool has_pieces(const DLTensor& t) { return t.dtype.bits == 16 && t.shape[2] % 8 == 0 && t.shape[2] <= kMostFeatures; }

/// Whether a call is for tiles; what is not goes to gathered_queries.
bool is_for_tiles(const AttnspecSelected& f) {
  return has_pieces(f.q) && has_pieces(f.v) && f.selection.shape[1] == f.k.shape[1] &&
         f.q.shape[1] / f.k.shape[1] >= kLeastGroup;
}

const char* selected(const AttnspecSelected* f) {
  if (!is_for_tiles(*f)) return gathered_queries::kernel().selected(f);
  return reason_of([&] {
    query_tiles::require_countable(*f);
    Buffers buffers;
    add_tensors(*f, buffers);
    buffers.add("selection", f->selection);
    const Layout l = lay_out(*f);
    copy_offsets(f->call, l.offsets);
    query_tiles::copy_tiles(f->call, l.row_tiles);
    with_16_bits(f->q, [&](auto zero) {
      using T = decltype(zero);
      attend<T>(l.problem, l.selection, l.row_tiles.tiles(), rows_of<const T>(f->q), rows_of<const T>(f->k),
                rows_of<const T>(f->v), rows_of<T>(f->o), rows_of<float>(f->lse), f->call.stream);
    });
  });
}

const char* selected_backward(const AttnspecSelectedBackward* b) {
  return gathered_queries::selected_backward(b, false);
}

std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  AttnspecSelected f = *static_cast<const AttnspecSelected*>(params);
  if (is_backward != 0 || !is_for_tiles(f)) return gathered_queries::kernel().workspace_bytes(op, is_backward, params);
  f.call.workspace = nullptr;  // there is none as yet
  return lay_out(f).bytes;
}

AttnspecKernel declare() {
  AttnspecKernel kernel =
      named_kernel("token_tiles",
                   "attention to blocks that the heads of a group share, on tensor cores; tokens of a tile share keys");
  kernel.operators = ATTNSPEC_SELECTED;
  kernel.promises = ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.selected = selected;
  kernel.selected_backward = selected_backward;
  kernel.limits.dk.largest = kernel.limits.dv.largest = kMostFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace token_tiles

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
