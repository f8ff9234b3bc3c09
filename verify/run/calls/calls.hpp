// The calls of one case: memory for everything that a kernel reads and writes, and its forward and backward, each run
// under guard. What the judge judges, and what laws compare.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "reference/selected.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/judge/result.hpp"
#include "verify/operators/phi.hpp"
#include "verify/run/calls/guarded_run.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// All of a case's tensors lie in the kernel's memory, in its layout, between guards. The kernel and the case must
/// outlive the calls.
class Calls {
 public:
  virtual ~Calls() = default;
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  /// Runs the forward, and adds what it did to memory to the result. Throws CallFailed.
  virtual void forward(CaseResult& result) = 0;
  /// Runs the backward likewise, on what the forward left. selection: the one that it reads, of operators that have
  /// one.
  virtual void backward(const reference::Selection& selection, CaseResult& result) = 0;

  virtual bool has_backward() const = 0;
  /// What the forward and the backward write, but for the selection; by the names of the judge.
  virtual std::vector<NamedTensor> forward_outputs() = 0;
  virtual std::vector<NamedTensor> backward_outputs() = 0;
  /// The selection as the last call left it.
  reference::Selection exported() const { return given_.values(); }

 protected:
  Calls(const Kernel& kernel, const Case& c);

  /// Runs a call under guard. selection: what it reads, or the shape of what it writes. promise: of such calls.
  void run(const std::vector<NamedTensor>& inputs, const std::vector<NamedTensor>& outputs,
           const reference::Selection& selection, SelectionUse use, EqualBits promise,
           const std::function<void()>& call, CaseResult& result);

  std::span<std::byte> workspace();
  /// Where the kernel finds its selection; valid while a call runs.
  SelectionView selection() { return given_.view(); }

  /// Copies of inputs.
  HostTensor input(const reference::Tensor& values) const;
  PhiTensors<HostTensor> input(const PhiTensors<reference::Tensor>& values) const;
  /// Memory for outputs, in the format that the kernel declares for them.
  HostTensor output(std::int64_t tokens, std::int64_t heads, std::int64_t dim) const;
  PhiTensors<HostTensor> output_like(const PhiTensors<reference::Tensor>& values) const;
  /// Memory for compressed rows, in the dtype of the inputs.
  HostTensor compressed(std::int64_t tokens, std::int64_t heads, std::int64_t dim) const;
  /// Memory for lse, fp32.
  HostTensor statistics(std::int64_t tokens, std::int64_t heads) const;

  const Kernel& kernel_;
  const Case& case_;

 private:
  HostTensor blank(Format format, std::int64_t tokens, std::int64_t heads, std::int64_t dim) const;

  Format output_format_;
  std::int64_t workspace_bytes_;
  HostTensor workspace_;
  HostSelection given_;
};

/// The calls of a case's operator on these inputs.
std::unique_ptr<Calls> make_calls(const Kernel& kernel, const Case& c, const Inputs& inputs);

}  // namespace attnspec::verify
