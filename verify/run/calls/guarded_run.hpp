// Running a call of a kernel so that what it does to memory shows: guards around everything, filled in two ways,
// outputs filled with bytes that change, every call run twice.
#pragma once

#include <cstdint>
#include <functional>
#include <memory_resource>
#include <string>
#include <vector>

#include "reference/tensor.hpp"
#include "verify/operators/operators.hpp"
#include "verify/run/storage.hpp"
#include "verify/run/verdict.hpp"

namespace attnspec::verify {

/// A tensor of a call, by name.
struct NamedTensor {
  std::string name;
  std::reference_wrapper<HostTensor> tensor;
  RowsOf rows = RowsOf::queries;  // of an output
};

/// What a call does with its selection.
enum class SelectionUse { read, written, ignored };

/// In which order the rows of a selection lie.
enum class RowOrder { by_token, by_head };

/// A selection in memory of its own, between guards: a kernel's copy, apart from the judge's. Its rows have gaps where
/// those of tensors do.
class HostSelection {
 public:
  HostSelection(Layout layout, RowOrder order, std::pmr::memory_resource* memory)
      : layout_(layout), order_(order), entries_(memory) {}

  SelectionView view();
  /// The blocks as they are now, in the shape of the last `prepare`.
  reference::Selection values() const;

  /// Fills it before a run: blocks that are read keep their values, all else becomes what no kernel leaves behind.
  void prepare(const reference::Selection& selection, SelectionUse use, Surroundings with);
  /// How many entries that may not be written have changed since.
  std::int64_t num_strays(SelectionUse use) const;
  const reference::Selection& shape() const { return shape_; }

 private:
  /// The place of a slot among the entries.
  std::size_t place(std::int64_t token, std::int64_t head, std::int64_t slot) const {
    return static_cast<std::size_t>(first_ + token * token_stride_ + head * head_stride_ + slot);
  }
  /// visit(place, index among the slots without gaps) for every slot.
  template <class Visit>
  void for_each_slot(const Visit& visit) const;

  Layout layout_;
  RowOrder order_;
  reference::Selection shape_;
  std::int64_t first_ = 0, token_stride_ = 0, head_stride_ = 0;  // in entries
  std::pmr::vector<std::int32_t> entries_;
  std::vector<std::int32_t> prepared_;
};

struct GuardedCall {
  std::vector<NamedTensor> inputs, outputs;
  const reference::Selection& selection;  // the values it reads, or the shape of those it writes
  SelectionUse selection_use;
  HostSelection& memory;  // where the kernel finds it
  HostTensor& workspace;  // scratch that holds other bytes before every run and may hold any after it
  std::uint64_t seed;     // of the bytes
  bool repeats;           // whether the kernel promises that the same call again gives the same bits
  std::function<void()> run;
};

/// What a call did to memory that it must not, or did not do.
struct MemoryFault {
  Verdict verdict;  // stray_write, stray_read, nondeterministic; non_finite or selection_mismatch: never written
  std::string tensor;
  std::string what;
};

/// Runs the call among numbers and then among NaN. The outputs of the last run stay, to be judged: a number that was
/// made out of NaN is NaN. So what a call reads outside its tensors shows even where bits may differ from run to run;
/// where they may not, those of both runs are compared. An element that holds after both runs
/// what was there before was never written. The texts count elements of the packed tensor.
std::vector<MemoryFault> run_guarded(const GuardedCall& call);

}  // namespace attnspec::verify
