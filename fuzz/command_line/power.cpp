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
#include "verify/report.hpp"

namespace attnspec::fuzz {

namespace {

struct PowerOptions {
  std::string picture;  // the file that gets it; empty: none
};

int power(const PowerOptions& options) {
  const Interruptible interruptible;
  if (!options.picture.empty()) verify::require_writable("--picture", options.picture);
  const std::vector<Fault> planted = faults();
  const std::vector<RightKernel> right = right_kernels();
  Progress progress(planted.size() + right.size(), "faults and right kernels");
  std::vector<Seen> seen(planted.size() + right.size());
  std::exception_ptr error;
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (is_interrupted()) continue;
    try {
      seen[i] = i < planted.size() ? look(planted[i].kernel, planted[i].c)
                                   : look(right[i - planted.size()].kernel, right[i - planted.size()].c);
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
  Power power;
  for (std::size_t i = 0; i < planted.size(); ++i) power.faults.push_back({planted[i].name, std::move(seen[i])});
  power.right.assign(std::make_move_iterator(seen.begin() + static_cast<std::ptrdiff_t>(planted.size())),
                     std::make_move_iterator(seen.end()));
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
