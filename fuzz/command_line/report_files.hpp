// The options --report and --json of the commands that judge cases.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "fuzz/report/report.hpp"

namespace attnspec::fuzz {

/// Files that a report is written to; empty: none.
struct ReportFiles {
  std::string page, json;

  bool are_wanted() const { return !page.empty() || !json.empty(); }
};

void add_report_files(CLI::App& command, ReportFiles& files);

/// Throws std::runtime_error where one could not be written, so that nothing is judged in vain.
void require_report_writable(const ReportFiles& files);

/// Throws likewise.
void write_report(const ReportFiles& files, const Report& report);

}  // namespace attnspec::fuzz
