#include "fuzz/judging.hpp"

#include <omp.h>

#include <algorithm>
#include <exception>
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
               const std::function<void(std::size_t, verify::CaseResult)>& done) {
  std::exception_ptr error;
#pragma omp parallel for schedule(dynamic) num_threads(at_once)
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    try {
      if (skips(i)) continue;
      const KernelPool::Loan loan(pool, *jobs[i].kernel);
      verify::CaseResult result = verify::judge(loan.kernel(), jobs[i].c);
#pragma omp critical(attnspec_done)
      done(i, std::move(result));
    } catch (...) {
#pragma omp critical(attnspec_done)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace attnspec::fuzz
