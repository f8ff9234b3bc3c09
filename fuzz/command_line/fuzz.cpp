// The command fuzz.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/judged_kernels.hpp"
#include "fuzz/command_line/options.hpp"
#include "fuzz/command_line/progress.hpp"
#include "fuzz/command_line/report_files.hpp"
#include "fuzz/search/findings.hpp"
#include "fuzz/search/search.hpp"
#include "verify/cases/levels.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

constexpr double kDefaultSeconds = 60;

struct FuzzOptions {
  std::string kernel;
  std::vector<std::string> operators;  // none: every one the kernel implements
  std::vector<std::string> laws;       // none: cases of every law and of none; else of these alone
  std::optional<double> seconds;       // none: 60, or no limit where `cases` is given
  std::optional<std::int64_t> cases;   // none: no limit
  std::uint64_t seed = std::random_device()();
  int jobs = 0;                       // cases judged at the same time; 0: one for each thread
  std::string findings = "findings";  // the directory for what is found
  bool keeps_going = false;           // after a finding
  bool is_verbose = false;            // tells each swarm on standard error
  ReportFiles files;
  Seconds timeout = kTimeout;
};

std::string verdict_counts(const std::map<Verdict, std::int64_t>& verdicts) {
  std::vector<std::string> parts;
  for (const auto& [verdict, cases] : verdicts) parts.push_back(fmt::format("{} {}", cases, name(verdict)));
  return fmt::format("{}", fmt::join(parts, ", "));
}

/// Classes that no case of the operator was in; the first few by name.
void print_never_drawn(Operator op, const std::vector<std::string>& classes) {
  const std::size_t shown = std::min<std::size_t>(classes.size(), 4);
  fmt::print("{} never had {}", name(op),
             fmt::join(classes.begin(), classes.begin() + static_cast<std::ptrdiff_t>(shown), "; "));
  if (classes.size() > shown) fmt::print("; and {} more classes", classes.size() - shown);
  fmt::print("\n");
}

void print_summary(const SearchSummary& summary, const std::string& kernel, std::uint64_t seed) {
  fmt::print("{:<15} {:>7} {:>12} {:>8} {:>15}  {}\n", "operator", "cases", "rows judged", "worst R", "undecided rows",
             "verdicts");
  for (const auto& [op, tally] : summary.operators)
    fmt::print("{:<15} {:>7} {:>12} {:>8} {:>15}  {}\n", name(op), tally.cases, tally.rows,
               tally.worst_r > 0 ? short_number(tally.worst_r) : "-", tally.undecided_rows,
               verdict_counts(tally.verdicts));
  const std::int64_t cases = summary.cases(), passed = summary.count(Verdict::pass);
  fmt::print("{} cases and {} rows in {:.1f} s, {:.1f} cases a second; seed {}\n", cases, summary.rows(),
             summary.seconds, summary.seconds > 0 ? static_cast<double>(cases) / summary.seconds : 0, seed);
  fmt::print("{} swarms; {} triples of classes, of {} that were drawn\n", summary.swarms, summary.triples,
             summary.drawn_triples);
  for (const auto& [op, classes] : summary.never_drawn) print_never_drawn(op, classes);
  if (summary.launches > 0)
    fmt::print("{} launches that were to give equal bits did: at 95 % fewer than {:.2g} of them do not (3 / {})\n",
               summary.launches, 3 / static_cast<double>(summary.launches), summary.launches);
  if (exit_code(summary) != 1 && passed > 0)
    fmt::print("no finding: at 95 % the kernel fails on fewer than {:.2g} of such cases (3 / {})\n",
               3 / static_cast<double>(passed), passed);
  if (exit_code(summary) != 1) fmt::print("{}", excluded_line(kernel, summary.imagined()));
}

/// Writes a finding and prints its line and how to repeat it. Returns the command that does.
std::string report(const Found& found, const std::string& directory) {
  const std::string path = write_finding(directory, found), replay = replay_file_command(path, found.shrunk.kernel);
  fmt::print("{}\n", failure_line(found.shrunk, main_finding(found.shrunk)));
  fmt::print("  case {}, {:.1f} s: {}, {}\n  {}\n", found.number, found.seconds, print(found.drawn.c),
             found.fails_alone ? fmt::format("shrunk in {} cases", found.judgements) : "not shrunk", replay);
  if (found.after)
    fmt::print("  as the kernel's first case it passes; it fails after {}, and the file holds both\n",
               print(*found.after));
  else if (!found.fails_alone)
    fmt::print(
        "  as the kernel's first case it passed, and neither a session nor one earlier case shows it: it failed "
        "because of several calls before it, or by chance\n");
  std::fflush(stdout);
  return replay;
}

int fuzz(const FuzzOptions& given) {
  const Interruptible interruptible;  // from the beginning: loading a kernel can take a while
  const std::vector<Kernel> judged{find_kernel(given.kernel, given.timeout)};
  const Kernel& kernel = judged.front();
  SearchOptions options;
  for (const std::string& name : given.operators) options.operators.push_back(parse_operator(name));
  for (const std::string& name : given.laws) options.laws.push_back(parse_law(name));
  options.seed = given.seed;
  options.keeps_going = given.keeps_going;
  options.jobs = given.jobs;
  if (given.cases) options.cases = *given.cases;
  if (given.seconds || !given.cases) options.seconds = given.seconds.value_or(kDefaultSeconds);
  options.is_stopped = is_interrupted;
  require_writable_directory(given.findings);
  require_report_writable(given.files);

  Progress progress(static_cast<std::size_t>(given.cases.value_or(0)));
  std::set<std::string> distinct;
  std::size_t found = 0;
  std::vector<CaseResult> failing;
  SearchObserver observer;
  if (given.is_verbose)
    observer.swarm = [&](const Swarm& swarm) {
      progress.clear();
      const auto& operators = options.operators.empty() ? kernel.operators : options.operators;
      fmt::print(stderr, "swarm: {}\n", describe(swarm, operators));
    };
  std::vector<std::string> undecided;  // lines
  Reporter reporter("fuzz", judged);
  observer.judged = [&](const CaseResult& result) {
    reporter.add(result);
    progress.step(found += is_finding(result.verdict));
    if (result.verdict == Verdict::undecided && undecided.size() < kMaxUndecidedLines)
      undecided.push_back(undecided_line(result));
  };
  observer.found = [&](const Found& finding) {
    progress.clear();
    if (distinct.insert(print(finding.shrunk.c)).second) {
      const std::string replay = report(finding, given.findings);
      if (given.files.are_wanted())
        reporter.show({.result = finding.shrunk, .drawn = finding.drawn.c, .replay = replay});
    }
    failing.push_back(finding.drawn);
    failing.push_back(finding.shrunk);
  };
  const SearchSummary summary = search(kernel, options, observer);
  progress.clear();
  print_summary(summary, kernel.name, given.seed);
  for (const std::string& line : undecided) fmt::print("{}\n", line);
  fmt::print("{}", limits_line(options.operators.empty() ? kernel.operators : options.operators, kernel.limits));
  if (!is_interrupted()) {
    reporter.explain(kernel, print_diagnosis(kernel, failing));
    reporter.note(kernel, print_hint(kernel, failing));
  }
  fmt::print("{}{}", lse_not_judged(kernel), laws_not_held(kernel));
  if (found > 0)
    fmt::print("{} case{} with findings, {} after shrinking\n", found, found == 1 ? "" : "s", distinct.size());
  if (given.files.are_wanted()) write_report(given.files, reporter.finish(summary.seconds, !is_interrupted()));
  return exit_code(summary);
}

}  // namespace

Command add_fuzz(CLI::App& program) {
  const auto options = std::make_shared<FuzzOptions>();
  CLI::App* app = program.add_subcommand("fuzz", "search for a case on which a kernel fails, and shrink it");
  app->add_option(kKernelValue, options->kernel, "the kernel to judge")->required()->type_name("");
  app->add_option("--operator", options->operators, "only these operators (default: all of the kernel's)")
      ->type_name(kOperatorValue);
  app->add_option("--law", options->laws, "only cases of these laws (default: some of each, most of none)")
      ->type_name(kLawValue);
  app->add_option("--seconds", options->seconds, "how long (default: 60, or no limit with --cases)")
      ->check(above_zero());
  app->add_option("--cases", options->cases, "how many cases (default: no limit)")->check(positive<std::int64_t>());
  app->add_option("--seed", options->seed, "which cases; the same seed draws the same (default: another every time)")
      ->check(in_range<std::uint64_t>(0));
  app->add_option("--jobs", options->jobs, "cases judged at the same time (default: one for each core)")
      ->check(positive<int>());
  app->add_option("--findings", options->findings, "directory for the cases and tensors of findings")
      ->type_name(kDirectoryValue)
      ->capture_default_str();
  app->add_flag("--keep-going", options->keeps_going, "search on after a finding");
  app->add_flag("--verbose", options->is_verbose, "tell on standard error which features each swarm has");
  add_report_files(*app, options->files);
  add_timeout(*app, options->timeout);
  add_example(*app, "./attnspec fuzz model:moba --cases 40 --seed 1");
  return {app, [options] { return fuzz(*options); }};
}

}  // namespace attnspec::fuzz
