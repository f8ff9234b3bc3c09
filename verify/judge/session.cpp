#include "verify/cases/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory_resource>
#include <span>
#include <vector>

#include "verify/judge/cases.hpp"
#include "verify/judge/judge.hpp"
#include "verify/run/placed_memory.hpp"

namespace attnspec::verify {

namespace {

/// One workspace for all calls, which find in it what the last one left, as a caller's would.
class KeptWorkspace {
 public:
  explicit KeptWorkspace(std::pmr::memory_resource* memory) : bytes_(memory) {}

  /// Makes a kernel use it.
  void lend(Kernel& kernel) {
    kernel.call = [this, do_call = kernel.call](const AnyCall& given) {
      AnyCall call = given;
      std::span<std::byte>& workspace = call.workspace;
      bytes_.resize(std::max(bytes_.size(), workspace.size() + 2 * kGuard));
      if (!workspace.empty()) workspace = {bytes_.data() + kGuard, workspace.size()};
      do_call(call);
    };
  }

 private:
  /// What the harness owns on both sides of any memory of a call.
  static constexpr std::size_t kGuard = kGuardElements * sizeof(float);

  std::pmr::vector<std::byte> bytes_;
};

/// "call 3, contents" of the call after so many.
std::string describe(std::size_t index, const Case& c) {
  return fmt::format("call {}, {}", index + 1, index == 0 ? "the first" : name(c.session[index - 1]));
}

}  // namespace

void judge_session(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result) {
  PlacedMemory memory(kernel.memory);
  Kernel placed = kernel;
  placed.memory = &memory;
  KeptWorkspace workspace(kernel.memory);
  workspace.lend(placed);
  const std::vector<SessionCall> calls = session_calls(c);
  for (std::size_t i = 0; i < calls.size() && !is_finding(result.verdict); ++i) {
    if (kernel.unsupported(calls[i].c)) continue;
    memory.visit(calls[i].place);
    CaseResult of_call = judge(placed, calls[i].c, observe);
    add(of_call.outputs, result.outputs);
    for (Finding& finding : of_call.findings) {
      finding.call = describe(i, c);
      result.findings.push_back(std::move(finding));
    }
    result.verdict = std::max(result.verdict, of_call.verdict);
    if (is_finding(of_call.verdict)) result.failing_call = static_cast<std::int64_t>(i) + 1;
    if (result.reason.empty()) result.reason = of_call.reason;
  }
}

}  // namespace attnspec::verify
