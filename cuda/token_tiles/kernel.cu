// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "cuda/baseline/calls.hpp"
#include "cuda/gathered_queries/backward_launchers.hpp"
#include "cuda/kernel_list.hpp"
#include "cuda/query_tiles/calls.hpp"
#include "cuda/token_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace token_tiles {

using gathered_queries::QueryGradients;
using query_tiles::kMaxFeatures;

namespace {

/// Heads that must share a selection. A token's keys are read for so many rows: where these are few, gathered_queries
/// reads less. Measured on an H200: from 8 on this is faster, forward and backward.
constexpr std::int64_t kMinGroup = 8;

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
  l.selection = {rows_of<const std::int32_t>(f.selection), f.q.shape[0], f.selection.shape[2], f.block};
  l.bytes = workspace.bytes();
  return l;
}

std::int64_t group_of(const AttnspecSelected& f) { return f.q.shape[1] / f.k.shape[1]; }

/// Whether a call is for tiles; what is not goes to gathered_queries.
bool is_for_tiles(const AttnspecSelected& f) {
  return query_tiles::is_for_tiles(f) && f.selection.shape[1] == f.k.shape[1] && group_of(f) >= kMinGroup;
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

/// How dq is made: by tokens, of dS that gathered_queries keeps, or where that cannot be from the start; or merged
/// there with dk and dv.
QueryGradients query_gradients_of(const AttnspecSelected& f) {
  if (is_for_tiles(f))
    for (const QueryGradients dq : {QueryGradients::from_scores, QueryGradients::apart})
      if (gathered_queries::can_be_listed(f, dq)) return dq;
  return QueryGradients::merged;
}

const char* selected_backward(const AttnspecSelectedBackward* b) {
  const AttnspecSelected& f = *b->forward;
  const QueryGradients gradients = query_gradients_of(f);
  if (gradients == QueryGradients::merged) return gathered_queries::selected_backward(b, gradients);
  return reason_of([&] {
    query_tiles::require_countable(f);
    Buffers buffers;
    add_tensors(f, buffers);
    add_gradients(*b, buffers);
    buffers.add("selection", f.selection);
    const Layout l = lay_out(f, gathered_queries::selected_backward_bytes(f, gradients));
    copy_offsets(f.call, l.offsets);
    with_16_bits(f.q, [&](auto zero) {
      using T = decltype(zero);
      const auto rows = baseline::backward_rows<T>(*b);
      const Rows<T> dq = rows_of<T>(b->dq);
      const char* reason = gathered_queries::selected_backward(b, gradients, [&](const ScoreGradients& scores) {
        multiply_score_gradients<T>(l.problem, l.selection, scores, rows.k, dq, f.call.stream);
      });
      if (reason != nullptr) throw std::runtime_error(reason);
      if (gradients == QueryGradients::apart)
        attend_query_gradients<T>(l.problem, l.selection, rows, dq, f.call.stream);
    });
  });
}

std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  AttnspecSelected f = *static_cast<const AttnspecSelected*>(params);
  f.call.workspace = nullptr;  // there is none as yet
  if (is_backward == 0 && is_for_tiles(f)) return lay_out(f).bytes;
  const QueryGradients gradients = query_gradients_of(f);
  if (is_backward == 0 || gradients == QueryGradients::merged)
    return gathered_queries::kernel().workspace_bytes(op, is_backward, params);
  return lay_out(f, gathered_queries::selected_backward_bytes(f, gradients)).bytes;
}

AttnspecKernel declare() {
  AttnspecKernel kernel = named_kernel(
      "token_tiles", "attention to blocks that the heads of a group share, on tensor cores; a warp for each token");
  kernel.operators = ATTNSPEC_SELECTED;
  kernel.promises = ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.selected = selected;
  kernel.selected_backward = selected_backward;
  kernel.limits.dk.largest = kernel.limits.dv.largest = kMaxFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace token_tiles

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
