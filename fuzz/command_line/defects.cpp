// The command defects.

#include "verify/model/defects/defects.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <stdexcept>

#include "fuzz/bench/median.hpp"
#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/options.hpp"
#include "fuzz/search/findings.hpp"
#include "fuzz/search/search.hpp"
#include "verify/kernels.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

struct DefectsOptions {
  std::vector<std::string> names;  // none: every planted defect
  std::string arithmetic;          // options that the kernels with a defect declare and play: "scaled_ds+fp32_out"
  std::int64_t cases = 200;        // for each of them, at most
  std::uint64_t seed = 0;
};

std::vector<const model::Defect*> find_defects(const std::vector<std::string>& names) {
  std::vector<const model::Defect*> found;
  for (const model::Defect& defect : model::defects())
    if (names.empty() || std::find(names.begin(), names.end(), defect.name) != names.end()) found.push_back(&defect);
  for (const std::string& name : names)
    if (std::none_of(found.begin(), found.end(), [&](const model::Defect* defect) { return name == defect->name; }))
      throw std::invalid_argument(fmt::format("defect '{}': is not known (list defects)", name));
  return found;
}

int defects(const DefectsOptions& given) {
  const auto planted = find_defects(given.names);
  const Interruptible interruptible;
  SearchOptions options;
  options.seed = given.seed;
  options.cases = given.cases;
  options.is_stopped = is_interrupted;
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
    if (is_interrupted()) break;
  }
  fmt::print("{} of {} defects caught; seed {}", numbers.size(), planted.size(), given.seed);
  if (!numbers.empty())
    fmt::print("; cases until then: median {}, most {}", median(numbers),
               *std::max_element(numbers.begin(), numbers.end()));
  fmt::print("\n");
  return numbers.size() == planted.size() ? 0 : 1;
}

}  // namespace

Command add_defects(CLI::App& program) {
  const auto options = std::make_shared<DefectsOptions>();
  CLI::App* app = program.add_subcommand("defects", "search for the planted defects, and tell how soon each is found");
  app->add_option(kDefectValue, options->names, "planted defects (default: all)")->type_name("");
  app->add_option("--arithmetic", options->arithmetic,
                  "options that the kernels declare and play, such as scaled_ds+fp32_out (list arithmetic)")
      ->type_name(kArithmeticValue);
  app->add_option("--cases", options->cases, "cases for each of them, at most")
      ->check(positive<std::int64_t>())
      ->capture_default_str();
  app->add_option("--seed", options->seed, "other cases")->check(in_range<std::uint64_t>(0))->capture_default_str();
  add_example(*app, "./attnspec defects delta_missing future_token_visible");
  return {app, [options] { return defects(*options); }};
}

}  // namespace attnspec::fuzz
