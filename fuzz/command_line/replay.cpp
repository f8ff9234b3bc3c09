// The command replay.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <system_error>

#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/judged_kernels.hpp"
#include "fuzz/command_line/options.hpp"
#include "fuzz/command_line/progress.hpp"
#include "fuzz/command_line/report_files.hpp"
#include "fuzz/search/judging.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

struct ReplayOptions {
  std::string target;  // a case, or a file of cases
  std::string kernel;  // empty: every built-in one that implements the operator
  ReportFiles files;
  Seconds timeout = kTimeout;
};

bool is_case(const std::string& target) { return target.find('(') != std::string::npos; }

/// The case, or the cases of the file. Throws std::invalid_argument.
std::vector<Case> find_cases(const std::string& target) {
  if (is_case(target)) return {parse_case(target)};
  const bool names_a_file = target.find_first_of("./") != std::string::npos;
  if (std::error_code error; !names_a_file && !std::filesystem::exists(target, error))
    throw std::invalid_argument(
        fmt::format("case '{}': is no file, and a case is written operator(key=value,...), such as "
                    "'moba(lens=300,heads=4,block=32)'",
                    target));
  return cases_of_file(target);
}

std::int64_t sum(const std::vector<std::int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
}

/// The rows of a case that are compared: of o, lse, dq, dk and dv. 0: it has others, and nobody counts them.
std::int64_t num_rows(const Kernel& kernel, const Case& c) {
  if (!attends(c.op) || has_branches(c.op) || c.law != Law::none || c.sample > 0 || !c.session.empty()) return 0;
  const std::int64_t queries = sum(row_counts(c, RowsOf::queries)) * c.heads, keys = sum(key_rows(c)) * c.kv_heads;
  return has_backward(kernel, c.op) ? 3 * queries + 2 * keys : 2 * queries;
}

/// Judges a case, and tells meanwhile how many of its rows were compared.
CaseResult judge_with_progress(const Kernel& kernel, const Case& c) {
  Progress progress(static_cast<std::size_t>(num_rows(kernel, c)), "rows of " + kernel.name);
  std::mutex mutex;
  return judge(kernel, c, [&](const ObservedRow&) {
    const std::lock_guard lock(mutex);
    progress.step(0);
  });
}

int replay(const ReplayOptions& options) {
  const Interruptible interruptible;  // from the beginning: loading a kernel can take a while
  const std::vector<Case> cases = find_cases(options.target);
  const std::vector<Kernel> judged =
      options.kernel.empty() ? default_kernels() : std::vector<Kernel>{find_kernel(options.kernel, options.timeout)};
  std::vector<Job> jobs;
  for (const Case& c : cases)
    for (const Kernel& kernel : judged)
      if (!options.kernel.empty() || implements(kernel, c.op)) jobs.push_back({&kernel, c});
  require_report_writable(options.files);
  const auto start = std::chrono::steady_clock::now();
  std::vector<CaseResult> results;
  for (const auto& [kernel, c] : jobs) {
    if (is_interrupted()) break;
    const CaseResult& result = results.emplace_back(judge_with_progress(*kernel, c));
    fmt::print("{}", details(result));
    for (const Finding& finding : result.findings) fmt::print("{}\n", failure_line(result, finding));
    std::fflush(stdout);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!is_case(options.target)) fmt::print("{}", table(results));
  Reporter reporter("replay", judged);
  const bool is_complete = results.size() == jobs.size();
  for (const Kernel& kernel : judged) {
    if (!is_complete) break;
    reporter.explain(kernel, print_diagnosis(kernel, results));
    reporter.note(kernel, print_hint(kernel, results));
  }
  if (options.files.are_wanted()) write_report(options.files, reporter.finish(results, seconds, is_complete));
  if (!is_complete) {
    fmt::print(stderr, "interrupted: {} of {} cases judged\n", results.size(), jobs.size());
    return exit_code_of_part(results);
  }
  return exit_code(results);
}

}  // namespace

Command add_replay(CLI::App& program) {
  const auto options = std::make_shared<ReplayOptions>();
  CLI::App* app = program.add_subcommand("replay", "judge one case, or the cases of a file, and show every output");
  app->add_option(kCaseValue, options->target, "operator(key=value,...), or a file with one case per line")
      ->required()
      ->type_name("");
  app->add_option("--kernel", options->kernel,
                  "the kernel to judge (default: every built-in one but those in the simulator)")
      ->type_name(kKernelValue);
  add_report_files(*app, options->files);
  add_timeout(*app, options->timeout);
  add_example(*app, "./attnspec replay 'moba(lens=100+37,heads=4,kv_heads=2,block=32)' --kernel model:moba");
  return {app, [options] { return replay(*options); }};
}

}  // namespace attnspec::fuzz
