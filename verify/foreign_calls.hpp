// Calls of a kernel through the C interface of kernel_abi.h.
#pragma once

#include <cstdint>
#include <string>

#include "verify/kernel.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::verify {

constexpr std::uint32_t bit_of(Operator op) { return 1u << static_cast<unsigned>(op); }
constexpr std::uint32_t bit_of(Format format) {
  return format == Format::bf16 ? ATTNSPEC_BF16 : format == Format::fp16 ? ATTNSPEC_FP16 : ATTNSPEC_FP32;
}
constexpr std::uint32_t bit_of(reference::Gate gate) {
  return gate == reference::Gate::top_k    ? ATTNSPEC_GATE_TOP_K
         : gate == reference::Gate::window ? ATTNSPEC_GATE_WINDOW
                                           : ATTNSPEC_GATE_SINK;
}
constexpr std::uint32_t bit_of(reference::Phi phi) {
  return phi == reference::Phi::mean     ? ATTNSPEC_PHI_MEAN
         : phi == reference::Phi::linear ? ATTNSPEC_PHI_LINEAR
                                         : ATTNSPEC_PHI_MLP;
}
constexpr std::uint32_t bit_of(reference::Activation activation) {
  return activation == reference::Activation::relu   ? ATTNSPEC_RELU
         : activation == reference::Activation::silu ? ATTNSPEC_SILU
                                                     : ATTNSPEC_GELU;
}

/// Runs the calls of a foreign kernel: translates them, puts their tensors where the kernel wants them, and enters its
/// functions, all of them in one place. Throws CallFailed with the message that a function returned, and when the GPU
/// reports an error.
class ForeignCalls {
 public:
  /// kernel: a declaration that was checked.
  ForeignCalls(const AttnspecKernel& kernel, std::string name) : kernel_(kernel), name_(std::move(name)) {}

  void forward(const ForwardCall& call) const;
  void forward(const CompressCall& call) const;
  void forward(const NsaCall& call) const;
  void backward(const BackwardCall& call) const;
  void backward(const CompressBackwardCall& call) const;
  void backward(const NsaBackwardCall& call) const;

  /// What a forward and a backward of this call need, the larger of both. Its tensors need no data.
  std::int64_t workspace_bytes(const ForwardCall& call) const;
  std::int64_t workspace_bytes(const CompressCall& call) const;
  std::int64_t workspace_bytes(const NsaCall& call) const;

 private:
  AttnspecKernel kernel_;
  std::string name_;
};

}  // namespace attnspec::verify
