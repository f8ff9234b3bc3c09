// The judge: runs a kernel on a case and decides whether it did what the specification says.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "verify/case.hpp"
#include "verify/compare.hpp"
#include "verify/direction.hpp"
#include "verify/kernel.hpp"
#include "verify/verdict.hpp"

namespace attnspec::verify {

/// One row, or one tensor, that is wrong.
struct Finding {
  Verdict verdict;
  std::string output;                     // selection, o, lse, dq, dk or dv
  std::int64_t sequence, token, head, d;  // token in its sequence, -1: a tensor; d = -1: a row
  double observed = 0, expected = 0, bound = 0;
  double r = 0, limit = 0;  // of the row; limit 0 where an element decided
  std::string detail;       // of a selection or a tensor: what is wrong with it
};

/// What was judged of one output.
struct OutputSummary {
  std::string output;
  std::int64_t rows = 0;      // judged: (token, head) pairs
  std::int64_t findings = 0;  // of them wrong
  std::int64_t undecided = 0;
  double worst_r = 0;
  double sum_r_squared = 0;  // information: mean square far below 1 means more exact than declared
};

struct CaseResult {
  Case c;
  std::string kernel;
  Verdict verdict = Verdict::pass;
  std::string reason;                  // of not_supported, or why the backward was not judged
  std::vector<OutputSummary> outputs;  // in the order they were judged
  std::vector<Finding> findings;       // the first kMostFindings, by output and position
  std::vector<Direction> directions;   // of o; empty where it was not judged
  std::string profile;                 // the arithmetic judged against

  std::int64_t rows() const;
  std::int64_t undecided() const;
};

/// Findings kept per case.
inline constexpr std::size_t kMostFindings = 20;

/// A row of o, lse, dq, dk or dv as it was compared. covariance: nullptr for lse.
using RowObserver =
    std::function<void(const std::string& output, const RowComparison& row, const reference::Covariance* covariance)>;

/// Runs the kernel's forward, and its backward where it has one, each twice: with NaN and with numbers in all memory
/// that is not its own, and other bytes in its outputs; the bits must be equal. Expected values are computed after the
/// outputs are back. observe, if given, is called for every row, from any thread. Throws what make_inputs throws.
CaseResult judge(const Kernel& kernel, const Case& c, const RowObserver& observe = {});

}  // namespace attnspec::verify
