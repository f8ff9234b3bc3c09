// Judging many cases at the same time.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "verify/judge.hpp"

namespace attnspec::fuzz {

struct Job {
  const verify::Kernel* kernel;
  verify::Case c;
};

/// How many cases to judge at the same time: `wanted`, or one for each thread where it is 0; but one where a kernel may
/// not be called from several threads.
int jobs_at_once(int wanted, const std::vector<Job>& jobs);

/// Judges the jobs, so many at the same time; a judgement then keeps to one thread, since cases are too small to share.
/// skips(i) is asked before each, from any thread; done(i, result) is called after it, from one thread at a time and in
/// any order. Throws what judge throws.
void judge_all(const std::vector<Job>& jobs, int at_once, const std::function<bool(std::size_t)>& skips,
               const std::function<void(std::size_t, verify::CaseResult)>& done);

}  // namespace attnspec::fuzz
