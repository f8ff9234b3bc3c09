// The calls of nsa_compress.
#pragma once

#include "reference/problem.hpp"
#include "verify/operators/phi.hpp"
#include "verify/run/calls/calls.hpp"
#include "verify/run/calls/names.hpp"

namespace attnspec::verify {

class CompressionCalls : public Calls {
 public:
  CompressionCalls(const Kernel& kernel, const Case& c, const Inputs& inputs);

  void forward(CaseResult& result) override;
  void backward(const reference::Selection&, CaseResult& result) override;
  bool has_backward() const override { return static_cast<bool>(kernel_.compress_backward); }
  std::vector<NamedTensor> forward_outputs() override {
    return {{CompressionNames().rows, rows, RowsOf::compressed_rows}};
  }
  std::vector<NamedTensor> backward_outputs() override;

 private:
  std::vector<NamedTensor> inputs();
  CompressCall call();

  reference::NsaProblem problem_;
  HostTensor tokens_, d_rows_;
  PhiTensors<HostTensor> phi_;

 public:
  HostTensor rows, d_tokens;  // the kernel's
  PhiTensors<HostTensor> d_phi;
};

}  // namespace attnspec::verify
