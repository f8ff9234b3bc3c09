#include "fuzz/commands.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <optional>
#include <stdexcept>
#include <utility>

#include "cuda/device.hpp"
#include "fuzz/judging.hpp"
#include "fuzz/progress.hpp"
#include "verify/calibration.hpp"
#include "verify/golden.hpp"
#include "verify/hint.hpp"
#include "verify/judge.hpp"
#include "verify/laws/laws.hpp"
#include "verify/levels.hpp"
#include "verify/model/defects.hpp"
#include "verify/model/variants.hpp"
#include "verify/regimes.hpp"
#include "verify/report.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

/// Failure lines printed before the rest are only counted.
constexpr std::size_t kMaxLines = 20;

/// Judges the jobs, prints the failure lines in their order as they come, and remembers the results.
std::vector<CaseResult> run(const std::vector<Job>& jobs) {
  std::vector<std::optional<CaseResult>> done(jobs.size());
  std::vector<CaseResult> results;
  Progress progress(jobs.size());
  std::size_t lines = 0, unprinted = 0, failed = 0;
  const auto print_next = [&] {
    const CaseResult& result = results.emplace_back(std::move(*done[results.size()]));
    if (is_finding(result.verdict)) ++failed;
    if (lines < kMaxLines && !result.findings.empty()) {
      progress.clear();
      fmt::print("{}\n", failure_line(result, result.findings.front()));
      std::fflush(stdout);
      ++lines;
    } else if (!result.findings.empty()) {
      ++unprinted;
    }
    progress.step(failed);
  };
  judge_all(
      jobs, jobs_at_once(0, jobs), [](std::size_t) { return false; },
      [&](std::size_t i, CaseResult result) {
        done[i] = std::move(result);
        while (results.size() < jobs.size() && done[results.size()]) print_next();
      });
  if (unprinted > 0) fmt::print("... and {} more cases with findings\n", unprinted);
  return results;
}

/// What the declared arithmetic of a kernel has to do with its results.
void print_hints(const Kernel& kernel, const std::vector<CaseResult>& all) {
  std::vector<CaseResult> results;
  std::copy_if(all.begin(), all.end(), std::back_inserter(results),
               [&](const CaseResult& result) { return result.kernel == kernel.name; });
  for (const std::string& line : {hint(kernel, results), over_declaration(kernel, results)})
    if (!line.empty()) fmt::print("{}\n", line);
}

/// What is judged where no kernel is named: every built-in one but those in the simulator, which are slow.
std::vector<Kernel> default_kernels() {
  std::vector<Kernel> judged;
  std::copy_if(kernels().begin(), kernels().end(), std::back_inserter(judged),
               [](const Kernel& kernel) { return !kernel.is_simulated; });
  return judged;
}

}  // namespace

int check(const CheckOptions& options) {
  std::vector<Kernel> judged;
  for (const std::string& name : options.kernels) judged.push_back(find_kernel(name, options.timeout));
  if (judged.empty()) judged = default_kernels();
  std::vector<Operator> operators;
  for (const std::string& name : options.operators) operators.push_back(parse_operator(name));
  std::vector<Job> jobs;
  for (const Kernel& kernel : judged)
    for (const Operator op : kernel.operators)
      if (operators.empty() || std::find(operators.begin(), operators.end(), op) != operators.end())
        for (const Case& c : level_cases(op, options.level)) jobs.push_back({&kernel, c});
  if (jobs.empty()) throw std::invalid_argument("no kernel given implements an operator given");
  if (!options.junit.empty()) require_writable("--junit", options.junit);
  if (const std::string why = cuda::find_devices().why_none; options.kernels.empty() && !why.empty())
    fmt::print(stderr, "no cuda: kernels: {}\n", why);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<CaseResult> results = run(jobs);
  fmt::print("{}", table(results));
  for (const Kernel& kernel : judged) {
    print_hints(kernel, results);
    fmt::print("{}", laws_not_held(kernel));
  }
  fmt::print(stderr, "level {} in {:.1f} s\n", options.level,
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (!options.junit.empty()) write_junit(options.junit, results);
  return exit_code(results);
}

int replay(const std::string& target, const std::string& kernel, Seconds timeout) {
  const std::vector<Case> cases =
      target.find('(') != std::string::npos ? std::vector<Case>{parse_case(target)} : read_case_file(target);
  if (cases.empty()) throw std::invalid_argument(fmt::format("case file {}: holds no case", target));
  const std::vector<Kernel> judged =
      kernel.empty() ? default_kernels() : std::vector<Kernel>{find_kernel(kernel, timeout)};
  std::vector<CaseResult> results;
  for (const Case& c : cases) {
    for (const Kernel& k : judged) {
      if (kernel.empty() && !implements(k, c.op)) continue;
      results.push_back(judge(k, c));
      fmt::print("{}", details(results.back()));
      for (const Finding& finding : results.back().findings) fmt::print("{}\n", failure_line(results.back(), finding));
    }
  }
  for (const Kernel& k : judged) print_hints(k, results);
  return exit_code(results);
}

namespace {

/// One line of all calibrations that share a name: of a regime and output, or of an arithmetic and output.
void print_calibrations(const std::vector<Calibration>& all, std::string Calibration::*key) {
  std::vector<std::string> names;
  for (const Calibration& c : all)
    if (std::find(names.begin(), names.end(), c.*key) == names.end()) names.push_back(c.*key);
  for (const std::string& name : names) {
    for (const auto& [output, share] : kCalibratedOutputs) {
      std::int64_t rows = 0, alarms = 0;
      double worst_r = 0, worst_z = 0, least = HUGE_VAL, most = 0;
      for (const Calibration& c : all) {
        if (c.*key != name || c.output != output) continue;
        rows += c.rows, alarms += c.alarms;
        worst_r = std::max(worst_r, c.worst_r), worst_z = std::max(worst_z, c.worst_z);
        if (c.median_r >= 0) least = std::min(least, c.median_r), most = std::max(most, c.median_r);
      }
      fmt::print("{:<50} {:<7} {:>10} {:>7} {:>8.2f} {:>8.2f}  {}\n", name, output, rows, alarms, worst_r, worst_z,
                 most > 0 ? fmt::format("{:.2f} .. {:.2f}", least, most) : "-");
    }
  }
}

}  // namespace

int calibrate(const CalibrateOptions& options) {
  const std::vector<CalibrationJob> jobs = calibration_jobs(options.regimes);
  std::vector<std::vector<Calibration>> results(jobs.size());
  std::exception_ptr error;
  std::size_t bad = 0;
  Progress progress(jobs.size(), "regimes and arithmetics");
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    try {
      results[i] = verify::calibrate(jobs[i], options.rows, options.seed);
    } catch (...) {
#pragma omp critical
      error = std::current_exception();
    }
#pragma omp critical
    {
      bad += std::any_of(results[i].begin(), results[i].end(), [](const Calibration& c) { return !c.is_good(); });
      progress.step(bad);
    }
  }
  progress.clear();
  if (error) std::rethrow_exception(error);
  std::vector<Calibration> all;
  for (const auto& some : results) all.insert(all.end(), some.begin(), some.end());
  fmt::print("{:<50} {:<7} {:>10} {:>7} {:>8} {:>8}  {}\n", "", "", "rows", "alarms", "worst R", "worst z",
             "medians of R where n_eff >= 8");
  print_calibrations(all, &Calibration::regime);
  print_calibrations(all, &Calibration::arithmetic);
  std::int64_t rows = 0;
  for (const Calibration& c : all) {
    rows += c.rows;
    if (c.is_good()) continue;
    fmt::print("BAD {} {} {}: {} alarms in {} rows, worst R {:.2f}, worst z {:.2f}, median R {:.2f}", c.regime,
               c.arithmetic, c.output, c.alarms, c.rows, c.worst_r, c.worst_z, c.median_r);
    if (!c.first_alarm.empty()) fmt::print(" | {}", c.first_alarm);
    fmt::print("\n");
  }
  fmt::print("{} rows, {} regimes and arithmetics: {} good, {} bad\n", rows, jobs.size(), jobs.size() - bad, bad);
  return bad == 0 ? 0 : 1;
}

int golden(const std::vector<std::string>& files) {
  bool all_agree = true;
  std::size_t compared = 0;
  for (const std::string& file : files.empty() ? golden_files() : files) {
    if (!is_defined(file)) {
      fmt::print("{}: not judged, the reference does not define its operator yet\n", file.substr(file.rfind('/') + 1));
      continue;
    }
    for (const GoldenComparison& comparison : compare_golden(file)) {
      ++compared;
      all_agree = all_agree && comparison.agrees();
      fmt::print("{} {}: {} largest relative row difference {:.2e}, bound {:.0e}\n", comparison.file, comparison.tensor,
                 comparison.agrees() ? "agrees," : "DIFFERS,", comparison.difference, comparison.bound);
    }
  }
  fmt::print("{} tensors compared\n", compared);
  return !all_agree ? 1 : compared == 0 ? 3 : 0;
}

int list_operators() {
  for (const Operator op : kOperators) fmt::print("{:<12} {}\n", name(op), summary(op));
  return 0;
}

int list_kernels() {
  for (const Kernel& kernel : kernels()) {
    std::vector<std::string> operators;
    for (const Operator op : kernel.operators) operators.push_back(name(op));
    fmt::print("{}  {}\n  operators: {}\n", kernel.name, kernel.summary, fmt::join(operators, ", "));
    for (const Format dtype : {Format::bf16, Format::fp16, Format::fp32})
      fmt::print("  {}: {}\n", reference::name(dtype), reference::describe(dtype, kernel.arithmetic));
  }
  const cuda::Devices devices = cuda::find_devices();
  for (const std::string& device : devices.names) fmt::print("GPU: {}\n", device);
  if (!devices.why_none.empty()) fmt::print("no cuda: kernels: {}\n", devices.why_none);
  return 0;
}

int list_regimes() {
  for (const Regime& regime : regimes()) fmt::print("{:<14} {}\n", regime.name, regime.mistake);
  if (const auto names = captured_names(); !names.empty()) fmt::print("captured files: {}\n", fmt::join(names, ", "));
  return 0;
}

int list_laws() {
  for (const Law law : kLaws) {
    std::vector<const char*> operators;
    for (const Operator op : kOperators)
      if (has_law(op, law)) operators.push_back(name(op));
    fmt::print("{:<11} {}\n  operators: {}; needs the promise {}\n", name(law), info(law).sentence,
               fmt::join(operators, ", "), name(info(law).promise));
  }
  return 0;
}

int list_variants() {
  for (const model::Variant& variant : model::variants()) fmt::print("variant:{}  {}\n", variant.name, variant.what);
  return 0;
}

int list_arithmetic() {
  std::string group;
  for (const reference::ArithmeticOption& option : reference::arithmetic_options()) {
    if (group != option.group) fmt::print("{}{}\n", group.empty() ? "" : "\n", group = option.group);
    fmt::print("  {:<23} {}{}\n", option.name, option.is_function ? "= " : "  ", option.meaning);
  }
  fmt::print("\n= says which exact function is computed; the other options widen the predicted noise by a rounding.\n");
  return 0;
}

int list_defects() {
  for (const model::Defect& defect : model::defects())
    fmt::print("defect:{}  {} ({}, {})\n  trigger: {}; from: {}\n", defect.name, defect.what, name(defect.op),
               defect.kind, defect.trigger, defect.source);
  return 0;
}

}  // namespace attnspec::fuzz
