// What the judge and a worker say to each other. The worker begins with a Hello; then each Request has one Reply.
#pragma once

#include <cstdint>
#include <string>

#include "verify/run/foreign_calls.hpp"
#include "verify/run/foreign_kernel.hpp"
#include "verify/run/worker/archive.hpp"

namespace attnspec::verify {

/// What the worker found. refusal: why there is no kernel, one line; empty where there is one. several: the names of
/// the kernels of a file that has more than one, separated by line ends; empty where there is one.
struct Hello {
  std::string refusal, several;
  Declaration declaration;
};

/// What is asked of a call. A TimingPlan, which `time` alone reads, and the call follow.
enum class Ask { run, time, workspace_bytes };

enum class Outcome { done, failed, could_not_run };  // failed: the kernel said so; could_not_run: it was not entered

struct Reply {
  Outcome outcome = Outcome::done;
  std::string message;  // of the others; of `failed` the text of CallFailed
  std::int64_t workspace_bytes = 0;
  Timing timing;
};

// ---- The fields of every struct that is sent ----

void fields(auto& a, Is<Hello> auto& x) { a(x.refusal, x.several, x.declaration); }
void fields(auto& a, Is<Reply> auto& x) { a(x.outcome, x.message, x.workspace_bytes, x.timing); }

void fields(auto& a, Is<TimingPlan> auto& x) { a(x.warm_ups, x.repetitions, x.seconds, x.seed); }
void fields(auto& a, Is<Timing> auto& x) { a(x.on_device, x.runs, x.kernels); }

void fields(auto& a, Is<Declaration> auto& x) {
  a(x.summary, x.arithmetic, x.operators, x.forward_only, x.equal_bits, x.equal_bits_backward, x.exports_selection,
    x.exports_lse, x.has_workspace, x.is_on_device, x.limits);
}
void fields(auto& a, Is<Limits> auto& x) {
  a(x.dk, x.dv, x.group, x.block, x.top_k, x.compress_block, x.window_size, x.queries, x.keys, x.sequences, x.dtypes,
    x.gates, x.phis, x.scale, x.equal_lengths, x.selection_per, x.selection_order, x.forced_blocks, x.only_causal,
    x.only_equal_dims, x.only_equal_blocks, x.no_empty_sequences, x.no_rows_without_keys);
}
void fields(auto& a, Is<SizeLimit> auto& x) { a(x.smallest, x.largest, x.multiple_of, x.set, x.power_of_two); }
void fields(auto& a, Is<ForcedBlocks> auto& x) { a(x.initial, x.local); }

void fields(auto& a, Is<reference::AttentionProblem> auto& x) {
  a(x.q_offsets, x.k_offsets, x.heads, x.kv_heads, x.dk, x.dv, x.scale, x.causal);
}
void fields(auto& a, Is<reference::MobaProblem> auto& x) { a(x.attention, x.block, x.top_k, x.gate); }
void fields(auto& a, Is<reference::NsaProblem> auto& x) {
  a(x.attention, x.compress_block, x.compress_stride, x.phi, x.activation, x.hidden, x.shared_phi, x.block, x.top_n,
    x.initial_blocks, x.local_blocks, x.window);
}

void fields(auto& a, Is<TensorView> auto& x) {
  a(x.data, x.format, x.tokens, x.heads, x.dim, x.token_stride, x.head_stride);
}
void fields(auto& a, Is<SelectionView> auto& x) {
  a(x.data, x.tokens, x.heads, x.slots, x.token_stride, x.head_stride);
}
void fields(auto& a, Is<AnyCall> auto& x) {
  a(x.op, x.is_backward, x.problem, x.nsa, x.tensors, x.selection, x.workspace);
}

}  // namespace attnspec::verify

namespace attnspec::cuda {

void fields(auto& a, verify::Is<RunTime> auto& x) { a(x.stream, x.host); }
void fields(auto& a, verify::Is<KernelTime> auto& x) { a(x.name, x.milliseconds); }

}  // namespace attnspec::cuda
