// Judging many cases at the same time.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

struct Job {
  const verify::Kernel* kernel;
  verify::Case c;
};

/// How many cases to judge at the same time: `wanted`, or one for each thread where it is 0; but one where a kernel may
/// not be called from several threads and there is not another like it.
int jobs_at_once(int wanted, const std::vector<Job>& jobs);

/// Kernels like those that are judged, for several threads: each is lent to one of them at a time, and keeps its
/// process from one loan to the next. The kernels must outlive it.
class KernelPool {
 public:
  /// A kernel to use until this is gone.
  class Loan {
   public:
    Loan(KernelPool& pool, const verify::Kernel& of) : pool_(pool), of_(of), kernel_(pool.take(of)) {}
    ~Loan() { pool_.put_back(of_, kernel_); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    const verify::Kernel& kernel() const { return kernel_; }

   private:
    KernelPool& pool_;
    const verify::Kernel &of_, &kernel_;
  };

 private:
  /// Makes another one where none is free. Throws what loading it throws.
  const verify::Kernel& take(const verify::Kernel& of);
  void put_back(const verify::Kernel& of, const verify::Kernel& kernel);

  std::mutex mutex_;
  std::map<const verify::Kernel*, std::vector<const verify::Kernel*>> free_;
  std::vector<std::shared_ptr<verify::Kernel>> made_;
};

/// Judges one case of a kernel that is lent.
using JudgeOne = std::function<verify::CaseResult(const verify::Kernel&, const verify::Case&)>;

/// Judges the jobs, so many at the same time; a judgement then keeps to one thread, since cases are too small to share.
/// skips(i) is asked before each, from any thread; done(i, result) is called after it, from one thread at a time and in
/// any order. Throws what judge throws.
void judge_all(const std::vector<Job>& jobs, int at_once, KernelPool& pool,
               const std::function<bool(std::size_t)>& skips,
               const std::function<void(std::size_t, verify::CaseResult)>& done, const JudgeOne& judge);

/// Judges a case as the kernel's first one.
verify::CaseResult judge_afresh(const verify::Kernel& kernel, const verify::Case& c);

/// A case that failed, as it fails when it is the kernel's first; or, if it needs calls before it, with a session of
/// which it is the first call. Nothing if none of them fails. stop: ends it early, empty: never.
std::optional<verify::CaseResult> fail_alone(const verify::Kernel& kernel, const verify::Case& drawn,
                                             const std::function<bool()>& stop);

/// An earlier case and the one that failed: it does again right after the earlier one, the kernel's first.
struct FailsAfter {
  verify::Case earlier;
  verify::CaseResult result;
};

/// Tries the earlier cases, the latest first. Nothing if it fails after none of them.
std::optional<FailsAfter> fail_after(const verify::Kernel& kernel, std::span<const verify::Case> earlier,
                                     const verify::Case& drawn, const std::function<bool()>& stop);

/// Judges a case so that a finding can be replayed: what fail_alone says of it, where the kernel remembers calls. A
/// finding that needs other calls before it says that it passes as the kernel's first case.
verify::CaseResult judge_reproducibly(const verify::Kernel& kernel, const verify::Case& c,
                                      const std::function<bool()>& stop);

}  // namespace attnspec::fuzz
