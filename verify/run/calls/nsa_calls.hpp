// The calls of the whole of NSA.
#pragma once

#include <array>

#include "reference/nsa/nsa.hpp"
#include "verify/operators/phi.hpp"
#include "verify/run/calls/calls.hpp"
#include "verify/run/calls/names.hpp"

namespace attnspec::verify {

/// What one branch reads and writes. k and v of the compressed branch are tokens.
struct BranchTensors {
  HostTensor &k, &v;  // several branches may share theirs
  HostTensor o, lse, dk, dv;

  BranchCall call(bool exports_lse) {
    return {k.view(), v.view(), o.view(), exports_lse ? lse.view() : absent_tensor(Format::fp32)};
  }
  BranchGradientViews gradients() { return {dk.view(), dv.view()}; }
};

class NsaCalls : public Calls {
 public:
  NsaCalls(const Kernel& kernel, const Case& c, const Inputs& inputs);

  void forward(CaseResult& result) override;
  void backward(const reference::Selection& selection, CaseResult& result) override;
  bool has_backward() const override { return static_cast<bool>(kernel_.nsa_backward); }
  std::vector<NamedTensor> forward_outputs() override;
  std::vector<NamedTensor> backward_outputs() override;

 private:
  BranchTensors branch(HostTensor& k, HostTensor& v) const;
  std::vector<NamedTensor> inputs();
  /// What the forward leaves for the backward.
  std::vector<NamedTensor> kept();
  NsaCall call();

  reference::NsaProblem problem_;
  std::int64_t queries_, tokens_, compressed_rows_;
  HostTensor q_, gates_, d_o_, k_, v_, k_selected_, v_selected_, k_window_, v_window_;
  PhiTensors<HostTensor> phi_k_, phi_v_;

 public:
  HostTensor k_compressed, v_compressed, o;  // the kernel's
  std::array<BranchTensors, 3> branches;
  HostTensor dq, d_gates, dk_compressed, dv_compressed;
  PhiTensors<HostTensor> d_phi_k, d_phi_v;
};

}  // namespace attnspec::verify
