// What a wrong kernel behaves like: the model kernel plays each planted defect on the calls that the kernel was given,
// and what the kernel wrote is compared with what the defect writes, by the limits that the judge compares rows by.
// docs/numerics.md, "What a kernel behaves like".
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "verify/judge/result.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// A mistake that explains what a kernel wrote.
struct Explanation {
  std::string name;           // of the defect
  std::string what;           // one sentence: the mistake
  std::int64_t rows = 0;      // wrong ones that it reproduces
  std::int64_t all_rows = 0;  // that are wrong
  std::int64_t cases = 0;     // failing ones in which it reproduces every row, right ones included
  double evidence = 0;        // by how many variances the wrong rows lie off, summed
};

struct Behaviour {
  std::vector<Explanation> explanations;  // those that explain every failing case, best first
  std::int64_t cases = 0;                 // that failed and were looked at
  std::int64_t tried = 0;                 // mistakes that change an output of one of these cases
  bool is_certain = false;  // exactly one explains everything, in every row of every case, and the evidence is strong
  bool took_too_long = false;

  /// "behaves like: the window holds w + 1 keys (5 of 5 cases; defect:window_of_one_more)"; with "perhaps" where it is
  /// not certain; that nothing was found; empty where nothing was tried.
  std::string line() const;
};

/// results: of one kernel, findings and others. Also judges small cases of the fixed levels, which an explanation must
/// predict.
Behaviour behaviour(const Kernel& kernel, const std::vector<CaseResult>& results, std::chrono::seconds max_time);

}  // namespace attnspec::verify
