// The program attnspec: parses the command line, runs a command, and turns exceptions into one line and exit code 2.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <new>
#include <random>
#include <string>

#include "fuzz/commands.hpp"
#include "verify/levels.hpp"
#include "verify/report.hpp"

namespace {

constexpr int kCouldNotRun = 2;

int run(int argc, char** argv) {
  using namespace attnspec;
  CLI::App app{"Executable specification of block-sparse attention, and the judge of its kernels.", "attnspec"};
  app.footer("Exit codes: 0 all judged and passed, 1 a finding, 2 could not run, 3 inconclusive.");
  app.set_version_flag("--version", "attnspec " ATTNSPEC_VERSION);
  app.require_subcommand(1);

  fuzz::CheckOptions check_options;
  auto* check = app.add_subcommand("check", "judge kernels on the fixed levels");
  check->add_option(
      "KERNEL", check_options.kernels,
      "built-in ones, PATH.so, FILE.py:FUNCTION (default: every built-in one but those in the simulator)");
  check->add_option("--level", check_options.level, "1: within a minute; 2: some minutes")
      ->check(CLI::Range(1, verify::kMaxLevel))
      ->capture_default_str();
  check->add_option("--operator", check_options.operators, "only these operators");
  check->add_option("--junit", check_options.junit, "also write a JUnit XML file");

  fuzz::FuzzOptions fuzz_options;
  fuzz_options.seed = std::random_device()();
  auto* fuzzed = app.add_subcommand("fuzz", "search for a case on which a kernel fails, and shrink it");
  fuzzed->add_option("KERNEL", fuzz_options.kernel, "the kernel to judge")->required();
  fuzzed->add_option("--operator", fuzz_options.operators, "only these operators (default: all of the kernel's)");
  fuzzed->add_option("--law", fuzz_options.laws, "only cases of these laws (default: some of each, most of none)");
  fuzzed->add_option("--seconds", fuzz_options.seconds, "how long (default: 60, or no limit with --cases)")
      ->check(CLI::PositiveNumber);
  fuzzed->add_option("--cases", fuzz_options.cases, "how many cases (default: no limit)")->check(CLI::PositiveNumber);
  fuzzed->add_option("--seed", fuzz_options.seed,
                     "which cases; the same seed draws the same (default: another every time)");
  fuzzed->add_option("--jobs", fuzz_options.jobs, "cases judged at the same time (default: one for each core)")
      ->check(CLI::PositiveNumber);
  fuzzed->add_option("--findings", fuzz_options.findings, "directory for the cases and tensors of findings")
      ->capture_default_str();
  fuzzed->add_flag("--keep-going", fuzz_options.keeps_going, "search on after a finding");
  fuzzed->add_flag("--verbose", fuzz_options.is_verbose, "tell on standard error which features each swarm has");

  fuzz::BenchOptions bench_options;
  bench_options.seed = std::random_device()();
  auto* benched = app.add_subcommand("bench", "time kernels, and judge what they wrote meanwhile");
  benched->add_option("KERNEL", bench_options.kernels,
                      "built-in ones, PATH.so, FILE.py:FUNCTION (default: every cuda: one but the baseline)");
  benched->add_option("--case", bench_options.cases,
                      "cases (default: moba of 8k to 128k tokens, 16 heads, d 128, block 128 top_k 8 and block 512 "
                      "top_k 3; selected; dense; window)");
  benched
      ->add_option("--sample", bench_options.sample,
                   "rows of every output that are judged, 0: all (default: what a case says; of the default ones "
                   "2048)")
      ->check(CLI::NonNegativeNumber);
  benched->add_option("--direction", bench_options.direction, "time only the forward or the backward")
      ->check(CLI::IsMember({"forward", "backward"}));
  benched->add_option("--repetitions", bench_options.repetitions, "timed runs of each call, at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  benched->add_option("--seconds", bench_options.seconds, "that they may take; at least three are made")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  benched->add_option("--seed", bench_options.seed,
                      "inputs of the default cases, and which runs are judged (default: another every time)");
  benched->add_flag("--baselines", bench_options.has_baselines, "also time dense attention in PyTorch, on the GPU");
  benched->add_option("--json", bench_options.json, "also write everything, every run included, to a JSON file");

  fuzz::DefectsOptions defects_options;
  auto* planted = app.add_subcommand("defects", "search for the planted defects, and tell how soon each is found");
  planted->add_option("NAME", defects_options.names, "planted defects (default: all)");
  planted->add_option("--arithmetic", defects_options.arithmetic,
                      "options that the kernels declare and play, such as scaled_ds+fp32_out (list arithmetic)");
  planted->add_option("--cases", defects_options.cases, "cases for each of them, at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  planted->add_option("--seed", defects_options.seed, "other cases")->capture_default_str();

  std::string target, kernel;
  auto* replay = app.add_subcommand("replay", "judge one case, or the cases of a file, and show every output");
  replay->add_option("CASE", target, "operator(key=value,...), or a file with one case per line")->required();
  replay->add_option("--kernel", kernel,
                     "the kernel to judge (default: every built-in one but those in the simulator)");

  fuzz::CalibrateOptions calibrate_options;
  auto* calibrate = app.add_subcommand(
      "calibrate", "whether the predicted noise fits the model kernel in every regime and arithmetic");
  calibrate->add_option("--rows", calibrate_options.rows, "rows of every output, in each of them")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  calibrate->add_option("--regime", calibrate_options.regimes, "only these regimes");
  calibrate->add_option("--seed", calibrate_options.seed, "other cases")->capture_default_str();

  double timeout = verify::kTimeout.count();
  for (CLI::App* command : {check, fuzzed, replay, benched})
    command->add_option("--timeout", timeout, "seconds that somebody else's kernel may take to load, and for a call")
        ->check(CLI::Range(0.001, 1e6))
        ->capture_default_str();

  std::vector<std::string> golden_files;
  auto* golden = app.add_subcommand("golden", "compare the reference with recorded vectors of public implementations");
  golden->add_option("FILE", golden_files,
                     "safetensors files (default: those of ATTNSPEC_GOLDEN_DIR, else the repository's)");

  auto* list = app.add_subcommand(
      "list", "list operators, kernels, regimes, laws, arithmetic, equivalent variants or planted defects");
  list->require_subcommand(1);
  auto* operators = list->add_subcommand("operators", "what can be judged");
  auto* kernels = list->add_subcommand("kernels", "the built-in kernels and their declared arithmetic");
  auto* regimes = list->add_subcommand("regimes", "what kinds of numbers a case can hold, and why");
  auto* laws = list->add_subcommand("laws", "what must hold to the bit, of which operators, by which promise");
  auto* arithmetic = list->add_subcommand("arithmetic", "the options of declared arithmetic, one sentence each");
  auto* variants = list->add_subcommand("variants", "equivalent variants, each a kernel variant:NAME");
  auto* defects = list->add_subcommand("defects", "planted defects, each a kernel defect:NAME");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "{}", attnspec::verify::error_line(error));
    return kCouldNotRun;
  }
  check_options.timeout = fuzz_options.timeout = bench_options.timeout = verify::Seconds(timeout);
  if (*check) return fuzz::check(check_options);
  if (*fuzzed) return fuzz::fuzz(fuzz_options);
  if (*benched) return fuzz::bench(bench_options);
  if (*planted) return fuzz::defects(defects_options);
  if (*replay) return fuzz::replay(target, kernel, verify::Seconds(timeout));
  if (*calibrate) return fuzz::calibrate(calibrate_options);
  if (*golden) return fuzz::golden(golden_files);
  if (*operators) return fuzz::list_operators();
  if (*kernels) return fuzz::list_kernels();
  if (*regimes) return fuzz::list_regimes();
  if (*laws) return fuzz::list_laws();
  if (*arithmetic) return fuzz::list_arithmetic();
  if (*variants) return fuzz::list_variants();
  if (*defects) return fuzz::list_defects();
  return kCouldNotRun;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "attnspec: the case needs more memory than there is\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}", attnspec::verify::error_line(error));
  }
  return kCouldNotRun;
}
