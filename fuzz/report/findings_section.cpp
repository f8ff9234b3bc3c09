#include "fuzz/report/findings_section.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "fuzz/report/charts.hpp"
#include "fuzz/report/html.hpp"
#include "fuzz/search/findings.hpp"
#include "verify/judge/report.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;
using namespace html;

/// Failing cases that the page shows without a click.
constexpr std::size_t kMaxOpen = 5;

std::string number(double x) { return fmt::format("{:.6g}", x); }

std::string numbers(const std::vector<double>& row) {
  std::vector<std::string> texts;
  for (const double x : row) texts.push_back(number(x));
  return fmt::format("{}", fmt::join(texts, ", "));
}

/// What the finding says, as a table of numbers or in words.
std::string finding_text(const Finding& finding) {
  if (!finding.detail.empty()) return "<p>" + escaped(finding.detail) + "</p>\n";
  const double error = std::abs(finding.observed - finding.expected);
  std::vector<std::string> columns{"observed", "expected", "error", "largest error of a correct kernel", "ratio"};
  std::vector<std::string> row{number(finding.observed), number(finding.expected), three_digits(error),
                               three_digits(finding.bound), three_digits(error / finding.bound)};
  if (finding.limit > 0) {
    columns.insert(columns.end(), {"R of its row", "limit of R"});
    row.insert(row.end(), {three_digits(finding.r), three_digits(finding.limit)});
  }
  return "<div class=\"facts\">" + table(columns, {row}) + "</div>\n";
}

std::string other_findings(const CaseResult& result) {
  if (result.findings.size() < 2) return "";
  std::vector<std::vector<std::string>> rows;
  for (const Finding& finding : result.findings)
    rows.push_back({name(finding.verdict), code(where(finding)),
                    finding.detail.empty()
                        ? fmt::format("{} where {} is expected", number(finding.observed), number(finding.expected))
                        : escaped(finding.detail)});
  return details(fmt::format("The first {} findings of this case", rows.size()),
                 table({"<verdict", "<where", "<what"}, rows));
}

std::string outputs_table(const CaseResult& result) {
  std::vector<std::vector<std::string>> rows;
  for (const OutputSummary& output : result.outputs)
    rows.push_back({code(output.output), count(output.rows), count(output.findings), count(output.undecided),
                    output.r.count() > 0 ? short_number(output.worst_r) : "&ndash;"});
  return rows.empty() ? "" : table({"<output", "rows judged", "wrong", "undecided", "worst R"}, rows);
}

std::string legend() {
  return "<p class=\"legend\"><span><i class=\"wrong\"></i>wrong</span><span><i class=\"high\"></i>passes, R above "
         "2</span><span><i class=\"middle\"></i>R from 1 to 2</span><span><i class=\"low\"></i>R below 1</span></p>\n";
}

std::string maps(const FailingCase& failing) {
  std::string html;
  for (const ErrorMap& map : failing.rows.maps)
    html += fmt::format("<figure>{}<figcaption>{}: {} across, heads downwards{}</figcaption></figure>\n",
                        map_chart(map), code(map.output), map.output.starts_with("d_phi") ? "rows" : "tokens",
                        map.holds_all_rows ? "" : "; of a law, the first rows that differ");
  return html.empty() ? "" : "<h4>Which rows are wrong</h4>\n" + legend() + html;
}

std::string wrong_rows_table(const FailingCase& failing) {
  std::vector<std::vector<std::string>> rows;
  for (const WrongRow& row : failing.rows.wrong)
    rows.push_back({code(row.output), std::to_string(row.place.sequence), std::to_string(row.place.token),
                    std::to_string(row.place.head), numbers(row.observed), numbers(row.expected)});
  return rows.empty() ? ""
                      : "<div class=\"facts\">" +
                            table({"<output", "seq", "token", "head", "<observed", "<expected"}, rows) + "</div>\n";
}

/// The number that a tensor holds everywhere.
std::optional<double> only_number(const InputTensor& tensor) {
  const double first = tensor.rows.front().values.front();
  for (const InputRow& row : tensor.rows)
    if (std::any_of(row.values.begin(), row.values.end(), [&](double x) { return x != first; })) return std::nullopt;
  return first;
}

/// All numbers of a case that a person can compute by hand.
std::string numbers_by_hand(const FailingCase& failing) {
  if (!failing.numbers) return "";
  std::vector<std::vector<std::string>> rows;
  for (const InputTensor& tensor : *failing.numbers) {
    if (const auto x = only_number(tensor)) {
      rows.push_back({code(tensor.name), "all", "all", number(*x)});
      continue;
    }
    for (const InputRow& row : tensor.rows)
      rows.push_back({code(tensor.name), std::to_string(row.token), std::to_string(row.head), numbers(row.values)});
  }
  return "<h4>By hand</h4>\n<p>The case is small. These are all of its inputs, and the first wrong rows.</p>\n"
         "<div class=\"facts\">" +
         table({"<input", "token", "head", "<values"}, rows) + "</div>\n" + wrong_rows_table(failing);
}

std::string paragraphs(const std::vector<std::string>& lines) {
  std::string html;
  for (const std::string& line : lines) html += fmt::format("<p class=\"reading\">{}</p>\n", escaped(line));
  return html;
}

std::string article(const FailingCase& failing) {
  const CaseResult& result = failing.result;
  const Finding& finding = main_finding(result);
  std::string html =
      fmt::format("<article>\n<h3><span class=\"badge fail\">{}</span> {} {}</h3>\n<p>{}</p>\n", name(result.verdict),
                  escaped(result.kernel), code(where(finding)), code(print(result.c)));
  if (failing.drawn && !(*failing.drawn == result.c))
    html += fmt::format("<p class=\"meta\">shrunk from {}</p>\n", code(print(*failing.drawn)));
  html += finding_text(finding);
  if (failing.xray)
    html += fmt::format("<h4>Who attends to whom</h4>\n<figure class=\"xray\">{}</figure>\n", *failing.xray);
  html += maps(failing) + numbers_by_hand(failing);
  std::string more = outputs_table(result);
  for (const Directions& directions : result.directions)
    if (add_up(directions)) more += fmt::format("<p>Errors that add up, {}</p>\n", escaped(direction_line(directions)));
  if (!more.empty()) html += details("All outputs of this case", more);
  return html + other_findings(result) +
         fmt::format("<h4>Repeat it</h4>\n<pre>{}</pre>\n</article>\n", escaped(failing.replay));
}

std::string undecided_table(const Report& report) {
  if (report.undecided.empty()) return "";
  std::string html =
      "<h3>Undecided cases</h3>\n<p>Rows whose selection could not be established. They count as neither right nor "
      "wrong.</p>\n";
  for (const CaseResult& result : report.undecided)
    html += fmt::format("<pre>{}</pre>\n", escaped(undecided_line(result)));
  return html;
}

}  // namespace

std::string findings_section(const Report& report) {
  std::string html, more;
  for (const KernelResults& kernel : report.kernels)
    if (!kernel.diagnosis.empty())
      html += fmt::format("<h3>{}, its findings together</h3>\n{}", escaped(kernel.name), paragraphs(kernel.diagnosis));
  for (std::size_t i = 0; i < report.failing.size(); ++i) (i < kMaxOpen ? html : more) += article(report.failing[i]);
  if (!more.empty()) html += details(fmt::format("{} more", report.failing.size() - kMaxOpen), more);
  const std::int64_t shown = std::ssize(report.failing), all = report.findings();
  const std::string lead =
      all == 0      ? "No case failed."
      : shown < all ? fmt::format("{} failed; {} are shown, different kinds first. The command repeats a case alone.",
                                  counted(all, "case"), shown)
                    : fmt::format("{} failed. The command repeats a case alone.", counted(all, "case"));
  return section("findings", "Findings", lead, html + undecided_table(report));
}

}  // namespace attnspec::fuzz
