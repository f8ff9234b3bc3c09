// One case of a kernel, with mistakes played beside it: how many of its rows each of them reproduces.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "verify/judge/result.hpp"
#include "verify/model/defects/defects.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// How the rows of a case agree with a mistake.
struct Agreement {
  std::int64_t wrong = 0, wrong_reproduced = 0;  // rows that the judge finds wrong
  std::int64_t right = 0, right_missed = 0;      // rows that it finds right; those where the mistake would show
  double evidence = 0;                           // of the wrong rows that are reproduced: squared error over variance
  bool acts = false;                             // whether the mistake changes any output

  Agreement& operator+=(const Agreement& other);
  bool is_exact() const { return wrong_reproduced == wrong && right_missed == 0; }
  /// Whether at most one of so many rows differs, of those that are wrong or would be: some gradients of a wrong
  /// forward are noise alone.
  bool is_near(std::int64_t one_of) const;
};

/// What a kernel wrote in a case, compared with each mistake.
struct PlayedCase {
  CaseResult result;
  std::vector<Agreement> agreements;  // one for each mistake
  bool took_too_long = false;
};

using Mistakes = std::vector<const model::Defect*>;

/// Judges the kernel on a case that no law judges, and plays the mistakes on every call that it was given.
PlayedCase play_beside(const Kernel& kernel, const Case& c, const Mistakes& mistakes,
                       std::chrono::steady_clock::time_point end);

}  // namespace attnspec::verify
