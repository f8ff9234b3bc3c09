// The two kernels as the judge takes them, which differ in the backward: their declarations, their forward launchers,
// and what a call needs of a workspace.
#include <algorithm>
#include <vector>

#include "cuda/baseline/calls.hpp"
#include "cuda/gathered_queries/backward_launchers.hpp"
#include "cuda/gathered_queries/forward.hpp"
#include "cuda/kernel_list.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace gathered_queries {

namespace {

constexpr std::int64_t kMaxFeatures = 256;

/// A forward call: what it asks for, and where in its workspace things are.
struct Forward {
  Attention attention;
  Selection selection;
  std::vector<std::int64_t> block_offsets, tile_offsets;  // their copies on the device:
  std::int64_t *block_offsets_global, *tile_offsets_global;
  Offsets offsets;
  MeanKeys means;
  QueryLists lists;
  Partials partials;
  int heads_at_once;  // out of those that have lists
  std::int64_t workspace_bytes;
};

/// Which stages a call has.
struct Stages {
  bool select, attend;
};

std::int64_t bytes_of(const DLTensor& t) { return t.shape[0] * t.shape[1] * t.shape[2] * (t.dtype.bits / 8); }

/// The heads whose partials take no more room than q, k, v and o, at least one.
int heads_at_once(const Selection& selection, int heads, std::int64_t dv, std::int64_t tensor_bytes) {
  const std::int64_t assignments = selection.num_queries * selection.slots * (heads / selection.heads);
  const std::int64_t head_bytes = assignments * (padded_features(dv) + 1) * static_cast<std::int64_t>(sizeof(float));
  return static_cast<int>(
      std::clamp<std::int64_t>(tensor_bytes / std::max<std::int64_t>(head_bytes, 1), 1, selection.heads));
}

/// v: nullptr if nothing is attended to.
Forward lay_out(const AttnspecCall& call, const DLTensor& q, const DLTensor& k, const DLTensor* v,
                const DLTensor& selection, std::int64_t block, const Stages& stages) {
  Forward f{};
  Workspace workspace(call.workspace);
  f.block_offsets = run_offsets(call.k_offsets, call.num_sequences, block);
  f.tile_offsets = run_offsets(call.q_offsets, call.num_sequences, kSelectQueries);
  f.offsets = take_offsets(workspace, call);
  for (auto* offsets : {&f.block_offsets_global, &f.tile_offsets_global})
    *offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  const std::int64_t dv = v == nullptr ? 0 : v->shape[2], num_blocks = f.block_offsets.back();
  f.attention =
      baseline::attention_of(call, {f.offsets.q, f.offsets.k, call.num_sequences, call.causal != 0}, q, k, dv);
  f.selection = {f.attention.sequences,
                 f.block_offsets_global,
                 rows_of<const std::int32_t>(selection),
                 q.shape[0],
                 num_blocks,
                 block,
                 selection.shape[2],
                 static_cast<int>(selection.shape[1])};
  if (stages.select) {
    f.means.parts = workspace.take<fp16>(num_blocks * k.shape[1] * 2 * k.shape[2]);
    f.means.scales = workspace.take<float>(num_blocks * k.shape[1]);
  }
  if (stages.attend) {
    f.lists = take_query_lists(workspace, f.selection);
    const std::int64_t o_bytes = q.shape[0] * q.shape[1] * dv * (q.dtype.bits / 8);
    f.heads_at_once =
        heads_at_once(f.selection, f.attention.heads, dv, bytes_of(q) + bytes_of(k) + bytes_of(*v) + o_bytes);
    const std::int64_t assignments =
        q.shape[0] * f.selection.slots * f.heads_at_once * (f.attention.heads / f.selection.heads);
    f.partials.o = workspace.take<float>(assignments * padded_features(dv));
    f.partials.lse = workspace.take<float>(assignments);
  }
  f.workspace_bytes = workspace.bytes();
  return f;
}

Forward lay_out(const AttnspecMobaSelect& p) {
  return lay_out(p.call, p.q, p.k, nullptr, p.selection, p.block, {true, false});
}
Forward lay_out(const AttnspecMoba& p) { return lay_out(p.call, p.q, p.k, &p.v, p.selection, p.block, {true, true}); }
Forward lay_out(const AttnspecSelected& p) {
  return lay_out(p.call, p.q, p.k, &p.v, p.selection, p.block, {false, true});
}

bool has_vectors(const DLTensor& t) {
  return t.dtype.bits == 16 && t.shape[2] % kVectorFeatures == 0 && t.shape[2] <= kMaxFeatures;
}

/// Whether a call is for these stages; what is not goes to baseline. Rows of whole vectors are aligned
/// (kernel_abi.h).
bool is_for_tensor_cores(const AttnspecMobaSelect& p) { return has_vectors(p.q); }
template <class Params>
bool is_for_tensor_cores(const Params& p) {
  return has_vectors(p.q) && has_vectors(p.v) && can_list_queries(lay_out(p).selection);
}

void copy_all_offsets(const AttnspecCall& call, const Forward& f) {
  copy_offsets(call, f.offsets);
  copy_offsets(call, f.block_offsets_global, f.block_offsets.data());
  copy_offsets(call, f.tile_offsets_global, f.tile_offsets.data());
}

/// Pools and selects, for moba and moba_select. The gates window and sink read no means.
template <class T, class Params>
void select(const Params& p, const Forward& f) {
  const SelectionRule rule{p.block, p.top_k, p.selection.shape[2], p.gate};
  const auto q = rows_of<const T>(p.q), k = rows_of<const T>(p.k);
  const auto selection = rows_of<std::int32_t>(p.selection);
  if (p.gate != ATTNSPEC_GATE_TOP_K)
    return baseline::select_blocks<T>(f.attention, rule, f.block_offsets_global, q, nullptr, selection, p.call.stream);
  pool_keys<T>(f.attention, p.block, f.block_offsets_global, f.selection.num_blocks, k, f.means, p.call.stream);
  select_blocks<T>(f.attention, rule, f.block_offsets_global, f.tile_offsets_global, f.tile_offsets.back(), q, f.means,
                   selection, p.call.stream);
}

/// Lists, attends and merges, for moba and selected.
template <class T, class Params>
void attend(const Params& p, const Forward& f) {
  list_queries(f.selection, f.lists, p.call.stream);
  for (int first = 0; first < f.selection.heads; first += f.heads_at_once) {
    const Heads heads{first, std::min(f.heads_at_once, f.selection.heads - first)};
    attend_blocks<T>(f.attention, f.selection, f.lists, heads, rows_of<const T>(p.q), rows_of<const T>(p.k),
                     rows_of<const T>(p.v), f.partials, p.call.stream);
    merge_partials<T>(f.attention, f.selection, heads, f.partials, rows_of<T>(p.o), rows_of<float>(p.lse),
                      p.call.stream);
  }
}

const char* moba_select(const AttnspecMobaSelect* p) {
  if (!is_for_tensor_cores(*p)) return baseline::kernel().moba_select(p);
  return reason_of([&] {
    Buffers buffers;
    buffers.add("q", p->q), buffers.add("k", p->k), buffers.add("selection", p->selection);
    buffers.add("workspace", p->call.workspace, p->call.workspace_bytes);
    const Forward f = lay_out(*p);
    copy_all_offsets(p->call, f);
    with_16_bits(p->q, [&](auto zero) { select<decltype(zero)>(*p, f); });
  });
}

const char* selected(const AttnspecSelected* p) {
  if (!is_for_tensor_cores(*p)) return baseline::kernel().selected(p);
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    buffers.add("selection", p->selection);
    const Forward f = lay_out(*p);
    copy_all_offsets(p->call, f);
    with_16_bits(p->q, [&](auto zero) { attend<decltype(zero)>(*p, f); });
  });
}

const char* moba(const AttnspecMoba* p) {
  if (!is_for_tensor_cores(*p)) return baseline::kernel().moba(p);
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    buffers.add("selection", p->selection);
    const Forward f = lay_out(*p);
    copy_all_offsets(p->call, f);
    with_16_bits(p->q, [&](auto zero) {
      select<decltype(zero)>(*p, f);
      attend<decltype(zero)>(*p, f);
    });
  });
}

/// For params that begin with an AttnspecCall, as yet without a workspace.
template <class Params>
std::int64_t forward_bytes(std::uint32_t op, const void* params) {
  Params p = *static_cast<const Params*>(params);
  p.call.workspace = nullptr;
  return is_for_tensor_cores(p) ? lay_out(p).workspace_bytes : baseline::kernel().workspace_bytes(op, 0, params);
}

template <QueryGradients dq>
std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  if (is_backward != 0)
    return op == ATTNSPEC_MOBA ? moba_backward_bytes(*static_cast<const AttnspecMoba*>(params), dq)
                               : selected_backward_bytes(*static_cast<const AttnspecSelected*>(params), dq);
  if (op == ATTNSPEC_MOBA) return forward_bytes<AttnspecMoba>(op, params);
  if (op == ATTNSPEC_MOBA_SELECT) return forward_bytes<AttnspecMobaSelect>(op, params);
  return forward_bytes<AttnspecSelected>(op, params);
}

template <QueryGradients dq>
AttnspecKernel declare() {
  AttnspecKernel kernel =
      dq == QueryGradients::added
          ? named_kernel("gathered_queries_atomic",
                         "gathered_queries with a backward that adds up dq with atomics, in any order")
          : named_kernel("gathered_queries",
                         "MoBA and attention to given blocks on tensor cores; the queries of each key block are "
                         "gathered");
  kernel.operators = ATTNSPEC_SELECTED | ATTNSPEC_MOBA_SELECT | ATTNSPEC_MOBA;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  if (dq == QueryGradients::added) kernel.promises |= ATTNSPEC_UNORDERED_BACKWARD;
  kernel.workspace_bytes = workspace_bytes<dq>;
  kernel.selected = selected;
  kernel.selected_backward = [](const AttnspecSelectedBackward* p) { return selected_backward(p, dq); };
  kernel.moba_select = moba_select;
  kernel.moba = moba;
  kernel.moba_backward = [](const AttnspecMobaBackward* p) { return moba_backward(p, dq); };
  kernel.limits.dk.largest = kernel.limits.dv.largest = kMaxFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare<QueryGradients::merged>();
  return declared;
}

const AttnspecKernel& atomic_kernel() {
  static const AttnspecKernel declared = declare<QueryGradients::added>();
  return declared;
}

}  // namespace gathered_queries

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
