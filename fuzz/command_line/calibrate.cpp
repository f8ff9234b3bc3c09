// The command calibrate.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>

#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/options.hpp"
#include "fuzz/command_line/progress.hpp"
#include "verify/calibration/calibration.hpp"
#include "verify/calibration/rms_r.hpp"
#include "verify/judge/report.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

struct CalibrateOptions {
  std::int64_t rows = 5000;          // of every output, in every regime and arithmetic
  std::vector<std::string> regimes;  // none: every one
  std::uint64_t seed = 0;
  std::string rms;  // a record whose lines are printed with the numbers of now, instead of all that
};

/// One line of all calibrations that share a name: of a regime and output, or of an arithmetic and output.
void print_calibrations(const std::vector<Calibration>& all, std::string Calibration::*key) {
  std::vector<std::string> names;
  for (const Calibration& c : all)
    if (std::find(names.begin(), names.end(), c.*key) == names.end()) names.push_back(c.*key);
  for (const std::string& name : names) {
    for (const OutputKind& kind : kOutputKinds) {
      const std::string_view output = kind.name;
      std::int64_t rows = 0, alarms = 0;
      double worst_r = 0, worst_z = 0, least = HUGE_VAL, most = 0;
      for (const Calibration& c : all) {
        if (c.*key != name || c.output != output) continue;
        rows += c.rows, alarms += c.alarms;
        worst_r = std::max(worst_r, c.worst_r), worst_z = std::max(worst_z, c.worst_z);
        if (c.median_r >= 0) least = std::min(least, c.median_r), most = std::max(most, c.median_r);
      }
      fmt::print("{:<50} {:<7} {:>10} {:>7} {:>8} {:>8}  {}\n", name, output, rows, alarms, short_number(worst_r),
                 short_number(worst_z), most > 0 ? fmt::format("{:.2f} .. {:.2f}", least, most) : "-");
    }
  }
}

int print_rms_record(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::invalid_argument(fmt::format("--rms {}: cannot be read", path));
  fmt::print("{}", measured_rms_record({std::istreambuf_iterator<char>(file), {}}));
  return 0;
}

int calibrate(const CalibrateOptions& options) {
  const Interruptible interruptible;
  const std::vector<CalibrationJob> jobs = calibration_jobs(options.regimes);
  std::vector<std::vector<Calibration>> results(jobs.size());
  std::exception_ptr error;
  std::size_t bad = 0, judged = 0;
  Progress progress(jobs.size(), "regimes and arithmetics");
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (is_interrupted()) continue;
    try {
      results[i] = verify::calibrate(jobs[i], options.rows, options.seed);
    } catch (...) {
#pragma omp critical
      error = std::current_exception();
    }
#pragma omp critical
    {
      ++judged;
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
    fmt::print("BAD {} {} {}: {} alarms in {} rows, worst R {}, worst z {}, median R {:.2f}", c.regime, c.arithmetic,
               c.output, c.alarms, c.rows, short_number(c.worst_r), short_number(c.worst_z), c.median_r);
    if (!c.first_alarm.empty()) fmt::print(" | {}", c.first_alarm);
    fmt::print("\n");
  }
  fmt::print("{} rows, {} regimes and arithmetics: {} good, {} bad\n", rows, judged, judged - bad, bad);
  if (judged < jobs.size()) fmt::print(stderr, "interrupted: {} of {} calibrated\n", judged, jobs.size());
  return bad > 0 ? 1 : judged < jobs.size() ? kInconclusive : 0;
}

}  // namespace

Command add_calibrate(CLI::App& program) {
  const auto options = std::make_shared<CalibrateOptions>();
  CLI::App* app = program.add_subcommand(
      "calibrate", "whether the predicted noise fits the model kernel in every regime and arithmetic");
  app->add_option("--rows", options->rows, "rows of every output, in each of them")
      ->check(positive<std::int64_t>())
      ->capture_default_str();
  app->add_option("--regime", options->regimes, "only these regimes")->type_name(kRegimeValue);
  app->add_option("--seed", options->seed, "other cases")->check(in_range<std::uint64_t>(0))->capture_default_str();
  app->add_option("--rms", options->rms, "print this record of rms R, verify/selftest/judge/rms_r.txt, as it is now")
      ->type_name("FILE");
  add_example(*app, "./attnspec calibrate --regime subnormal --rows 10");
  return {app, [options] { return options->rms.empty() ? calibrate(*options) : print_rms_record(options->rms); }};
}

}  // namespace attnspec::fuzz
