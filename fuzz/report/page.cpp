#include "fuzz/report/page.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "fuzz/report/charts.hpp"
#include "fuzz/report/findings_section.hpp"
#include "fuzz/report/html.hpp"
#include "page_style.hpp"
#include "verify/judge/report.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;
using namespace html;

using Rows = std::vector<std::vector<std::string>>;

std::string dash_unless(bool is_there, const std::string& text) { return is_there ? text : "&ndash;"; }

/// The kernel's name before what is shown of it, where there are others.
std::string heading(const Report& report, const KernelResults& kernel) {
  return report.kernels.size() > 1 ? fmt::format("<h3>{}</h3>\n", escaped(kernel.name)) : "";
}

/// What `show` makes of every kernel, or `otherwise` where that is nothing.
template <class Show>
std::string of_every_kernel(const Report& report, const Show& show, const std::string& otherwise) {
  std::string html;
  for (const KernelResults& kernel : report.kernels)
    if (const std::string shown = show(kernel); !shown.empty()) html += heading(report, kernel) + shown;
  return html.empty() ? fmt::format("<p>{}</p>\n", otherwise) : html;
}

std::string verdict_badges(const std::map<Verdict, std::int64_t>& verdicts) {
  std::string html;
  for (const auto& [verdict, cases] : verdicts) {
    const char* kind = verdict == Verdict::pass ? "pass" : is_finding(verdict) ? "fail" : "inconclusive";
    html += fmt::format("<span class=\"badge {}\">{} {}</span> ", kind, count(cases), name(verdict));
  }
  return html;
}

std::string subject(const Report& report) {
  if (report.kernels.size() == 1) return escaped(report.kernels.front().name);
  return counted(std::ssize(report.kernels), "kernel");
}

std::string headline(const Report& report) {
  const std::string outcome = report.outcome();
  const std::int64_t cases = report.cases(), findings = report.findings();
  const std::string what = outcome == "fail"   ? fmt::format("{} of {} failed", count(findings), counted(cases, "case"))
                           : outcome == "pass" ? fmt::format("{} judged, no finding", counted(cases, "case"))
                                               : fmt::format("{} judged, inconclusive", counted(cases, "case"));
  return fmt::format("<h1>{}: <span class=\"{}\">{}</span></h1>\n", subject(report), outcome, what);
}

std::string tiles(const Report& report) {
  std::int64_t rows = 0, undecided = 0;
  double worst = 0;
  for (const KernelResults& kernel : report.kernels)
    for (const OperatorResults& results : kernel.operators) {
      rows += results.rows();
      undecided += results.undecided();
      worst = std::max(worst, results.worst_r());
    }
  const std::vector<std::pair<std::string, std::string>> all{
      {count(report.cases()), "cases"},
      {count(report.findings()), "cases with a finding"},
      {count(rows), "rows judged"},
      {percent(undecided, rows + undecided), "of the rows undecided"},
      {dash_unless(worst > 0, short_number(worst)), "worst row error ratio R"}};
  std::string html = "<div class=\"tiles\">\n";
  for (const auto& [value, what] : all) html += fmt::format("<div><b>{}</b><span>{}</span></div>\n", value, what);
  return html + "</div>\n";
}

std::string summary(const Report& report) {
  Rows rows;
  for (const KernelResults& kernel : report.kernels)
    for (const OperatorResults& results : kernel.operators)
      rows.push_back({escaped(kernel.name), code(name(results.op)), count(results.cases), count(results.rows()),
                      dash_unless(results.worst_r() > 0, short_number(results.worst_r())),
                      percent(results.undecided(), results.rows() + results.undecided()), duration(results.seconds),
                      verdict_badges(results.verdicts)});
  std::string notes;
  for (const KernelResults& kernel : report.kernels)
    for (const std::string& note : kernel.notes) notes += fmt::format("<p>{}</p>\n", escaped(note));
  return section(
      "summary", "Summary",
      "A row is one output of one token and head. The row error ratio R is the length of its error over the "
      "length that the rounding of a correct kernel predicts. Rows of cases that a law judges are not "
      "counted here.",
      table({"<kernel", "<operator", "cases", "rows", "worst R", "undecided", "time", "<verdicts"}, rows) + notes);
}

/// The number that so many of all rows lie below; none where that is above 1.
std::string at_share(const Distribution& distribution, double share) {
  const double value = distribution.quantile(share);
  return value > 1 ? "none" : fmt::format("{:.2g}&nbsp;%", 100 * value);
}

void add_fault(const std::string& op, const std::string& fault, const Imagined& imagined, Rows& rows) {
  if (imagined.rows == 0) return;
  rows.push_back({code(op), fault, count(imagined.rows), percent(imagined.shown, imagined.rows),
                  at_share(imagined.smallest, 0.5), at_share(imagined.smallest, 0.95)});
}

std::string seen_of(const KernelResults& kernel) {
  Rows rows;
  ImaginedCounts all;
  for (const OperatorResults& results : kernel.operators) {
    const ImaginedCounts imagined = results.imagined();
    all += imagined;
    add_fault(name(results.op), "a block or key is left out: its weight", imagined.left_out, rows);
    add_fault(name(results.op), "a block or key too many: its weight", imagined.too_many, rows);
    for (const OutputSummary& output : results.outputs)
      if (const std::int64_t count_of = output.smallest_errors.count(); count_of > 0)
        rows.push_back({code(name(results.op)), fmt::format("a row of {} is off: relative error", code(output.output)),
                        count(count_of), "&ndash;", at_share(output.smallest_errors, 0.5),
                        at_share(output.smallest_errors, 0.95)});
  }
  if (rows.empty()) return "";
  const std::string excluded = kernel.findings() == 0 ? excluded_line(kernel.name, all) : "";
  return table({"<operator", "<fault", "rows", "one by chance shows in", "half of the rows show it from", "95 % from"},
               rows) +
         (excluded.empty() ? "" : fmt::format("<p>{}</p>\n", escaped(excluded.substr(0, excluded.size() - 1))));
}

std::string seen(const Report& report) {
  return section("detection", "What a pass would have seen",
                 "How large a fault of one row must be to show whichever way rounding went. Two faults are imagined in "
                 "every row of o that passes, each of a block or key that is picked by chance. The last columns have "
                 "the weight, or relative error, from which on half and 95 % of the rows show it. All rows together "
                 "show smaller faults of equal direction.",
                 of_every_kernel(report, seen_of, "No rows were compared with a prediction."));
}

std::string errors_of(const KernelResults& kernel) {
  std::string html;
  for (const OperatorResults& results : kernel.operators) {
    std::string charts;
    for (const OutputSummary& output : results.outputs) {
      const std::int64_t rows = output.r.count();
      if (rows == 0) continue;
      const std::int64_t below = output.r.count_up_to(kSmallestDrawnR);
      charts += fmt::format(
          "<figure>{}<figcaption><b>{}</b>: {}, root mean square {}, worst {}{}</figcaption></figure>\n",
          below < rows ? error_chart(output.r) : "", escaped(output.output), counted(rows, "row"),
          short_number(std::sqrt(output.sum_r_squared / static_cast<double>(rows))), short_number(output.worst_r),
          below > 0 ? fmt::format("; {} below 1/32 are not drawn", percent(below, rows)) : "");
    }
    if (!charts.empty())
      html += fmt::format("<p>{}</p>\n<div class=\"charts\">{}</div>\n", code(name(results.op)), charts);
  }
  return html;
}

std::string errors(const Report& report) {
  return section("errors", "Errors against the prediction",
                 "The distribution of R, on a scale of powers of 2. The dashed line is the prediction: the mean square "
                 "of R is 1 where a kernel rounds exactly what it declares. Far to the left, it is more exact than "
                 "declared.",
                 of_every_kernel(report, errors_of, "No rows were compared with a prediction."));
}

std::string selections_of(const KernelResults& kernel) {
  std::string charts;
  for (const OperatorResults& results : kernel.operators)
    for (const OutputSummary& output : results.outputs)
      if (const std::int64_t rows = output.clearances.count(); rows > 0)
        charts += fmt::format(
            "<figure>{}<figcaption><b>{}</b>: {} with a choice, {} of them within the margin</figcaption></figure>\n",
            clearance_chart(output.clearances), escaped(name(results.op)), counted(rows, "row"),
            percent(output.clearances.count_up_to(1), rows));
  return charts.empty() ? "" : "<div class=\"charts\">" + charts + "</div>\n";
}

std::string selections(const Report& report) {
  return section("selection", "Selection margins",
                 "How clearly scores decide which blocks a row selects: the gap between the weakest selected block and "
                 "the strongest other one, divided by the rounding margin of both. Below 1, on the left of the dashed "
                 "line, correct kernels may select differently, and both are accepted.",
                 of_every_kernel(report, selections_of, "No selection with a choice was judged."));
}

std::string laws_of(const KernelResults& kernel) {
  Rows rows;
  for (const LawResults& results : kernel.laws) {
    const LawInfo& law = info(results.law);
    const std::int64_t judged = results.passed + results.failed;
    const std::string outcome =
        results.failed > 0
            ? fmt::format("<span class=\"badge fail\">broken in {} of {}</span>", count(results.failed), count(judged))
        : results.passed > 0 ? fmt::format("<span class=\"badge pass\">held in {}</span>", count(judged))
        : results.not_promised > 0
            ? fmt::format("<span class=\"badge inconclusive\">needs {}</span>", name(law.promise))
            : "<span class=\"badge inconclusive\">nothing to compare</span>";
    rows.push_back({code(name(results.law)), escaped(law.sentence),
                    law.promise == EqualBits::none ? "none" : name(law.promise), outcome});
  }
  return rows.empty() ? "" : table({"<law", "<what it says", "<needs the promise", "<cases"}, rows);
}

std::string laws(const Report& report) {
  return section("laws", "Laws",
                 "A law says that some rows of two calls are equal, to the bit or within rounding. A kernel is held to "
                 "a law if it promises enough.",
                 of_every_kernel(report, laws_of, "No case was judged by a law."));
}

std::string defects_of(const KernelResults& kernel) {
  if (kernel.defects.empty()) return "";
  Rows caught, missed;
  for (const CaughtDefect& defect : kernel.defects)
    if (defect.caught_by.empty())
      missed.push_back({code(defect.name), escaped(defect.what), code(name(defect.op)), count(defect.cases)});
    else
      caught.push_back({code(defect.name), escaped(defect.what), count(defect.cases), code(defect.caught_by)});
  std::string html = fmt::format("<p><b>{} of {}</b> planted defects are caught by cases of this run.</p>\n",
                                 caught.size(), kernel.defects.size());
  if (!missed.empty()) html += table({"<not caught", "<mistake", "<operator", "cases tried"}, missed);
  if (!caught.empty())
    html += details(fmt::format("The {} that are caught", caught.size()),
                    table({"<defect", "<mistake", "after cases", "<caught by"}, caught));
  return html;
}

std::string defects(const Report& report) {
  return section("defects", "Planted defects",
                 "The project's own wrong kernels, in this kernel's arithmetic, judged on cases that this kernel "
                 "passed. What is caught here would have been caught in this kernel.",
                 of_every_kernel(report, defects_of, "No planted defect was judged."));
}

std::string declared_of(const KernelResults& kernel) {
  std::vector<std::string> arithmetic;
  for (const OperatorResults& results : kernel.operators)
    for (const std::string& text : results.arithmetic)
      if (std::find(arithmetic.begin(), arithmetic.end(), text) == arithmetic.end()) arithmetic.push_back(text);
  std::vector<std::string> options;
  for (const std::string& option : kernel.options) options.push_back(code(option));
  std::string in_force;
  for (const std::string& text : arithmetic) in_force += (in_force.empty() ? "" : "<br>") + escaped(text);
  const std::string promise = kernel.promise == kernel.promise_backward
                                  ? kernel.promise
                                  : fmt::format("{}; backward {}", kernel.promise, kernel.promise_backward);
  std::vector<std::string> kept;
  if (!kernel.exports_selection) kept.push_back("its selection");
  if (!kernel.exports_lse) kept.push_back("its lse");
  const std::string inside =
      fmt::format("{}<br><small>{:.3g} % of the cases of level 1 lie inside; the others were moved inside</small>",
                  escaped(kernel.limits), 100 * kernel.share_inside);
  return table({"<declared", "<"},
               {{"what it is", dash_unless(!kernel.summary.empty(), escaped(kernel.summary))},
                {"limits", kernel.limits.empty() ? "none" : inside},
                {"arithmetic options", dash_unless(!options.empty(), fmt::format("{}", fmt::join(options, ", ")))},
                {"judged in", dash_unless(!in_force.empty(), in_force)},
                {"promise of equal bits", promise},
                {"keeps to itself", kept.empty() ? "nothing" : fmt::format("{}", fmt::join(kept, ", "))}});
}

std::string declared(const Report& report) {
  return section("declared", "What the kernel declares",
                 "Limits exclude cases, arithmetic options allow rounding, and promises decide which laws it is held "
                 "to. Everything above is judged inside them.",
                 of_every_kernel(report, declared_of, "Nothing."));
}

std::string timings_of(const KernelResults& kernel) {
  Rows rows;
  for (const OperatorResults& results : kernel.operators)
    rows.push_back({code(name(results.op)), count(results.cases), duration(results.seconds),
                    duration(results.seconds / static_cast<double>(results.cases))});
  Rows slowest;
  for (const TimedCase& timed : kernel.slowest) slowest.push_back({duration(timed.seconds), code(timed.c)});
  return table({"<operator", "cases", "all together", "each"}, rows) +
         details("The slowest cases", table({"time", "<case"}, slowest));
}

std::string timings(const Report& report) {
  return section("timings", "Timings",
                 "How long judging took: calls of the kernel, and the reference beside it. Cases run at the same time, "
                 "so that the sums exceed the clock. bench times kernels.",
                 of_every_kernel(report, timings_of, "Nothing was judged."));
}

constexpr std::pair<const char*, const char*> kSections[] = {
    {"summary", "Summary"},         {"findings", "Findings"}, {"detection", "What a pass would have seen"},
    {"errors", "Errors"},           {"selection", "Margins"}, {"laws", "Laws"},
    {"defects", "Planted defects"}, {"declared", "Declared"}, {"timings", "Timings"}};

std::string navigation() {
  std::string html = "<nav>";
  for (const auto& [id, title] : kSections) html += fmt::format("<a href=\"#{}\">{}</a> ", id, title);
  return html + "</nav>\n";
}

}  // namespace

std::string report_page(const Report& report) {
  const std::string title = fmt::format("attnspec {}: {}", report.command, subject(report));
  return fmt::format(R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{}</title>
<style>
{}</style>
</head>
<body>
<header>
<p class="eyebrow">attnspec {}</p>
{}<p class="meta">{}, {}, attnspec {}{}</p>
{}</header>
{}<main>
{}</main>
</body>
</html>
)",
                     title, kPageStyle, escaped(report.command), headline(report), escaped(report.ended),
                     duration(report.seconds), escaped(report.version),
                     report.is_complete ? "" : "; not all cases were judged", tiles(report), navigation(),
                     summary(report) + findings_section(report) + seen(report) + errors(report) + selections(report) +
                         laws(report) + defects(report) + declared(report) + timings(report));
}

}  // namespace attnspec::fuzz
