// Collecting what was compared of one output.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "reference/sum_noise.hpp"
#include "verify/judge/sample.hpp"
#include "verify/result.hpp"
#include "verify/storage.hpp"

namespace attnspec::verify {

/// "o", or "window.o" of a branch of nsa.
std::string output_name(const std::string& branch, const std::string& output);

/// The rows of one output, from many threads.
class Tally {
 public:
  /// branch: "" or the branch of nsa that the output belongs to.
  Tally(const RowObserver& observe, const std::string& branch, std::string output);

  /// A row that was compared. covariance: nullptr where it is a single number.
  void add(const Place& place, const RowComparison& row, const Vector& expected, const Vector& observed,
           const reference::Covariance* covariance);
  /// A row that was predicted with all it is compared by, in the format it is stored in.
  void add(const Place& place, const reference::PredictedRow& row, const Vector& observed, Format format);
  /// A row of a selection; wrong is empty where it is right.
  void add_selection(const Place& place, const std::string& wrong);
  /// A row that could not be decided.
  void add_undecided();
  /// Says which rows are judged.
  void sample(const JudgedRows& rows);
  /// The same; of the others those that hold NaN, which is right nowhere, are wrong.
  void sample(const JudgedRows& rows, const TensorView& view);

  /// Moves everything into the result.
  void finish(CaseResult& result);

 private:
  void pass(double r);
  void fail(Finding finding);
  void keep_first();

  const RowObserver& observe_;
  std::string output_;
  std::mutex mutex_;
  OutputSummary summary_;
  std::vector<Finding> findings_;
};

}  // namespace attnspec::verify
