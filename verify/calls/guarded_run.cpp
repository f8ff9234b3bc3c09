#include "verify/calls/guarded_run.hpp"

#include <algorithm>
#include <cstddef>

namespace attnspec::verify {

namespace {

/// What no kernel leaves in a selection.
constexpr std::int32_t kUnwritten = 0x7f7f7f7f;

/// Everything a kernel wrote in one run.
struct Written {
  std::vector<std::vector<std::byte>> outputs;
  std::vector<std::int32_t> blocks;

  bool operator==(const Written&) const = default;
};

/// Runs the call with all memory around its tensors filled one way, and adds what it wrote where it must not.
Written run_among(Surroundings surroundings, const GuardedCall& call, std::vector<MemoryFault>& faults) {
  const auto stray = [&](const std::string& tensor, const char* what) {
    faults.push_back({Verdict::stray_write, tensor, what});
  };
  const auto fill = [&](HostTensor& tensor, const std::string& name) {
    if (surroundings == Surroundings::nan) return tensor.fill_rows_with_nan();
    tensor.fill_rows(Random(call.seed, "before " + name));
  };
  for (const auto* list : {&call.inputs, &call.outputs})
    for (const auto& [name, tensor, rows] : *list) tensor.get().surround(surroundings);
  for (const auto& [name, tensor, rows] : call.outputs) fill(tensor, name);
  call.workspace.surround(surroundings);
  fill(call.workspace, "workspace");
  call.memory.prepare(call.selection, call.selection_use, surroundings);
  std::vector<std::vector<std::byte>> before;
  for (const auto& [name, tensor, rows] : call.inputs) before.push_back(tensor.get().rows());
  call.run();
  for (std::size_t i = 0; i < call.inputs.size(); ++i)
    if (!call.inputs[i].tensor.get().rows_are(before[i])) stray(call.inputs[i].name, "an input was written");
  for (const auto* list : {&call.inputs, &call.outputs})
    for (const auto& [name, tensor, rows] : *list)
      if (!tensor.get().outside_is_intact()) stray(name, "memory outside it was written");
  if (!call.workspace.outside_is_intact()) stray("workspace", "memory outside it was written");
  if (!call.memory.is_intact(call.selection_use)) stray("selection", "memory that is not an output was written");
  Written written;
  for (const auto& [name, tensor, rows] : call.outputs) written.outputs.push_back(tensor.get().rows());
  if (call.selection_use == SelectionUse::written) written.blocks = call.memory.values().blocks;
  return written;
}

}  // namespace

SelectionView HostSelection::view() {
  return {entries_.data() + kGuardElements, shape_.tokens, shape_.heads, shape_.slots};
}

reference::Selection HostSelection::values() const {
  reference::Selection result = shape_;
  std::copy(entries_.begin() + kGuardElements, entries_.end() - kGuardElements, result.blocks.begin());
  return result;
}

void HostSelection::prepare(const reference::Selection& selection, SelectionUse use, Surroundings with) {
  shape_ = selection;
  entries_.assign(selection.blocks.size() + 2 * kGuardElements, with == Surroundings::nan ? kUnwritten : ~kUnwritten);
  if (use == SelectionUse::read)
    std::copy(selection.blocks.begin(), selection.blocks.end(), entries_.begin() + kGuardElements);
  prepared_.assign(entries_.begin(), entries_.end());
}

bool HostSelection::is_intact(SelectionUse use) const {
  std::vector<std::int32_t> expected = prepared_;
  if (use != SelectionUse::read)
    std::copy(entries_.begin() + kGuardElements, entries_.end() - kGuardElements, expected.begin() + kGuardElements);
  return std::equal(entries_.begin(), entries_.end(), expected.begin(), expected.end());
}

std::vector<MemoryFault> run_guarded(const GuardedCall& call) {
  std::vector<MemoryFault> faults;
  const Written first = run_among(Surroundings::numbers, call, faults);
  if (!faults.empty()) return faults;
  const Written second = run_among(Surroundings::nan, call, faults);
  if (!faults.empty() || !call.repeats || first == second) return faults;
  std::size_t differing = 0;
  while (differing < call.outputs.size() && first.outputs[differing] == second.outputs[differing]) ++differing;
  const std::string tensor = differing < call.outputs.size() ? call.outputs[differing].name : "selection";
  const bool first_again = run_among(Surroundings::numbers, call, faults) == first;
  if (run_among(Surroundings::nan, call, faults) == second && first_again) {
    faults.push_back(
        {Verdict::stray_read, tensor, "its bits depend on memory outside the tensors, or some were never written"});
  } else {
    faults.push_back({Verdict::nondeterministic, tensor, "two runs on the same memory gave different bits"});
  }
  return faults;
}

}  // namespace attnspec::verify
