// The calls of one case: memory for everything that a kernel reads and writes, and its forward and backward, each run
// under guard. What the judge judges, and what laws compare.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reference/tensor.hpp"
#include "verify/cases/regimes.hpp"
#include "verify/operators/operator.hpp"
#include "verify/operators/phi.hpp"
#include "verify/run/calls/guarded_run.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// All of a case's tensors lie in the kernel's memory, in its layout, between guards. The kernel, the case and the
/// inputs must outlive the calls.
class Calls {
 public:
  Calls(const Kernel& kernel, const Case& c, const Inputs& inputs);

  /// Runs the forward, and tells what it did to memory. Throws CallFailed.
  std::vector<MemoryFault> forward();
  /// Runs the backward likewise, on what the forward left. selection: the one that it reads, of operators that have
  /// one.
  std::vector<MemoryFault> backward(const reference::Selection& selection);
  bool has_backward() const { return verify::has_backward(kernel_, case_.op); }

  /// What the forward and the backward write, but for the selection.
  std::vector<NamedTensor> forward_outputs();
  std::vector<NamedTensor> backward_outputs();
  /// The selection as the last call left it.
  reference::Selection exported() const { return given_.values(); }

  /// A tensor by its name; lse is the judge's where the kernel keeps its own to itself.
  HostTensor& at(std::string_view tensor);
  TensorView view(std::string_view tensor) { return at(tensor).view(); }
  /// The six of a field; what a kind of phi does not have is absent.
  PhiTensors<TensorView> phi(const std::string& field);

 private:
  const std::vector<TensorInfo>& tensors() const { return page_of(case_.op).tensors; }
  /// The input whose memory a branch reads instead of its own; null for its own.
  const TensorInfo* shared_with(const TensorInfo& tensor) const;
  /// Whether a forward or backward is given the tensor.
  bool is_in(bool is_backward, const TensorInfo& tensor) const;
  /// Those for which something holds, but for the selection.
  template <class Predicate>
  std::vector<NamedTensor> named(const Predicate& holds);
  AnyCall call(bool is_backward);
  /// Runs a call under guard. selection: what it reads, or the shape of what it writes.
  std::vector<MemoryFault> run(bool is_backward, const std::vector<NamedTensor>& inputs,
                               const std::vector<NamedTensor>& outputs, const reference::Selection& selection,
                               SelectionUse use);

  const Kernel& kernel_;
  const Case& case_;
  const Inputs& inputs_;
  reference::MobaProblem problem_;
  reference::NsaProblem nsa_;
  std::int64_t workspace_bytes_;
  HostTensor workspace_;
  HostSelection given_;  // the selection, as a kernel finds it while a call runs
  std::deque<HostTensor> memory_;
  std::vector<HostTensor*> places_;  // of each tensor of the page; null for the selection
};

}  // namespace attnspec::verify
