// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <cstddef>
#include <cstdint>

#include "cuda/gathered_queries/backward_launchers.hpp"
#include "cuda/kernel_list.hpp"
#include "cuda/query_tiles/calls.hpp"
#include "cuda/thread_per_row/calls.hpp"
#include "cuda/token_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace token_tiles {

using gathered_queries::QueryGradients;
using query_tiles::kMostFeatures;

namespace {

/// Heads that must share a selection. A token's keys are read for so many rows: where these are few, gathered_queries
/// reads less; its backward, in which dq is a third, is behind sooner.
constexpr std::int64_t kLeastGroup = 8, kLeastBackwardGroup = 12;

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  Selection selection;
  Offsets offsets;
  std::int64_t bytes;
};

/// `before`: bytes of the workspace that are for others.
Layout lay_out(const AttnspecSelected& f, std::int64_t before = 0) {
  Workspace workspace(f.call.workspace);
  Layout l{};
  workspace.take<std::byte>(before);
  l.offsets = take_offsets(workspace, f.call);
  l.problem = query_tiles::problem_of(f, {l.offsets.q, l.offsets.k, f.call.num_sequences, f.call.causal != 0},
                                      query_tiles::all_keys(l.offsets.k));
  l.selection = {static_cast<const std::int32_t*>(f.selection.data), f.q.shape[0], f.selection.shape[2], f.block,
                 l.problem.kv_heads};
  l.bytes = workspace.bytes();
  return l;
}

std::int64_t group_of(const AttnspecSelected& f) { return f.q.shape[1] / f.k.shape[1]; }

/// Whether a call is for tiles; what is not goes to gathered_queries.
bool is_for_tiles(const AttnspecSelected& f) {
  return query_tiles::is_for_tiles(f) && f.selection.shape[1] == f.k.shape[1] && group_of(f) >= kLeastGroup;
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
    with_16_bits(f->q, [&](auto zero) {
      using T = decltype(zero);
      attend<T>(l.problem, l.selection, rows_of<const T>(f->q), rows_of<const T>(f->k), rows_of<const T>(f->v),
                rows_of<T>(f->o), rows_of<float>(f->lse), f->call.stream);
    });
  });
}

/// Whether dq is made by tokens, and dk and dv by the lists of gathered_queries; else all of it is made there.
bool is_backward_for_tiles(const AttnspecSelected& f) {
  return is_for_tiles(f) && group_of(f) >= kLeastBackwardGroup && gathered_queries::can_be_apart(f);
}

const char* selected_backward(const AttnspecSelectedBackward* b) {
  const AttnspecSelected& f = *b->forward;
  if (!is_backward_for_tiles(f)) return gathered_queries::selected_backward(b, QueryGradients::merged);
  if (const char* reason = gathered_queries::selected_backward(b, QueryGradients::apart)) return reason;
  return reason_of([&] {
    query_tiles::require_countable(f);
    Buffers buffers;
    add_tensors(f, buffers);
    add_gradients(*b, buffers);
    buffers.add("selection", f.selection);
    const Layout l = lay_out(f, gathered_queries::selected_backward_bytes(f, QueryGradients::apart));
    copy_offsets(f.call, l.offsets);
    with_16_bits(f.q, [&](auto zero) {
      using T = decltype(zero);
      attend_query_gradients<T>(l.problem, l.selection, thread_per_row::backward_rows<T>(*b), rows_of<T>(b->dq),
                                f.call.stream);
    });
  });
}

std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  AttnspecSelected f = *static_cast<const AttnspecSelected*>(params);
  f.call.workspace = nullptr;  // there is none as yet
  if (is_backward != 0 && is_backward_for_tiles(f))
    return lay_out(f, gathered_queries::selected_backward_bytes(f, QueryGradients::apart)).bytes;
  if (is_backward != 0 || !is_for_tiles(f)) return gathered_queries::kernel().workspace_bytes(op, is_backward, params);
  return lay_out(f).bytes;
}

AttnspecKernel declare() {
  AttnspecKernel kernel = named_kernel(
      "token_tiles", "attention to blocks that the heads of a group share, on tensor cores; a warp for each token");
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
