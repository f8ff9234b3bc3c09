// The command power.

#include "fuzz/power/power.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <exception>
#include <iterator>
#include <memory>
#include <utility>

#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/options.hpp"
#include "fuzz/command_line/progress.hpp"
#include "verify/judge/report.hpp"

namespace attnspec::fuzz {

namespace {

struct PowerOptions {
  std::string picture;  // the file that gets it; empty: none
};

int power(const PowerOptions& options) {
  const Interruptible interruptible;
  if (!options.picture.empty()) verify::require_writable("--picture", options.picture);
  std::vector<Subject> subjects = faults();
  const auto num_faults = std::ssize(subjects);
  for (Subject& right : right_kernels()) subjects.push_back(std::move(right));
  Progress progress(subjects.size(), "faults and right kernels");
  std::vector<Seen> seen(subjects.size());
  std::exception_ptr error;
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    if (is_interrupted()) continue;
    try {
      seen[i] = look(subjects[i]);
    } catch (...) {
#pragma omp critical(attnspec_power)
      error = std::current_exception();
    }
#pragma omp critical(attnspec_power)
    progress.step(0);
  }
  progress.clear();
  if (error) std::rethrow_exception(error);
  if (is_interrupted()) return kInconclusive;
  const Power power{{seen.begin(), seen.begin() + num_faults}, {seen.begin() + num_faults, seen.end()}};
  fmt::print("{}", power_tables(power));
  if (!options.picture.empty()) verify::write_file("--picture", options.picture, power_picture(power));
  return 0;
}

}  // namespace

Command add_power(CLI::App& program) {
  const auto options = std::make_shared<PowerOptions>();
  CLI::App* app = program.add_subcommand(
      "power", "the smallest faults that attnspec and the usual tolerances see, and the right kernels they accuse");
  app->add_option("--picture", options->picture, "also draw it as SVG")->type_name(kFileValue);
  add_example(*app, "./attnspec power");
  return {app, [options] { return power(*options); }};
}

}  // namespace attnspec::fuzz
