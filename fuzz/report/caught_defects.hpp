// Whether the cases of a run would have shown the planted defects.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

struct CaughtDefect {
  std::string name, what;
  verify::Operator op;         // that it is planted in
  std::int64_t cases = 0;      // of the run that the defect was judged on, up to the one that caught it
  std::string caught_by = {};  // that case; empty: none did
};

/// How long defects are judged, at most.
inline constexpr std::chrono::seconds kMaxDefectTime{20};

/// Judges planted defects, in the kernel's arithmetic, on cases of their operator that the kernel passed: each on case
/// after case, in a mixed order, until one catches it or the time is over.
std::vector<CaughtDefect> caught_defects(const verify::Kernel& kernel, const std::vector<verify::CaseResult>& results,
                                         std::chrono::seconds max_time = kMaxDefectTime);

}  // namespace attnspec::fuzz
