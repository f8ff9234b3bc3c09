// Hints: which declared arithmetic would explain what a kernel wrote. A hint never changes a verdict.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "verify/judge/result.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// Of the search for one hint.
inline constexpr std::chrono::seconds kMaxHintTime{60};

/// One line, after findings of the class value-out-of-bound alone: the smallest set of arithmetic options, beside those
/// that the kernel declares, under which everything it writes is calibrated; or that there is none. Empty: there is
/// nothing to say, or findings of another class say that no rounding is the cause.
///
/// results: of one kernel, findings and others. A set fits if no finding is left in the failing cases nor in some that
/// passed, and if the rows whose prediction it changes then err as much as it predicts: root mean square R between 0.8
/// and 1.15, nearer to 1 than before. A fault is no noise of the right size in every row, so that a set which is merely
/// wide does not fit. docs/numerics.md, "Hints". A search that takes longer than max_time says so.
std::string hint(const Kernel& kernel, const std::vector<CaseResult>& results,
                 std::chrono::seconds max_time = kMaxHintTime);

/// One line where a kernel without findings declares an option that it does not need: without it everything still
/// passes, and the rows whose prediction it changes err as much as predicted, which they do not with it. Else empty.
std::string over_declaration(const Kernel& kernel, const std::vector<CaseResult>& results,
                             std::chrono::seconds max_time = kMaxHintTime);

}  // namespace attnspec::verify
