// The command check.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "cuda/device.hpp"
#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/judged_kernels.hpp"
#include "fuzz/command_line/options.hpp"
#include "fuzz/command_line/progress.hpp"
#include "fuzz/command_line/report_files.hpp"
#include "fuzz/search/judging.hpp"
#include "verify/cases/levels.hpp"
#include "verify/judge/report.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

/// Failure lines printed before the rest are only counted.
constexpr std::size_t kMaxLines = 20;
/// Findings that are repeated in a fresh process of the kernel, so that the printed command shows them.
constexpr std::size_t kMaxRepeated = kMaxLines;

struct CheckOptions {
  std::vector<std::string> kernels;    // none: every built-in one
  std::vector<std::string> operators;  // none: every one the kernel implements
  int level = 1;
  std::string cases;  // a file of cases to judge instead of a level; empty: none
  bool stops_at_first = false;
  int jobs = 0;       // cases judged at the same time; 0: one for each thread
  std::string junit;  // a file to write; empty: none
  ReportFiles files;
  Seconds timeout = kTimeout;
};

/// Prints the failure lines of results as they come, and keeps the results.
class Results {
 public:
  explicit Results(std::size_t total) : progress_(total) {}

  void add(CaseResult result) {
    if (is_finding(result.verdict)) ++failed_;
    if (!result.findings.empty() && lines_++ < kMaxLines) {
      progress_.clear();
      fmt::print("{}\n", failure_line(result, result.findings.front()));
      std::fflush(stdout);
    }
    progress_.step(failed_);
    all_.push_back(std::move(result));
  }

  std::vector<CaseResult> finish() {
    progress_.clear();
    if (lines_ > kMaxLines) fmt::print("... and {} more cases with findings\n", lines_ - kMaxLines);
    return std::move(all_);
  }

 private:
  Progress progress_;
  std::vector<CaseResult> all_;
  std::size_t lines_ = 0, failed_ = 0;
};

/// Judges the jobs until the program is interrupted or, where it stops at the first, one has a finding: then those
/// before it in the order of the jobs. Failure lines are printed in that order.
std::vector<CaseResult> judge_jobs(const std::vector<Job>& jobs, const CheckOptions& options) {
  std::vector<std::optional<CaseResult>> done(jobs.size());
  Results results(jobs.size());
  std::size_t next = 0;
  KernelPool pool;
  std::atomic<std::size_t> end = jobs.size();  // of those that are judged
  std::atomic<std::size_t> repeated = 0;       // findings that were repeated
  judge_all(
      jobs, jobs_at_once(options.jobs, jobs), pool, [&](std::size_t i) { return i >= end || is_interrupted(); },
      [&](std::size_t i, CaseResult result) {
        if (options.stops_at_first && is_finding(result.verdict)) end = std::min<std::size_t>(end, i + 1);
        done[i] = std::move(result);
        for (; next < end && done[next]; ++next) results.add(std::move(*done[next]));
      },
      [&](const Kernel& kernel, const Case& c) {
        CaseResult result = repeated < kMaxRepeated ? judge_reproducibly(kernel, c, is_interrupted) : judge(kernel, c);
        repeated += is_finding(result.verdict);
        return result;
      });
  for (; next < end; ++next)  // those after one that was left out
    if (done[next]) results.add(std::move(*done[next]));
  return results.finish();
}

/// The kernel's operators that are judged.
std::vector<Operator> judged_operators(const Kernel& kernel, const CheckOptions& options) {
  if (options.operators.empty()) return kernel.operators;
  std::vector<Operator> operators;
  for (const Operator op : kernel.operators)
    if (std::find(options.operators.begin(), options.operators.end(), name(op)) != options.operators.end())
      operators.push_back(op);
  return operators;
}

std::vector<Job> make_jobs(const std::vector<Kernel>& judged, const CheckOptions& options) {
  for (const std::string& name : options.operators) parse_operator(name);
  std::vector<Case> of_file;
  if (!options.cases.empty()) of_file = cases_of_file(options.cases);
  std::vector<Job> jobs;
  for (const Kernel& kernel : judged)
    for (const Operator op : judged_operators(kernel, options))
      for (const Case& c : options.cases.empty() ? level_cases(op, options.level, kernel.limits) : of_file)
        if (c.op == op) jobs.push_back({&kernel, c});
  if (jobs.empty()) throw std::invalid_argument("no kernel given implements an operator given");
  return jobs;
}

/// What the limits of the kernel exclude; its name before it where there are others.
std::string limits_of(const Kernel& kernel, bool is_one_of_several, const CheckOptions& options) {
  const std::string line = limits_line(judged_operators(kernel, options), kernel.limits);
  return is_one_of_several && !line.empty() ? kernel.name + " " + line : line;
}

int check(const CheckOptions& options) {
  const Interruptible interruptible;  // from the beginning: loading a kernel can take a while
  std::vector<Kernel> judged;
  for (const std::string& name : options.kernels)
    for (Kernel& kernel : find_kernels(name, options.timeout)) judged.push_back(std::move(kernel));
  if (judged.empty()) judged = default_kernels();
  const std::vector<Job> jobs = make_jobs(judged, options);
  if (!options.junit.empty()) require_writable("--junit", options.junit);
  require_report_writable(options.files);
  if (const std::string why = cuda::find_devices().why_none; options.kernels.empty() && !why.empty())
    fmt::print(stderr, "no cuda: kernels: {}\n", why);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<CaseResult> results = judge_jobs(jobs, options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{}", table(results));
  Reporter reporter("check", judged);
  for (const Kernel& kernel : judged) {
    if (options.cases.empty()) fmt::print("{}", limits_of(kernel, judged.size() > 1, options));
    if (results.size() == jobs.size()) {
      reporter.explain(kernel, print_diagnosis(kernel, results));
      reporter.note(kernel, print_hint(kernel, results));
      reporter.note(kernel, print_over_declaration(kernel, results));
    }
    fmt::print("{}{}", lse_not_judged(kernel), laws_not_held(kernel));
  }
  if (!options.junit.empty()) write_junit(options.junit, results);
  if (options.files.are_wanted())
    write_report(options.files, reporter.finish(results, seconds, results.size() == jobs.size()));
  if (results.size() < jobs.size()) {
    fmt::print(stderr, "{}: {} of {} cases judged\n", is_interrupted() ? "interrupted" : "stopped at the first finding",
               results.size(), jobs.size());
    return exit_code_of_part(results);
  }
  fmt::print(stderr, "{} in {:.1f} s\n", options.cases.empty() ? fmt::format("level {}", options.level) : options.cases,
             seconds);
  return exit_code(results);
}

}  // namespace

Command add_check(CLI::App& program) {
  const auto options = std::make_shared<CheckOptions>();
  CLI::App* app = program.add_subcommand("check", "judge kernels on the fixed levels");
  app->add_option("KERNEL", options->kernels,
                  "built-in ones, PATH.so, FILE.py:FUNCTION, FILE.py for all of its kernels (default: every built-in "
                  "one but those in the simulator)")
      ->type_name("");
  CLI::Option* level = app->add_option("--level", options->level, "1: within a minute; 2: some minutes")
                           ->check(in_range(1, kMaxLevel))
                           ->capture_default_str();
  app->add_option("--cases", options->cases, "judge the cases of a file instead of a level")
      ->type_name(kFileValue)
      ->excludes(level);
  app->add_option("--operator", options->operators, "only these operators")->type_name(kOperatorValue);
  app->add_flag("--stop-at-first", options->stops_at_first, "stop at the first case with a finding");
  app->add_option("--jobs", options->jobs,
                  "cases judged at the same time (default: one for each core; one for a kernel on a GPU)")
      ->check(positive<int>());
  app->add_option("--junit", options->junit, "also write a JUnit XML file")->type_name(kFileValue);
  add_report_files(*app, options->files);
  add_timeout(*app, options->timeout);
  add_example(*app, "./attnspec check model:moba --operator moba_select");
  return {app, [options] { return check(*options); }};
}

}  // namespace attnspec::fuzz
