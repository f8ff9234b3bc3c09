#include "fuzz/command_line/report_files.hpp"

#include "fuzz/command_line/options.hpp"
#include "fuzz/report/page.hpp"
#include "fuzz/report/report_json.hpp"
#include "verify/judge/report.hpp"

namespace attnspec::fuzz {

void add_report_files(CLI::App& command, ReportFiles& files) {
  command.add_option("--report", files.page, "also write a page with all results, one HTML file that needs no network")
      ->type_name(kFileValue);
  command.add_option("--json", files.json, "also write the same as JSON")->type_name(kFileValue);
}

void require_report_writable(const ReportFiles& files) {
  if (!files.page.empty()) verify::require_writable("--report", files.page);
  if (!files.json.empty()) verify::require_writable("--json", files.json);
}

void write_report(const ReportFiles& files, const Report& report) {
  if (!files.page.empty()) verify::write_file("--report", files.page, report_page(report));
  if (!files.json.empty()) verify::write_file("--json", files.json, report_json(report));
}

}  // namespace attnspec::fuzz
