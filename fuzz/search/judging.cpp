#include "fuzz/search/judging.hpp"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <optional>
#include <utility>

namespace attnspec::fuzz {

int jobs_at_once(int wanted, const std::vector<Job>& jobs) {
  const auto is_alone = [](const Job& job) { return !job.kernel->is_reentrant && !job.kernel->another; };
  if (std::any_of(jobs.begin(), jobs.end(), is_alone)) return 1;
  return wanted > 0 ? wanted : omp_get_max_threads();
}

const verify::Kernel& KernelPool::take(const verify::Kernel& of) {
  if (of.is_reentrant) return of;
  {
    const std::lock_guard lock(mutex_);
    std::vector<const verify::Kernel*>& free = free_.try_emplace(&of, 1, &of).first->second;
    if (!free.empty()) {
      const verify::Kernel& kernel = *free.back();
      free.pop_back();
      return kernel;
    }
  }
  std::shared_ptr<verify::Kernel> made = of.another();
  const std::lock_guard lock(mutex_);
  return *made_.emplace_back(std::move(made));
}

void KernelPool::put_back(const verify::Kernel& of, const verify::Kernel& kernel) {
  if (of.is_reentrant) return;
  const std::lock_guard lock(mutex_);
  free_.at(&of).push_back(&kernel);
}

void judge_all(const std::vector<Job>& jobs, int at_once, KernelPool& pool,
               const std::function<bool(std::size_t)>& skips,
               const std::function<void(std::size_t, verify::CaseResult)>& done, const JudgeOne& judge) {
  std::exception_ptr error;
#pragma omp parallel for schedule(dynamic) num_threads(at_once)
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    try {
      if (skips(i)) continue;
      const KernelPool::Loan loan(pool, *jobs[i].kernel);
      verify::CaseResult result = judge(loan.kernel(), jobs[i].c);
#pragma omp critical(attnspec_done)
      done(i, std::move(result));
    } catch (...) {
#pragma omp critical(attnspec_done)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

verify::CaseResult judge_afresh(const verify::Kernel& kernel, const verify::Case& c) {
  if (kernel.forget) kernel.forget();
  return verify::judge(kernel, c);
}

namespace {

using namespace verify;

/// Steps of the sessions that are tried for a failure which needs many calls before it, and seconds that one may take.
constexpr std::size_t kManyCalls[] = {7, 31, 127};
constexpr double kMaxSessionSeconds = 30;
/// How long earlier cases are tried.
constexpr double kMaxSecondsOfEarlier = 30;

/// The session without the calls after the one that failed.
Case until_failure(const CaseResult& result) {
  Case c = result.c;
  const auto calls = static_cast<std::size_t>(result.failing_call);
  if (calls > 0 && calls <= c.session.size()) c.session.resize(calls - 1);
  return c;
}

}  // namespace

std::optional<CaseResult> fail_alone(const Kernel& kernel, const Case& drawn, const std::function<bool()>& stop) {
  using enum SessionStep;
  const auto start = std::chrono::steady_clock::now();
  if (CaseResult result = judge_afresh(kernel, drawn); is_finding(result.verdict)) return result;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const double seconds_of_call = seconds.count() / static_cast<double>(1 + drawn.session.size());
  std::vector<std::vector<SessionStep>> sessions;
  if (drawn.session.empty())
    sessions = {{contents}, {moved}, {moved, contents}, {shape, contents, again}, {offsets, contents}};
  for (const std::size_t calls : kManyCalls)
    if (static_cast<double>(calls) * seconds_of_call < kMaxSessionSeconds)
      sessions.push_back(std::vector<SessionStep>(calls, again));
  for (const auto& session : sessions) {
    if (stop && stop()) break;
    Case c = drawn;
    c.law = Law::none;  // which has calls of its own
    c.session = session;
    if (CaseResult result = judge_afresh(kernel, c); is_finding(result.verdict)) {
      const CaseResult shorter = judge_afresh(kernel, until_failure(result));
      return is_finding(shorter.verdict) ? shorter : result;
    }
  }
  return std::nullopt;
}

std::optional<FailsAfter> fail_after(const Kernel& kernel, std::span<const Case> earlier, const Case& drawn,
                                     const std::function<bool()>& stop) {
  const auto start = std::chrono::steady_clock::now();
  const auto is_late = [&] { return std::chrono::steady_clock::now() - start > Seconds(kMaxSecondsOfEarlier); };
  for (auto c = earlier.rbegin(); c != earlier.rend() && !is_late() && !(stop && stop()); ++c) {
    judge_afresh(kernel, *c);
    if (CaseResult result = judge(kernel, drawn); is_finding(result.verdict)) return FailsAfter{*c, std::move(result)};
  }
  return std::nullopt;
}

CaseResult judge_reproducibly(const Kernel& kernel, const Case& c, const std::function<bool()>& stop) {
  CaseResult result = judge(kernel, c);
  if (!is_finding(result.verdict) || result.verdict == Verdict::hang || !kernel.forget) return result;
  if (std::optional<CaseResult> alone = fail_alone(kernel, c, stop)) return *std::move(alone);
  for (Finding& finding : result.findings) finding.call = "passes as the kernel's first case";
  return result;
}

}  // namespace attnspec::fuzz
