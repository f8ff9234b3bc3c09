// The kernel as the judge takes it: its declaration, its launchers but those of NSA, and what a call needs of a
// workspace.
#include <vector>

#include "cuda/baseline/calls.hpp"
#include "cuda/baseline/index_calls.hpp"
#include "cuda/baseline/nsa_calls.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

/// What a call keeps in its workspace: offsets, and for MoBA the mean keys of every block.
struct Scratch {
  Offsets offsets;
  std::int64_t* mean_offsets;
  float* means;
  std::int64_t bytes;
};

/// means: floats.
Scratch lay_out(const AttnspecCall& call, std::int64_t means) {
  Workspace workspace(call.workspace);
  Scratch scratch{};
  scratch.offsets = take_offsets(workspace, call);
  scratch.mean_offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  scratch.means = workspace.take<float>(means);
  scratch.bytes = workspace.bytes();
  return scratch;
}

/// Attention to tokens.
template <class Params>
Attention token_attention(const Params& p, const Scratch& scratch) {
  return attention_of(p.call, sequences_of(p.call, scratch.offsets), p.q, p.k, p.v.shape[2]);
}

/// Pools and selects, for moba and moba_select. offsets: those of the means, on the host.
template <class T, class Params>
void select(const Params& p, const Attention& a, const Scratch& scratch, const std::vector<std::int64_t>& offsets) {
  copy_to_device(scratch.mean_offsets, offsets.data(), offsets.size() * sizeof(std::int64_t), p.call.stream);
  pool_keys<T>(a, p.block, offsets.back(), scratch.mean_offsets, rows_of<const T>(p.k), scratch.means, p.call.stream);
  select_blocks<T>(a, {p.block, p.top_k, p.selection.shape[2], p.gate}, scratch.mean_offsets, rows_of<const T>(p.q),
                   scratch.means, rows_of<std::int32_t>(p.selection), p.call.stream);
}

std::int64_t num_means(const std::vector<std::int64_t>& offsets, const DLTensor& k) {
  return offsets.back() * k.shape[1] * k.shape[2];
}

const char* dense(const AttnspecDense* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    with_dtype(p->q,
               [&](auto zero) { forward<decltype(zero)>(*p, kAllKeys, token_attention(*p, lay_out(p->call, 0))); });
  });
}

/// The backward of an operator whose keys are tokens.
template <class Params>
const char* backward_of(const Params& p, const Blocks& blocks) {
  return reason_of([&] {
    const auto& f = *p.forward;
    Buffers buffers;
    add_tensors(f, buffers);
    add_gradients(p, buffers);
    if constexpr (requires { f.selection; }) buffers.add("selection", f.selection);
    with_dtype(f.q, [&](auto zero) { backward<decltype(zero)>(p, blocks, token_attention(f, lay_out(f.call, 0))); });
  });
}

const char* dense_backward(const AttnspecDenseBackward* p) { return backward_of(*p, kAllKeys); }

const char* selected(const AttnspecSelected* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    buffers.add("selection", p->selection);
    with_dtype(p->q, [&](auto zero) {
      forward<decltype(zero)>(*p, blocks_of(p->selection, p->block), token_attention(*p, lay_out(p->call, 0)));
    });
  });
}

const char* selected_backward(const AttnspecSelectedBackward* p) {
  return backward_of(*p, blocks_of(p->forward->selection, p->forward->block));
}

const char* moba_select(const AttnspecMobaSelect* p) {
  return reason_of([&] {
    Buffers buffers;
    buffers.add("q", p->q), buffers.add("k", p->k), buffers.add("selection", p->selection);
    buffers.add("workspace", p->call.workspace, p->call.workspace_bytes);
    with_dtype(p->q, [&](auto zero) {
      const auto offsets = run_offsets(p->call.k_offsets, p->call.num_sequences, p->block);
      const Scratch scratch = lay_out(p->call, num_means(offsets, p->k));
      const Attention a = attention_of(p->call, sequences_of(p->call, scratch.offsets), p->q, p->k, 0);
      select<decltype(zero)>(*p, a, scratch, offsets);
    });
  });
}

const char* moba(const AttnspecMoba* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    buffers.add("selection", p->selection);
    with_dtype(p->q, [&](auto zero) {
      const auto offsets = run_offsets(p->call.k_offsets, p->call.num_sequences, p->block);
      const Scratch scratch = lay_out(p->call, num_means(offsets, p->k));
      const Attention a = token_attention(*p, scratch);
      select<decltype(zero)>(*p, a, scratch, offsets);
      forward<decltype(zero)>(*p, blocks_of(p->selection, p->block), a);
    });
  });
}

const char* moba_backward(const AttnspecMobaBackward* p) {
  return backward_of(*p, blocks_of(p->forward->selection, p->forward->block));
}

/// A call's params begin with its AttnspecCall, which says where the workspace is: none yet.
std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  AttnspecCall call = *static_cast<const AttnspecCall*>(params);
  call.workspace = nullptr;
  if (op >= ATTNSPEC_MSA_SELECT) return index_workspace_bytes(call);
  if (op >= ATTNSPEC_NSA_COMPRESS) return nsa_workspace_bytes(op, is_backward, params);
  const auto bytes = [&](std::int64_t block, const DLTensor& k) {
    return lay_out(call, num_means(run_offsets(call.k_offsets, call.num_sequences, block), k)).bytes;
  };
  if (is_backward == 0 && op == ATTNSPEC_MOBA) {
    const auto* p = static_cast<const AttnspecMoba*>(params);
    return bytes(p->block, p->k);
  }
  if (is_backward == 0 && op == ATTNSPEC_MOBA_SELECT) {
    const auto* p = static_cast<const AttnspecMobaSelect*>(params);
    return bytes(p->block, p->k);
  }
  return lay_out(call, 0).bytes;
}

AttnspecKernel declare() {
  AttnspecKernel kernel = named_kernel("baseline", "all operators; a thread for each row or number that is written");
  kernel.arithmetic = "fp32_weights";
  kernel.operators = ATTNSPEC_DENSE | ATTNSPEC_SELECTED | ATTNSPEC_MOBA_SELECT | ATTNSPEC_MOBA | ATTNSPEC_NSA_COMPRESS |
                     ATTNSPEC_NSA_COMPRESSED | ATTNSPEC_WINDOW | ATTNSPEC_NSA | ATTNSPEC_MSA_SELECT |
                     ATTNSPEC_DSA_SELECT | ATTNSPEC_QSA_SELECT;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.dense = dense;
  kernel.dense_backward = dense_backward;
  kernel.selected = selected;
  kernel.selected_backward = selected_backward;
  kernel.moba_select = moba_select;
  kernel.moba = moba;
  kernel.moba_backward = moba_backward;
  kernel.nsa_compress = nsa_compress;
  kernel.nsa_compress_backward = nsa_compress_backward;
  kernel.nsa_compressed = nsa_compressed;
  kernel.nsa_compressed_backward = nsa_compressed_backward;
  kernel.window = window;
  kernel.window_backward = window_backward;
  kernel.nsa = nsa;
  kernel.nsa_backward = nsa_backward;
  kernel.msa_select = msa_select;
  kernel.dsa_select = dsa_select;
  kernel.qsa_select = qsa_select;
  kernel.limits.dk.largest = kernel.limits.dv.largest = kMaxFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
