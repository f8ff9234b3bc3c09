// What the findings of a kernel have in common: the stage that is wrong, the rows that are wrong, and which known
// mistake the kernel behaves like.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "verify/diagnosis/behaviour.hpp"
#include "verify/diagnosis/pattern.hpp"
#include "verify/judge/result.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// Of one diagnosis, its parts together.
inline constexpr std::chrono::seconds kMaxDiagnosisTime{30};

struct Diagnosis {
  std::string stage{};              // the earliest that is wrong, and how that is known; empty: nothing is known of it
  std::vector<Pattern> patterns{};  // of the outputs that are wrong, in the order in which they are computed
  Behaviour behaviour{};

  /// One line each, "stage: ...", "where: ..." and "behaves like: ..."; none without a finding.
  std::vector<std::string> lines() const;
};

/// results: of one kernel, findings and others; those of its first operator with findings are explained. The kernel is
/// called again: on small failing cases, and on small cases of the fixed levels.
Diagnosis diagnose(const Kernel& kernel, const std::vector<CaseResult>& results,
                   std::chrono::seconds max_time = kMaxDiagnosisTime);

}  // namespace attnspec::verify
