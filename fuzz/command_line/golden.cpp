// The command golden.

#include "verify/golden/golden.hpp"

#include <fmt/format.h>

#include <memory>

#include "fuzz/command_line/command.hpp"
#include "fuzz/command_line/options.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;

/// files: none: those of the golden directory.
int golden(const std::vector<std::string>& files) {
  bool all_agree = true;
  std::size_t compared = 0;
  for (const std::string& file : files.empty() ? golden_files() : files) {
    if (!is_defined(file)) {
      fmt::print("{}: not judged, the reference does not define its operator yet\n", file.substr(file.rfind('/') + 1));
      continue;
    }
    for (const GoldenComparison& comparison : compare_golden(file)) {
      ++compared;
      all_agree = all_agree && comparison.agrees();
      fmt::print("{} {}: {} largest relative row difference {:.2e}, bound {:.0e}\n", comparison.file, comparison.tensor,
                 comparison.agrees() ? "agrees," : "DIFFERS,", comparison.difference, comparison.bound);
    }
  }
  fmt::print("{} tensors compared\n", compared);
  return !all_agree ? 1 : compared == 0 ? 3 : 0;
}

}  // namespace

Command add_golden(CLI::App& program) {
  const auto files = std::make_shared<std::vector<std::string>>();
  CLI::App* app =
      program.add_subcommand("golden", "compare the reference with recorded vectors of public implementations");
  app->add_option(kFileValue, *files,
                  "safetensors files (default: those of ATTNSPEC_GOLDEN_DIR, else the repository's)")
      ->type_name("");
  add_example(*app, "./attnspec golden verify/golden/moba_0.safetensors");
  return {app, [files] { return golden(*files); }};
}

}  // namespace attnspec::fuzz
