// What the launchers of all operators share: a call's offsets on the device, its attention, and the memory it may
// touch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/launcher.cuh"
#include "cuda/thread_per_row/rows.hpp"
#include "cuda/workspace.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::thread_per_row {

/// Room for a call's offsets on the device.
struct Offsets {
  std::int64_t *q, *k;
};

inline Offsets take_offsets(Workspace& workspace, const AttnspecCall& call) {
  return {workspace.take<std::int64_t>(call.num_sequences + 1), workspace.take<std::int64_t>(call.num_sequences + 1)};
}

/// Fills the offsets of one kind.
inline void copy_offsets(const AttnspecCall& call, std::int64_t* to, const std::int64_t* from) {
  copy_to_device(to, from, static_cast<std::size_t>(call.num_sequences + 1) * sizeof(std::int64_t), call.stream);
}

/// The sequences of a call, whose offsets it fills.
inline Sequences sequences_of(const AttnspecCall& call, const Offsets& offsets) {
  copy_offsets(call, offsets.q, call.q_offsets);
  copy_offsets(call, offsets.k, call.k_offsets);
  return {offsets.q, offsets.k, call.num_sequences, call.causal != 0};
}

inline Attention attention_of(const AttnspecCall& call, const Sequences& sequences, const DLTensor& q,
                              const DLTensor& k, std::int64_t dv) {
  return {sequences,
          q.shape[0],
          k.shape[0],
          static_cast<int>(q.shape[1]),
          static_cast<int>(k.shape[1]),
          static_cast<int>(q.shape[2]),
          static_cast<int>(dv),
          static_cast<float>(call.scale)};
}

inline constexpr Blocks kAllKeys{nullptr, 0, 1, std::int64_t{1} << 60};

inline Blocks blocks_of(const DLTensor& selection, std::int64_t block) {
  return {static_cast<const std::int32_t*>(selection.data), selection.shape[1], selection.shape[2], block};
}

/// The tensors of a forward of any operator that attends.
template <class Params>
void add_tensors(const Params& p, Buffers& buffers) {
  buffers.add("q", p.q), buffers.add("k", p.k), buffers.add("v", p.v), buffers.add("o", p.o);
  buffers.add("lse", p.lse);
  buffers.add("workspace", p.call.workspace, p.call.workspace_bytes);
}

/// Those that its backward has beside them.
template <class Params>
void add_gradients(const Params& p, Buffers& buffers) {
  buffers.add("do", p.d_o), buffers.add("dq", p.dq), buffers.add("dk", p.dk), buffers.add("dv", p.dv);
}

template <class T, class Params>
void forward(const Params& p, const Blocks& blocks, const Attention& a) {
  attend<T>(a, blocks, rows_of<const T>(p.q), rows_of<const T>(p.k), rows_of<const T>(p.v), rows_of<T>(p.o),
            rows_of<float>(p.lse), p.call.stream);
}

template <class T, class Params>
void backward(const Params& p, const Blocks& blocks, const Attention& a) {
  const auto& f = *p.forward;
  const BackwardRows<T> rows{rows_of<const T>(f.q), rows_of<const T>(f.k),       rows_of<const T>(f.v),
                             rows_of<const T>(f.o), rows_of<const float>(f.lse), rows_of<const T>(p.d_o)};
  attend_backward<T>(a, blocks, rows, rows_of<T>(p.dq), rows_of<T>(p.dk), rows_of<T>(p.dv), f.call.stream);
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::thread_per_row
