// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <cstdint>
#include <limits>

#include "cuda/gathered_queries/backward_launchers.hpp"
#include "cuda/query_tiles/calls.hpp"
#include "cuda/thread_per_row/calls.hpp"
#include "cuda/token_tiles/attend.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace gathered_queries {
const AttnspecKernel& kernel();
}

namespace token_tiles {

using namespace query_tiles;

namespace {

/// Heads that must share a selection: of fewer, 16 rows are so many tokens that few of them selected a block.
constexpr std::int64_t kLeastGroup = 4;

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  Selection selection;
  std::int64_t *q_offsets, *k_offsets;
  TileOffsets row_tiles;
  std::int64_t bytes;
};

Layout lay_out(const AttnspecSelected& f) {
  Workspace workspace(f.call.workspace);
  const std::int64_t sequences = f.call.num_sequences;
  auto* q_offsets = workspace.take<std::int64_t>(sequences + 1);
  auto* k_offsets = workspace.take<std::int64_t>(sequences + 1);
  Layout l{
      problem_of(f, {q_offsets, k_offsets, sequences, f.call.causal != 0}, std::numeric_limits<std::int64_t>::max()),
      {static_cast<const std::int32_t*>(f.selection.data), f.selection.shape[2], f.block},
      q_offsets,
      k_offsets,
      {},
      0};
  l.row_tiles =
      tile_offsets(workspace, f.call.q_offsets, sequences, l.problem.group, tile_rows(l.problem.dk, l.problem.dv));
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
    require_countable(*f);
    Buffers buffers;
    thread_per_row::add_tensors(*f, buffers);
    buffers.add("selection", f->selection);
    const Layout l = lay_out(*f);
    thread_per_row::copy_offsets(f->call, l.q_offsets, f->call.q_offsets);
    thread_per_row::copy_offsets(f->call, l.k_offsets, f->call.k_offsets);
    thread_per_row::copy_offsets(f->call, l.row_tiles.device, l.row_tiles.host.data());
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
  AttnspecKernel kernel{};
  kernel.struct_size = sizeof kernel;
  kernel.abi_version = ATTNSPEC_ABI_VERSION;
  kernel.device_type = kDeviceType;
  kernel.name = "token_tiles";
  kernel.summary = "attention to blocks that the heads of a group share, on tensor cores; tokens of a tile share keys";
  kernel.departures = "";
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
