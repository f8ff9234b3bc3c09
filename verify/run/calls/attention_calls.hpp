// The calls of the operators that attend or select, but for the whole of NSA.
#pragma once

#include "reference/problem.hpp"
#include "verify/run/calls/calls.hpp"

namespace attnspec::verify {

class AttentionCalls : public Calls {
 public:
  AttentionCalls(const Kernel& kernel, const Case& c, const Inputs& inputs);

  void forward(CaseResult& result) override;
  void backward(const reference::Selection& selection, CaseResult& result) override;
  bool has_backward() const override { return attends(case_.op) && kernel_.backward; }
  std::vector<NamedTensor> forward_outputs() override;
  std::vector<NamedTensor> backward_outputs() override;

 private:
  std::vector<NamedTensor> inputs();
  ForwardCall call(bool is_forward);

  reference::MobaProblem problem_;
  reference::NsaProblem nsa_;
  const reference::Selection& given_;  // of `selected`
  HostTensor q_, k_, v_, d_o_;

 public:
  HostTensor o, lse, dq, dk, dv;  // the kernel's; lse is the judge's where the kernel keeps its own to itself
};

}  // namespace attnspec::verify
