// Judging NSA's compression: its rows, and the gradients of tokens and parameters from the gradient of the rows.
#pragma once

#include "verify/judge/tally.hpp"
#include "verify/operators/phi.hpp"
#include "verify/run/calls/names.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify {

/// A compression that a kernel computed: nsa_compress, or phi of nsa's keys or values.
struct CompressionStage {
  CompressionNames names;
  const reference::NsaProblem& problem;
  const reference::Tensor& tokens;
  reference::PhiHeads phi;
};

/// rows [compressed rows, Hkv, features], the kernel's.
void judge_compressed_rows(const reference::Arithmetic& arithmetic, const CompressionStage& stage,
                           const TensorView& rows, const RowObserver& observe, CaseResult& result);

/// d_rows is what the backward was given or, in nsa, what it stored; d_tokens and d_phi are the kernel's.
void judge_compression_gradients(const reference::Arithmetic& arithmetic, const CompressionStage& stage,
                                 const reference::Tensor& d_rows, const TensorView& d_tokens,
                                 const PhiTensors<TensorView>& d_phi, const RowObserver& observe, CaseResult& result);

}  // namespace attnspec::verify
