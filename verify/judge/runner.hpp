// Running the calls of one case.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "verify/guarded_run.hpp"
#include "verify/kernel.hpp"
#include "verify/result.hpp"

namespace attnspec::verify {

/// The memory that all calls of a case share, the workspace the kernel asked for and its selection, and the guarded run
/// of a call.
class Runner {
 public:
  Runner(const Kernel& kernel, const Case& c);

  std::span<std::byte> workspace();
  /// Where the kernel finds its selection; valid while a call runs.
  SelectionView selection() { return given_.view(); }
  /// What lies there after a call.
  reference::Selection exported() const { return given_.values(); }

  /// Runs a call under guard and adds what it did to memory to the result. selection: what it reads, or the shape of
  /// what it writes.
  void run(const std::vector<NamedTensor>& inputs, const std::vector<NamedTensor>& outputs,
           const reference::Selection& selection, SelectionUse use, const std::function<void()>& call,
           CaseResult& result);

 private:
  std::int64_t workspace_bytes_;
  HostTensor workspace_;
  HostSelection given_;
};

}  // namespace attnspec::verify
