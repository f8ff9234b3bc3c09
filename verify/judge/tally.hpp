// Collecting what was compared of one output.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reference/noise/sum_noise.hpp"
#include "verify/judge/imagined_faults.hpp"
#include "verify/judge/result.hpp"
#include "verify/judge/sample.hpp"
#include "verify/run/storage.hpp"

namespace attnspec::verify {

/// The rows of one output, from many threads.
class Tally {
 public:
  /// kind: the name that the output has in an operator of its own, "o" for "window.o"; "d_phi" of all parameters.
  Tally(const RowObserver& observe, std::string kind, std::string output);

  /// A row that was compared. covariance: nullptr where it is a single number.
  void add(const Place& place, const RowComparison& row, const Vector& expected, const Vector& observed,
           const RowNoise& noise, const reference::Covariance* covariance);
  /// A row that was predicted with all it is compared by, in the format it is stored in.
  void add(const Place& place, const reference::PredictedRow& row, const Vector& observed, Format format);
  /// Whether faults of a row would show.
  void add(const ImaginedFaults& faults);
  /// A row of a selection; wrong is empty where it is right. clearance: as clearance_of has it.
  void add_selection(const Place& place, std::span<const std::int32_t> blocks, const std::string& wrong,
                     std::optional<double> clearance);
  /// A row that could not be decided.
  void add_undecided();
  /// Says which rows are judged.
  void sample(const JudgedRows& rows);
  /// The same; of the others those that hold NaN, which is right nowhere, are wrong.
  void sample(const JudgedRows& rows, const TensorView& view);

  /// Moves everything into the result.
  void finish(CaseResult& result);

 private:
  /// What a row tells of the kernel's errors and of those that would show.
  void measure(const RowComparison& row, const Vector& expected);
  void pass(double r);
  void fail(Finding finding);
  void keep_first();

  const RowObserver& observe_;
  std::string kind_;
  std::mutex mutex_;
  OutputSummary summary_;
  std::vector<Finding> findings_;
};

}  // namespace attnspec::verify
