#include "fuzz/judging.hpp"

#include <omp.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace attnspec::fuzz {

int jobs_at_once(int wanted, const std::vector<Job>& jobs) {
  if (std::any_of(jobs.begin(), jobs.end(), [](const Job& job) { return !job.kernel->is_reentrant; })) return 1;
  return wanted > 0 ? wanted : omp_get_max_threads();
}

void judge_all(const std::vector<Job>& jobs, int at_once, const std::function<bool(std::size_t)>& skips,
               const std::function<void(std::size_t, verify::CaseResult)>& done) {
  std::exception_ptr error;
#pragma omp parallel for schedule(dynamic) num_threads(at_once)
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    try {
      if (skips(i)) continue;
      verify::CaseResult result = verify::judge(*jobs[i].kernel, jobs[i].c);
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
