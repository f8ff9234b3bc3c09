// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <algorithm>
#include <vector>

#include "cuda/launcher.cuh"
#include "cuda/thread_per_row/rows.hpp"
#include "cuda/workspace.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::thread_per_row {

namespace {

/// What a call keeps in its workspace: offsets, and for MoBA the mean keys of every block.
struct Scratch {
  std::int64_t *q_offsets, *k_offsets, *mean_offsets;
  float* means;
  std::int64_t bytes;
};

/// The first mean of each sequence, and how many there are; none where nothing is pooled.
std::vector<std::int64_t> mean_offsets(const AttnspecCall& call, std::int64_t block) {
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t s = 0; s < call.num_sequences && block > 0; ++s)
    offsets.push_back(offsets.back() + (call.k_offsets[s + 1] - call.k_offsets[s] + block - 1) / block);
  return offsets;
}

/// block: of what is pooled; 0: nothing is. means: floats.
Scratch lay_out(const AttnspecCall& call, std::int64_t means) {
  Workspace workspace(call.workspace);
  Scratch scratch{};
  scratch.q_offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  scratch.k_offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  scratch.mean_offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  scratch.means = workspace.take<float>(means);
  scratch.bytes = workspace.bytes();
  return scratch;
}

/// The attention of a call, with its offsets on the device.
Attention attention_of(const AttnspecCall& call, const Scratch& scratch, const DLTensor& q, const DLTensor& k,
                       std::int64_t dv) {
  const auto bytes = static_cast<std::size_t>(call.num_sequences + 1) * sizeof(std::int64_t);
  copy_to_device(scratch.q_offsets, call.q_offsets, bytes, call.stream);
  copy_to_device(scratch.k_offsets, call.k_offsets, bytes, call.stream);
  return {{scratch.q_offsets, scratch.k_offsets, call.num_sequences, call.causal != 0},
          q.shape[0],
          k.shape[0],
          static_cast<int>(q.shape[1]),
          static_cast<int>(k.shape[1]),
          static_cast<int>(q.shape[2]),
          static_cast<int>(dv),
          static_cast<float>(call.scale)};
}

constexpr Blocks kAllKeys{nullptr, 0, 1, std::int64_t{1} << 60};

Blocks blocks_of(const DLTensor& selection, std::int64_t block) {
  return {static_cast<const std::int32_t*>(selection.data), selection.shape[1], selection.shape[2], block};
}

/// The tensors of a forward or backward, of any operator that attends.
template <class Params>
struct AttentionBuffers {
  Buffers buffers;

  explicit AttentionBuffers(const Params& p) {
    buffers.add("q", p.q), buffers.add("k", p.k), buffers.add("v", p.v), buffers.add("o", p.o);
    buffers.add("lse", p.lse);
    buffers.add("workspace", p.call.workspace, p.call.workspace_bytes);
  }
};

template <class T, class Params>
void forward(const Params& p, const Blocks& blocks, const Attention& a) {
  attend<T>(a, blocks, rows_of<const T>(p.q), rows_of<const T>(p.k), rows_of<const T>(p.v), rows_of<T>(p.o),
            rows_of<float>(p.lse), p.call.stream);
}

template <class Params>
void backward(const Params& p, const Blocks& blocks) {
  const auto& f = *p.forward;
  const AttentionBuffers access(f);
  Buffers buffers;
  buffers.add("do", p.d_o), buffers.add("dq", p.dq), buffers.add("dk", p.dk), buffers.add("dv", p.dv);
  if (blocks.data != nullptr)
    buffers.add("selection", blocks.data, f.q.shape[0] * blocks.heads * blocks.slots * std::int64_t{4});
  with_dtype(f.q, [&](auto zero) {
    using T = decltype(zero);
    const Attention a = attention_of(f.call, lay_out(f.call, 0), f.q, f.k, f.v.shape[2]);
    const BackwardRows<T> rows{rows_of<const T>(f.q), rows_of<const T>(f.k),       rows_of<const T>(f.v),
                               rows_of<const T>(f.o), rows_of<const float>(f.lse), rows_of<const T>(p.d_o)};
    attend_backward<T>(a, blocks, rows, rows_of<T>(p.dq), rows_of<T>(p.dk), rows_of<T>(p.dv), f.call.stream);
  });
}

/// Pools and selects, for moba and moba_select.
template <class T, class Params>
void select(const Params& p, const Attention& a, const Scratch& scratch, const std::vector<std::int64_t>& offsets) {
  copy_to_device(scratch.mean_offsets, offsets.data(), offsets.size() * sizeof(std::int64_t), p.call.stream);
  pool_keys<T>(a, p.block, offsets.back(), scratch.mean_offsets, rows_of<const T>(p.k), scratch.means, p.call.stream);
  select_blocks<T>(a, {p.block, p.top_k, p.selection.shape[2], p.gate}, scratch.mean_offsets, rows_of<const T>(p.q),
                   scratch.means, static_cast<std::int32_t*>(p.selection.data), p.call.stream);
}

std::int64_t num_means(const std::vector<std::int64_t>& offsets, const DLTensor& k) {
  return offsets.back() * k.shape[1] * k.shape[2];
}

const char* dense(const AttnspecDense* p) {
  return reason_of([&] {
    const AttentionBuffers access(*p);
    with_dtype(p->q, [&](auto zero) {
      forward<decltype(zero)>(*p, kAllKeys, attention_of(p->call, lay_out(p->call, 0), p->q, p->k, p->v.shape[2]));
    });
  });
}

const char* dense_backward(const AttnspecDenseBackward* p) {
  return reason_of([&] { backward(*p, kAllKeys); });
}

const char* selected(const AttnspecSelected* p) {
  return reason_of([&] {
    AttentionBuffers access(*p);
    access.buffers.add("selection", p->selection);
    with_dtype(p->q, [&](auto zero) {
      forward<decltype(zero)>(*p, blocks_of(p->selection, p->block),
                              attention_of(p->call, lay_out(p->call, 0), p->q, p->k, p->v.shape[2]));
    });
  });
}

const char* selected_backward(const AttnspecSelectedBackward* p) {
  return reason_of([&] { backward(*p, blocks_of(p->forward->selection, p->forward->block)); });
}

const char* moba_select(const AttnspecMobaSelect* p) {
  return reason_of([&] {
    Buffers buffers;
    buffers.add("q", p->q), buffers.add("k", p->k), buffers.add("selection", p->selection);
    buffers.add("workspace", p->call.workspace, p->call.workspace_bytes);
    with_dtype(p->q, [&](auto zero) {
      const auto offsets = mean_offsets(p->call, p->block);
      const Scratch scratch = lay_out(p->call, num_means(offsets, p->k));
      select<decltype(zero)>(*p, attention_of(p->call, scratch, p->q, p->k, 0), scratch, offsets);
    });
  });
}

const char* moba(const AttnspecMoba* p) {
  return reason_of([&] {
    AttentionBuffers access(*p);
    access.buffers.add("selection", p->selection);
    with_dtype(p->q, [&](auto zero) {
      const auto offsets = mean_offsets(p->call, p->block);
      const Scratch scratch = lay_out(p->call, num_means(offsets, p->k));
      const Attention a = attention_of(p->call, scratch, p->q, p->k, p->v.shape[2]);
      select<decltype(zero)>(*p, a, scratch, offsets);
      forward<decltype(zero)>(*p, blocks_of(p->selection, p->block), a);
    });
  });
}

const char* moba_backward(const AttnspecMobaBackward* p) {
  return reason_of([&] { backward(*p, blocks_of(p->forward->selection, p->forward->block)); });
}

/// A call's params begin with its AttnspecCall, which says where the workspace is: none yet.
std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  AttnspecCall call = *static_cast<const AttnspecCall*>(params);
  call.workspace = nullptr;
  const auto bytes = [&](std::int64_t block, const DLTensor& k) {
    return lay_out(call, num_means(mean_offsets(call, block), k)).bytes;
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
  AttnspecKernel kernel{};
  kernel.struct_size = sizeof kernel;
  kernel.abi_version = ATTNSPEC_ABI_VERSION;
  kernel.device_type = kDeviceType;
  kernel.name = "thread_per_row";
  kernel.summary = "dense attention, attention to given blocks and MoBA; a thread for each row that is written";
  kernel.departures = "fp32_weights";
  kernel.operators = ATTNSPEC_DENSE | ATTNSPEC_SELECTED | ATTNSPEC_MOBA_SELECT | ATTNSPEC_MOBA;
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
  kernel.limits.dk.largest = kernel.limits.dv.largest = kMostFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::thread_per_row
