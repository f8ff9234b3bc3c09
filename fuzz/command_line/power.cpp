// The command power.

#include "fuzz/power/power.hpp"

#include <fmt/format.h>

#include <memory>

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
  Power power;
  for (const Fault& fault : planted) {
    if (is_interrupted()) return kInconclusive;
    power.faults.push_back({fault.name, look(fault.kernel, fault.c)});
    progress.step(0);
  }
  for (const auto& [c, kernel] : right) {
    if (is_interrupted()) return kInconclusive;
    power.right.push_back(look(kernel, c));
    progress.step(0);
  }
  progress.clear();
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
  add_example(*app, "./attnspec power --picture power.svg");
  return {app, [options] { return power(*options); }};
}

}  // namespace attnspec::fuzz
