// What a run of `check`, `replay` or `fuzz` found out: the data of the page and of the JSON file.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "fuzz/report/caught_defects.hpp"
#include "fuzz/report/error_map.hpp"
#include "fuzz/report/numbers.hpp"
#include "verify/diagnosis/diagnosis.hpp"
#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

struct OperatorResults {
  verify::Operator op;
  std::int64_t cases = 0;
  std::map<verify::Verdict, std::int64_t> verdicts{};
  std::vector<verify::OutputSummary> outputs{};  // of the cases without a law, in the order they were judged
  std::set<std::string> arithmetic{};            // that they were judged in, one text for each input format
  double seconds = 0;                            // of all cases together, also where several ran at the same time

  std::int64_t rows() const;
  std::int64_t undecided() const;
  double worst_r() const;
  verify::ImaginedCounts imagined() const;
};

/// The cases that one law judged.
struct LawResults {
  verify::Law law;
  std::int64_t passed = 0, failed = 0, not_promised = 0, other = 0;  // other: it says nothing, or is undecided
};

struct TimedCase {
  std::string c;
  double seconds;
};

struct KernelResults {
  explicit KernelResults(const verify::Kernel& kernel);

  void add(const verify::CaseResult& result);
  std::int64_t cases() const;
  std::int64_t count(verify::Verdict verdict) const;
  std::int64_t findings() const;

  std::string name, summary;
  std::string limits;       // "dk 64 128, bf16"; empty: none
  double share_inside = 1;  // the part of level 1 that the limits allow
  std::string promise, promise_backward;
  bool exports_selection, exports_lse;
  std::vector<std::string> options;  // of its declared arithmetic
  std::vector<OperatorResults> operators;
  std::vector<LawResults> laws;
  std::vector<TimedCase> slowest;      // the first few, the slowest first
  std::vector<std::string> notes;      // one line each: hints, what was not judged
  std::vector<std::string> diagnosis;  // lines: the stage, which rows are wrong, which known mistake it is like
  std::vector<CaughtDefect> defects;   // planted ones, on the cases that the kernel passed
};

/// A case that failed, with all that helps to understand it.
struct FailingCase {
  verify::CaseResult result;  // of `fuzz`: of the shrunk case
  std::optional<verify::Case> drawn{};
  std::string replay;  // the command that repeats it
  JudgedAgain rows{};
  std::optional<std::vector<InputTensor>> numbers{};
  std::optional<std::string> xray{};  // SVG: who attends to whom
};

/// Failing and undecided cases that a report shows.
inline constexpr std::size_t kMaxShownCases = 20;

struct Report {
  std::string command;  // check, replay or fuzz
  std::string version;  // of the program
  std::string ended;    // "2026-11-30 22:05 UTC"
  double seconds = 0;
  bool is_complete = true;  // else it was interrupted, or stopped at the first finding
  std::vector<KernelResults> kernels;
  std::vector<FailingCase> failing;           // at most kMaxShownCases, of each kind one before others
  std::vector<verify::CaseResult> undecided;  // the first kMaxShownCases

  std::int64_t cases() const;
  std::int64_t findings() const;
  std::int64_t count(verify::Verdict verdict) const;
  /// "pass", "fail" or "inconclusive": what the exit codes 0, 1 and 3 say.
  std::string outcome() const;
};

/// Collects a report while cases are judged.
class Reporter {
 public:
  /// kernels must outlive it.
  Reporter(std::string command, const std::vector<verify::Kernel>& kernels);

  void add(const verify::CaseResult& result);
  /// Shows the case among those that failed, unless there are enough. It is judged once more, for its rows.
  void show(FailingCase failing);
  /// The rest: how it ended, and which planted defects the cases would have shown.
  Report finish(double seconds, bool is_complete);
  /// Adds these results, shows those that failed, of each kind one before others, then does the same.
  Report finish(const std::vector<verify::CaseResult>& results, double seconds, bool is_complete);

  /// What the findings of a kernel have in common.
  void explain(const verify::Kernel& kernel, const verify::Diagnosis& diagnosis);
  /// A line about a kernel; empty ones are left out.
  void note(const verify::Kernel& kernel, const std::string& line);

 private:
  KernelResults& of(const std::string& kernel);
  const verify::Kernel& kernel(const std::string& name) const;

  const std::vector<verify::Kernel>& kernels_;
  Report report_;
  std::vector<verify::CaseResult> passed_;  // some of each kernel, for planted defects
};

}  // namespace attnspec::fuzz
