// The commands of the program. Each is one file: it declares its options, and runs.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace attnspec::fuzz {

/// A command as the program has it. `run` reads what the command line said, prints findings to standard output and
/// returns the exit code; bad input is thrown as an exception whose message is one line.
struct Command {
  CLI::App* app;
  std::function<int()> run;
};

Command add_check(CLI::App& program);
Command add_fuzz(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_defects(CLI::App& program);
Command add_power(CLI::App& program);
Command add_replay(CLI::App& program);
Command add_xray(CLI::App& program);
Command add_calibrate(CLI::App& program);
Command add_golden(CLI::App& program);
Command add_list(CLI::App& program);
/// Prints completions of all commands that the program has when it runs.
Command add_completion(CLI::App& program);

}  // namespace attnspec::fuzz
