#include "verify/judge/runner.hpp"

namespace attnspec::verify {

Runner::Runner(const Kernel& kernel, const Case& c)
    : workspace_bytes_(kernel.workspace_bytes ? kernel.workspace_bytes(c) : 0),
      workspace_(Format::fp32, Layout::contiguous, 1, 1, (workspace_bytes_ + 3) / 4) {}

std::span<std::byte> Runner::workspace() {
  return {static_cast<std::byte*>(workspace_.view().data), static_cast<std::size_t>(workspace_bytes_)};
}

void Runner::run(const std::vector<NamedTensor>& inputs, const std::vector<NamedTensor>& outputs,
                 const reference::Selection& selection, SelectionUse use, const std::function<void()>& call,
                 CaseResult& result) {
  for (const auto& [verdict, tensor, what] : run_guarded({inputs, outputs, selection, use, given_, workspace_, call}))
    result.add({.verdict = verdict, .output = tensor, .detail = what});
}

}  // namespace attnspec::verify
