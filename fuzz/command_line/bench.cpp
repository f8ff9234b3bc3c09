// The command bench.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <utility>

#include "cuda/device.hpp"
#include "fuzz/bench/report.hpp"
#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/judged_kernels.hpp"
#include "fuzz/command_line/options.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

/// The baseline is there to be read: it takes minutes for what the others take milliseconds for, and is
/// timed only where it is named.
constexpr const char* kBaseline = "cuda:baseline";

/// What is timed where no case is given.
constexpr const char* kDefaultCases[] = {
    "moba(lens=8192,heads=16,dk=128,block=128,top_k=8)",
    "moba(lens=32768,heads=16,dk=128,block=128,top_k=8)",
    "moba(lens=65536,heads=16,dk=128,block=128,top_k=8)",
    "moba(lens=131072,heads=16,dk=128,block=128,top_k=8)",
    "moba(lens=8192,heads=16,dk=128,block=512,top_k=3)",
    "moba(lens=32768,heads=16,dk=128,block=512,top_k=3)",
    "moba(lens=65536,heads=16,dk=128,block=512,top_k=3)",
    "moba(lens=131072,heads=16,dk=128,block=512,top_k=3)",
    "selected(lens=65536,heads=16,dk=128,block=128,top_k=8)",
    "dense(lens=8192,heads=16,dk=128)",
    "window(lens=65536,heads=64,kv_heads=4,dk=128,window=512)",
    // of NSA fewer rows are judged, since a million rows see a compressed key, and gradients of phi are judged whole
    "nsa_compress(lens=8192,kv_heads=4,dk=128,phi=linear)",
    "nsa_compressed(lens=65536,heads=64,kv_heads=4,dk=128,sample=128)",
    "selected(lens=65536,heads=64,kv_heads=4,dk=128,block=64,top_k=16,selection=kv_head,sample=128)",
    "nsa(lens=8192,heads=64,kv_heads=4,dk=128,sample=128)",
    "nsa(lens=65536,heads=64,kv_heads=4,dk=128,sample=128)",
};
/// Rows of every output of the others that are judged.
constexpr std::int64_t kDefaultSample = 2048;

struct BenchOptions {
  std::vector<std::string> kernels;    // none: every built-in one for a GPU but the baseline
  std::vector<std::string> cases;      // none: MoBA as it is used, beside attention to given blocks and dense attention
  std::optional<std::int64_t> sample;  // rows of every output that are judged, as in a case; none: what the cases say
  std::string direction;               // forward or backward; empty: both
  std::int64_t repetitions = TimingPlan{}.repetitions;  // timed runs of each call
  double seconds = TimingPlan{}.seconds;                // that they may take
  std::uint64_t seed = std::random_device()();  // of the inputs of the cases that are not given, and of which runs are
                                                // judged
  bool has_baselines = false;                   // dense attention in PyTorch, too
  std::string json;                             // a file to write; empty: none
  Seconds timeout = kTimeout;
};

std::vector<Kernel> bench_kernels(const BenchOptions& options) {
  std::vector<Kernel> timed;
  for (const std::string& name : options.kernels) {
    timed.push_back(find_kernel(name, options.timeout));
    if (!timed.back().time) throw std::invalid_argument(fmt::format("kernel '{}': cannot be timed", name));
  }
  if (!timed.empty()) return timed;
  std::copy_if(kernels().begin(), kernels().end(), std::back_inserter(timed),
               [](const Kernel& kernel) { return kernel.name.starts_with("cuda:") && kernel.name != kBaseline; });
  if (timed.empty())
    throw std::invalid_argument(
        fmt::format("no kernel given, and no cuda: kernels: {}", cuda::find_devices().why_none));
  return timed;
}

/// A case as it is timed and judged.
Case bench_case(const std::string& text, const BenchOptions& options) {
  Case c = parse_case(text);
  if (!c.session.empty() || c.law != Law::none)
    throw std::invalid_argument(fmt::format("case {}: sessions and laws are not timed", text));
  if (options.sample && has_key(c.op, "sample")) c.sample = *options.sample;
  validate(c);
  return c;
}

std::vector<Case> bench_cases(const BenchOptions& options) {
  std::vector<Case> cases;
  for (const std::string& text : options.cases) cases.push_back(bench_case(text, options));
  if (!cases.empty()) return cases;
  for (const char* text : kDefaultCases) {
    Case c = bench_case(text, options);
    if (c.sample == 0 && has_key(c.op, "sample")) c.sample = kDefaultSample;  // nsa_compress is judged whole
    c.seed = options.seed;
    cases.push_back(c);
  }
  return cases;
}

int bench(const BenchOptions& options) {
  const Interruptible interruptible;  // from the beginning: loading a kernel can take a while
  const std::vector<Kernel> timed = bench_kernels(options);
  std::vector<Case> cases = bench_cases(options);
  std::erase_if(cases, [&](const Case& c) {
    return std::none_of(timed.begin(), timed.end(), [&](const Kernel& kernel) { return implements(kernel, c.op); });
  });
  if (cases.empty()) throw std::invalid_argument("no kernel given implements the operator of a case");
  if (!options.json.empty()) require_writable("--json", options.json);
  std::vector<Direction> directions{Direction::forward, Direction::backward};
  if (!options.direction.empty())
    std::erase_if(directions, [&](Direction direction) { return options.direction != name(direction); });

  BenchReport report;
  report.plan.repetitions = options.repetitions;
  report.plan.seconds = options.seconds;
  report.plan.seed = options.seed;
  report.peaks = cuda::find_device_peaks();
  if (options.has_baselines) report.dense = dense_baselines(cases, report.plan);
  fmt::print("{}", bench_header(report));
  std::vector<CaseResult> judged;
  for (const Case& c : cases) {
    for (const Kernel& kernel : timed) {
      if (!implements(kernel, c.op) || is_interrupted()) continue;
      report.results.push_back(bench(kernel, c, report.plan, directions, report.peaks));
      judged.push_back(report.results.back().judged);
    }
    if (is_interrupted() && (judged.empty() || !(judged.back().c == c))) break;
    fmt::print("\n{}", bench_table(report, c));
    for (const CaseResult& result : judged)
      if (result.c == c && !result.findings.empty())
        fmt::print("{}\n", failure_line(result, result.findings.front(), bench_command));
    std::fflush(stdout);
    if (!options.json.empty()) write_file("--json", options.json, bench_json(report));
  }
  if (!is_interrupted()) return exit_code(judged);
  fmt::print(stderr, "interrupted: {} calls of kernels timed\n", judged.size());
  return exit_code_of_part(judged);
}

}  // namespace

Command add_bench(CLI::App& program) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* app = program.add_subcommand("bench", "time kernels, and judge the outputs of the timed runs");
  app->add_option(kKernelValue, options->kernels,
                  "built-in ones, PATH.so, FILE.py:FUNCTION (default: every cuda: one but the baseline)")
      ->type_name("");
  app->add_option("--case", options->cases,
                  "cases (default: moba of 8k to 128k tokens, 16 heads, d 128, block 128 top_k 8 and block 512 "
                  "top_k 3; selected; dense; window)")
      ->type_name(kCaseValue);
  app->add_option("--sample", options->sample,
                  "rows of every output that are judged, 0: all (default: what a case says; of the default ones 2048)")
      ->check(in_range<std::int64_t>(0));
  app->add_option("--direction", options->direction, "time only the forward or the backward")
      ->check(CLI::IsMember(values_of(kDirectionValue)))
      ->type_name(kDirectionValue);
  app->add_option("--repetitions", options->repetitions, "timed runs of each call, at most")
      ->check(positive<std::int64_t>())
      ->capture_default_str();
  app->add_option("--seconds", options->seconds, "that they may take; at least three are made")
      ->check(above_zero())
      ->capture_default_str();
  app->add_option("--seed", options->seed,
                  "inputs of the default cases, and which runs are judged (default: another every time)")
      ->check(in_range<std::uint64_t>(0));
  app->add_flag("--baselines", options->has_baselines, "also time dense attention in PyTorch, on the GPU");
  app->add_option("--json", options->json, "also write everything, every run included, to a JSON file")
      ->type_name(kFileValue);
  add_timeout(*app, options->timeout);
  add_example(*app, "./attnspec bench sim:baseline --case 'dense(lens=20,heads=2,dk=16)' --repetitions 3");
  return {app, [options] { return bench(*options); }};
}

}  // namespace attnspec::fuzz
