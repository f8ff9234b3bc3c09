// The command xray.

#include "verify/xray/xray.hpp"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/interruptible.hpp"
#include "fuzz/command_line/options.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

struct XrayOptions {
  std::string target;   // a case
  std::string kernel;   // empty: the specification
  std::string picture;  // the file that gets it; empty: none
  Seconds timeout = kTimeout;
};

int run_xray(const XrayOptions& options) try {
  const Interruptible interruptible;
  if (!options.picture.empty()) require_writable("--out", options.picture);
  const Case c = parse_case(options.target);
  const Xray result =
      options.kernel.empty() ? verify::xray(c) : verify::xray(find_kernel(options.kernel, options.timeout), c);
  fmt::print("{}", words(result));
  if (!options.picture.empty()) write_file("--out", options.picture, svg(result));
  return result.is_clean() ? 0 : 1;
} catch (const CallFailed& failure) {
  fmt::print("FAIL {} {} call => {}\n", name(failure.verdict), options.kernel, failure.what());
  return 1;
}

}  // namespace

Command add_xray(CLI::App& program) {
  const auto options = std::make_shared<XrayOptions>();
  CLI::App* app = program.add_subcommand(
      "xray",
      "which weight a kernel gives each key, and what is wrong with it; without a kernel, by the specification");
  app->add_option(kCaseValue, options->target, "operator(key=value,...)")->required()->type_name("");
  app->add_option("--kernel", options->kernel, "the kernel to X-ray (default: the specification)")
      ->type_name(kKernelValue);
  app->add_option("--out", options->picture, "also draw it as SVG")->type_name(kFileValue);
  add_timeout(*app, options->timeout);
  add_example(*app, "./attnspec xray 'moba(lens=8,dk=8,block=2)' --kernel model:moba");
  return {app, [options] { return run_xray(*options); }};
}

}  // namespace attnspec::fuzz
