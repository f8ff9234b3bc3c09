// What the launchers of all kernels share: the offsets of a call on the device, the memory that it may touch, and the
// declaration of a kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/launcher.cuh"
#include "cuda/tensors.cuh"
#include "cuda/workspace.hpp"
#include "verify/abi/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

/// Room for a call's offsets on the device.
struct Offsets {
  std::int64_t *q, *k;
};

inline Offsets take_offsets(Workspace& workspace, const AttnspecCall& call) {
  return {workspace.take<std::int64_t>(call.num_sequences + 1), workspace.take<std::int64_t>(call.num_sequences + 1)};
}

/// Fills offsets of one kind: [num_sequences + 1].
inline void copy_offsets(const AttnspecCall& call, std::int64_t* to, const std::int64_t* from) {
  copy_to_device(to, from, static_cast<std::size_t>(call.num_sequences + 1) * sizeof(std::int64_t), call.stream);
}

inline void copy_offsets(const AttnspecCall& call, const Offsets& to) {
  copy_offsets(call, to.q, call.q_offsets);
  copy_offsets(call, to.k, call.k_offsets);
}

/// Every sequence is cut into runs (blocks, tiles) of `run` rows, the last one maybe shorter: the number of each
/// sequence's first run, and that of all runs at the end. A token has `rows` rows.
inline std::vector<std::int64_t> run_offsets(const std::int64_t* offsets, std::int64_t num_sequences, std::int64_t run,
                                             std::int64_t rows = 1) {
  std::vector<std::int64_t> runs{0};
  for (std::int64_t s = 0; s < num_sequences; ++s)
    runs.push_back(runs.back() + ((offsets[s + 1] - offsets[s]) * rows + run - 1) / run);
  return runs;
}

/// Calls use(zero) with a zero of the tensor's type: bf16 or fp16.
template <class Use>
void with_16_bits(const DLTensor& tensor, const Use& use) {
  if (tensor.dtype.code == kDLBfloat) return use(bf16{});
  use(fp16{});
}

/// The tensors of a forward of any operator that attends, but for its selection.
template <class Params>
void add_tensors(const Params& p, Buffers& buffers) {
  buffers.add("q", p.q), buffers.add("k", p.k), buffers.add("v", p.v), buffers.add("o", p.o);
  buffers.add("lse", p.lse);
  buffers.add("workspace", p.call.workspace, p.call.workspace_bytes);
}

/// Those that its backward has beside them.
template <class Params>
void add_gradients(const Params& p, Buffers& buffers) {
  buffers.add("d_o", p.d_o), buffers.add("dq", p.dq), buffers.add("dk", p.dk), buffers.add("dv", p.dv);
}

/// The parameters of phi, or their gradients.
inline void add_phi(const std::string& name, const AttnspecPhi& phi, Buffers& buffers) {
  const auto add = [&](const char* part, const DLTensor& tensor) { buffers.add((name + part).c_str(), tensor); };
  add(".position", phi.position), add(".w", phi.w), add(".w1", phi.w1), add(".b1", phi.b1), add(".w2", phi.w2);
  add(".b2", phi.b2);
}

/// A part of a call, as a call: the head of the whole and all of its workspace, as yet nothing else.
template <class Part, class Whole>
Part part_of(const Whole& whole) {
  Part part{};
  part.call = whole.call;
  part.call.struct_size = sizeof part;
  return part;
}

/// A kernel without operators.
inline AttnspecKernel named_kernel(const char* name, const char* summary) {
  AttnspecKernel kernel{};
  kernel.struct_size = sizeof kernel;
  kernel.abi_version = ATTNSPEC_ABI_VERSION;
  kernel.device_type = kDeviceType;
  kernel.name = name;
  kernel.summary = summary;
  kernel.arithmetic = "";
  return kernel;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
