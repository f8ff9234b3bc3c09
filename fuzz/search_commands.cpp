// The commands that search: fuzz and defects.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <set>
#include <stdexcept>
#include <utility>

#include "fuzz/commands.hpp"
#include "fuzz/findings.hpp"
#include "fuzz/median.hpp"
#include "fuzz/progress.hpp"
#include "fuzz/search.hpp"
#include "verify/hint.hpp"
#include "verify/kernel.hpp"
#include "verify/laws/laws.hpp"
#include "verify/model/defects.hpp"
#include "verify/report.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

constexpr double kDefaultSeconds = 60;

volatile std::sig_atomic_t is_interrupted = 0;

/// While it lives the first Ctrl-C only sets is_interrupted; the second ends the program as ever.
class Interruptible {
 public:
  Interruptible() {
    is_interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { is_interrupted = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &before_);
  }
  ~Interruptible() { sigaction(SIGINT, &before_, nullptr); }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  struct sigaction before_ {};
};

std::string verdict_counts(const std::map<Verdict, std::int64_t>& verdicts) {
  std::vector<std::string> parts;
  for (const auto& [verdict, cases] : verdicts) parts.push_back(fmt::format("{} {}", cases, name(verdict)));
  return fmt::format("{}", fmt::join(parts, ", "));
}

void print_summary(const SearchSummary& summary, std::uint64_t seed) {
  fmt::print("{:<15} {:>7} {:>12} {:>8} {:>15}  {}\n", "operator", "cases", "rows judged", "worst R", "undecided rows",
             "verdicts");
  for (const auto& [op, tally] : summary.operators)
    fmt::print("{:<15} {:>7} {:>12} {:>8} {:>15}  {}\n", name(op), tally.cases, tally.rows,
               tally.worst_r > 0 ? fmt::format("{:.2f}", tally.worst_r) : "-", tally.undecided_rows,
               verdict_counts(tally.verdicts));
  const std::int64_t cases = summary.cases(), passed = summary.count(Verdict::pass);
  fmt::print("{} cases and {} rows in {:.1f} s, {:.1f} cases a second; seed {}\n", cases, summary.rows(),
             summary.seconds, summary.seconds > 0 ? static_cast<double>(cases) / summary.seconds : 0, seed);
  fmt::print("{} swarms; {} pairs of parameter classes, of {} that were drawn\n", summary.swarms, summary.pairs,
             summary.drawn_pairs);
  if (summary.launches > 0)
    fmt::print("{} launches that were to give equal bits did: at 95 % fewer than {:.2g} of them do not (3 / {})\n",
               summary.launches, 3 / static_cast<double>(summary.launches), summary.launches);
  if (exit_code(summary) != 1 && passed > 0)
    fmt::print("no finding: at 95 % the kernel fails on fewer than {:.2g} of such cases (3 / {})\n",
               3 / static_cast<double>(passed), passed);
}

/// Writes a finding and prints its line and how to repeat it.
void report(const Found& found, const std::string& directory) {
  const std::string path = write_finding(directory, found);
  fmt::print("{}\n", failure_line(found.shrunk, main_finding(found.shrunk)));
  fmt::print("  case {}, {:.1f} s: {}, shrunk in {} cases\n  {}\n", found.number, found.seconds, print(found.drawn.c),
             found.judgements, replay_file_command(path, found.shrunk.kernel));
  if (!found.fails_alone)
    fmt::print("  as the kernel's first case it passed: it failed because of the calls before it, or by chance\n");
  std::fflush(stdout);
}

}  // namespace

int fuzz(const FuzzOptions& given) {
  const Interruptible interruptible;  // from the beginning: loading a kernel can take a while
  const Kernel kernel = find_kernel(given.kernel, given.timeout);
  SearchOptions options;
  for (const std::string& name : given.operators) options.operators.push_back(parse_operator(name));
  for (const std::string& name : given.laws) options.laws.push_back(parse_law(name));
  options.seed = given.seed;
  options.keeps_going = given.keeps_going;
  options.jobs = given.jobs;
  if (given.cases) options.cases = *given.cases;
  if (given.seconds || !given.cases) options.seconds = given.seconds.value_or(kDefaultSeconds);
  options.is_stopped = [] { return is_interrupted != 0; };
  require_writable_directory(given.findings);

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
  observer.judged = [&](const CaseResult& result) { progress.step(found += is_finding(result.verdict)); };
  observer.found = [&](const Found& finding) {
    progress.clear();
    if (distinct.insert(print(finding.shrunk.c)).second) report(finding, given.findings);
    failing.push_back(finding.drawn);
    failing.push_back(finding.shrunk);
  };
  const SearchSummary summary = search(kernel, options, observer);
  progress.clear();
  print_summary(summary, given.seed);
  if (const std::string line = hint(kernel, failing); !line.empty()) fmt::print("{}\n", line);
  fmt::print("{}", laws_not_held(kernel));
  if (found > 0)
    fmt::print("{} case{} with findings, {} after shrinking\n", found, found == 1 ? "" : "s", distinct.size());
  return exit_code(summary);
}

namespace {

std::vector<const model::Defect*> find_defects(const std::vector<std::string>& names) {
  std::vector<const model::Defect*> found;
  for (const model::Defect& defect : model::defects())
    if (names.empty() || std::find(names.begin(), names.end(), defect.name) != names.end()) found.push_back(&defect);
  for (const std::string& name : names)
    if (std::none_of(found.begin(), found.end(), [&](const model::Defect* defect) { return name == defect->name; }))
      throw std::invalid_argument(fmt::format("defect '{}': is not known (list defects)", name));
  return found;
}

}  // namespace

int defects(const DefectsOptions& given) {
  const auto planted = find_defects(given.names);
  const Interruptible interruptible;
  SearchOptions options;
  options.seed = given.seed;
  options.cases = given.cases;
  options.is_stopped = [] { return is_interrupted != 0; };
  std::vector<std::int64_t> numbers;
  fmt::print("{:<28} {:<20} {:<11} {:<15} {:>6} {:>8}  {}\n", "defect", "verdict", "law", "output", "cases", "seconds",
             "shrunk case");
  for (const model::Defect* defect : planted) {
    bool is_caught = false;
    SearchObserver observer;
    observer.found = [&](const Found& found) {
      is_caught = true;
      numbers.push_back(found.number);
      const Law law = found.shrunk.c.law;
      fmt::print("{:<28} {:<20} {:<11} {:<15} {:>6} {:>8.2f}  {}\n", defect->name, name(found.shrunk.verdict),
                 law == Law::none ? "-" : name(law), main_finding(found.shrunk).output, found.number, found.seconds,
                 print(found.shrunk.c));
    };
    const SearchSummary summary = search(
        find_kernel(fmt::format("defect:{}{}{}", defect->name, given.arithmetic.empty() ? "" : "+", given.arithmetic)),
        options, observer);
    if (!is_caught)
      fmt::print("{:<28} {:<20} {:<11} {:<15} {:>6} {:>8.2f}\n", defect->name, "NOT CAUGHT", "-", "-", summary.cases(),
                 summary.seconds);
    std::fflush(stdout);
    if (is_interrupted) break;
  }
  fmt::print("{} of {} defects caught; seed {}", numbers.size(), planted.size(), given.seed);
  if (!numbers.empty())
    fmt::print("; cases until then: median {}, most {}", median(numbers),
               *std::max_element(numbers.begin(), numbers.end()));
  fmt::print("\n");
  return numbers.size() == planted.size() ? 0 : 1;
}

}  // namespace attnspec::fuzz
