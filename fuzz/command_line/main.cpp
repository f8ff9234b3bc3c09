// The program attnspec: parses the command line, runs a command, and turns exceptions into one line and exit code 2.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <new>
#include <vector>

#include "fuzz/command_line/command.hpp"
#include "verify/judge/report.hpp"

namespace {

using namespace attnspec;

constexpr int kCouldNotRun = 2;

int run(int argc, char** argv) {
  CLI::App program{"Executable specification of block-sparse attention, and the judge of its kernels.", "attnspec"};
  program.footer(
      "attnspec COMMAND --help shows the options of a command, and an example.\n"
      "Exit codes: 0 all judged and passed, 1 a finding, 2 could not run, 3 inconclusive.\n"
      "In the repository, ./attnspec selftest builds and runs the project's own tests.");
  program.set_version_flag("--version", "attnspec " ATTNSPEC_VERSION);
  program.require_subcommand(1);
  std::vector<fuzz::Command> commands;
  for (const auto add :
       {fuzz::add_check, fuzz::add_fuzz, fuzz::add_bench, fuzz::add_defects, fuzz::add_power, fuzz::add_replay,
        fuzz::add_xray, fuzz::add_calibrate, fuzz::add_golden, fuzz::add_list, fuzz::add_completion})
    commands.push_back(add(program));
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    fmt::print(stderr, "{}", verify::error_line(error));
    return kCouldNotRun;
  }
  for (const fuzz::Command& command : commands)
    if (program.got_subcommand(command.app)) return command.run();
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
