// Launchers of the backward: from the interface's structs to what the kernels take.
#include <type_traits>
#include <vector>

#include "cuda/baseline/calls.hpp"
#include "cuda/gathered_queries/attend_backward.hpp"
#include "cuda/gathered_queries/backward_launchers.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

/// What a call keeps in its workspace: offsets, and what its stages need.
struct CallScratch {
  Offsets offsets;
  std::int64_t* block_offsets;
  BackwardScratch stages;
  std::int64_t bytes;
};

/// The backward's sizes; nothing of it is on the device yet. Forward: AttnspecMoba or AttnspecSelected.
template <class Forward>
BackwardProblem sizes_of(const Forward& f, const std::vector<std::int64_t>& block_offsets, QueryGradients dq) {
  BackwardProblem p{};
  p.selection.sequences.count = f.call.num_sequences;
  p.selection.sequences.is_causal = f.call.causal != 0;
  p.selection.num_queries = f.q.shape[0];
  p.selection.num_blocks = block_offsets.back();
  p.selection.block = f.block;
  p.selection.slots = f.selection.shape[2];
  p.selection.heads = static_cast<int>(f.selection.shape[1]);
  p.heads = static_cast<int>(f.q.shape[1]);
  p.kv_heads = static_cast<int>(f.k.shape[1]);
  p.dk = static_cast<int>(f.q.shape[2]);
  p.dv = static_cast<int>(f.v.shape[2]);
  p.scale = static_cast<float>(f.call.scale);
  p.dq = dq;
  return p;
}

bool is_listed(const DLTensor& q, const BackwardProblem& p) { return q.dtype.bits == 16 && can_attend_backward(p); }

CallScratch lay_out(void* begin, const AttnspecCall& call, const DLTensor& q, const BackwardProblem& p) {
  Workspace workspace(begin);
  CallScratch scratch{};
  scratch.offsets = take_offsets(workspace, call);
  scratch.block_offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  if (is_listed(q, p)) scratch.stages = take_backward_scratch(workspace, p);
  scratch.bytes = workspace.bytes();
  return scratch;
}

/// Copies the offsets to the device, and tells the problem where they are.
void copy_all_offsets(const AttnspecCall& call, const std::vector<std::int64_t>& block_offsets,
                      const CallScratch& scratch, BackwardProblem& p) {
  copy_offsets(call, scratch.offsets);
  copy_offsets(call, scratch.block_offsets, block_offsets.data());
  p.selection.sequences.q_offsets = scratch.offsets.q;
  p.selection.sequences.k_offsets = scratch.offsets.k;
  p.selection.block_offsets = scratch.block_offsets;
}

template <class T>
void attend_backward_by_rows(const BackwardProblem& p, std::int64_t num_keys, const BackwardRows<T>& rows,
                             const Gradients<T>& to, void* stream) {
  const Selection& s = p.selection;
  baseline::attend_backward<T>({s.sequences, s.num_queries, num_keys, p.heads, p.kv_heads, p.dk, p.dv, p.scale},
                               {s.selected, s.heads, s.slots, s.block}, rows, to.dq, to.dk, to.dv, stream);
}

template <class Params>
void backward(const Params& params, QueryGradients dq, const MakeQueryGradients& make_dq) {
  const auto& f = *params.forward;
  Buffers buffers;
  add_tensors(f, buffers);
  add_gradients(params, buffers);
  buffers.add("selection", f.selection);
  const auto block_offsets = run_offsets(f.call.k_offsets, f.call.num_sequences, f.block);
  BackwardProblem p = sizes_of(f, block_offsets, dq);
  const CallScratch scratch = lay_out(f.call.workspace, f.call, f.q, p);
  copy_all_offsets(f.call, block_offsets, scratch, p);
  p.selection.selected = rows_of<const std::int32_t>(f.selection);
  with_dtype(f.q, [&](auto zero) {
    using T = decltype(zero);
    const auto rows = baseline::backward_rows<T>(params);
    const Gradients<T> to{rows_of<T>(params.dq), rows_of<T>(params.dk), rows_of<T>(params.dv)};
    if constexpr (!std::is_same_v<T, float>)
      if (is_listed(f.q, p)) return attend_backward<T>(p, rows, to, scratch.stages, make_dq, f.call.stream);
    attend_backward_by_rows<T>(p, f.k.shape[0], rows, to, f.call.stream);
  });
}

template <class Forward>
std::int64_t backward_bytes(const Forward& f, QueryGradients dq) {
  const auto block_offsets = run_offsets(f.call.k_offsets, f.call.num_sequences, f.block);
  return lay_out(nullptr, f.call, f.q, sizes_of(f, block_offsets, dq)).bytes;
}

}  // namespace

const char* moba_backward(const AttnspecMobaBackward* params, QueryGradients dq) {
  return reason_of([&] { backward(*params, dq, {}); });
}

const char* selected_backward(const AttnspecSelectedBackward* params, QueryGradients dq,
                              const MakeQueryGradients& make_dq) {
  return reason_of([&] { backward(*params, dq, make_dq); });
}

std::int64_t moba_backward_bytes(const AttnspecMoba& forward, QueryGradients dq) { return backward_bytes(forward, dq); }

std::int64_t selected_backward_bytes(const AttnspecSelected& forward, QueryGradients dq) {
  return backward_bytes(forward, dq);
}

bool can_be_listed(const AttnspecSelected& f, QueryGradients dq) {
  const auto block_offsets = run_offsets(f.call.k_offsets, f.call.num_sequences, f.block);
  return is_listed(f.q, sizes_of(f, block_offsets, dq));
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
