#include "fuzz/power/power.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <mutex>

namespace attnspec::fuzz {

using namespace verify;

std::string Seen::direction() const {
  const std::string prefix = "errors of all rows judged add up as if: ";
  for (const Finding& finding : result.findings)
    if (finding.detail.starts_with(prefix))
      return finding.detail.substr(prefix.size(), finding.detail.find(", limit") - prefix.size());
  return "";
}

Seen look(const Subject& subject) {
  struct Tensors {
    std::vector<double> expected, observed;
  };
  std::map<std::string, Tensors> outputs;
  std::mutex mutex;
  Seen seen{subject.name, {}, {}};
  seen.result = judge(subject.kernel, subject.c, [&](const ObservedRow& row) {
    const std::lock_guard lock(mutex);
    Tensors& tensors = outputs[row.output];
    tensors.expected.insert(tensors.expected.end(), row.expected.begin(), row.expected.end());
    tensors.observed.insert(tensors.observed.end(), row.observed.begin(), row.observed.end());
  });
  for (const Rule& rule : usual_rules()) {
    std::vector<std::string>& wrong = seen.by_rule.emplace_back();
    for (const auto& [output, tensors] : outputs)
      if (!rule.accepts(tensors.expected, tensors.observed)) wrong.push_back(output);
  }
  return seen;
}

namespace {

/// The outputs of attention, as the tables have them.
constexpr const char* kOutputs[] = {"o", "lse", "dq", "dk", "dv"};

/// "57 of 64": rows that are wrong.
std::string wrong_rows(const CaseResult& result, const std::string& output) {
  for (const OutputSummary& summary : result.outputs)
    if (summary.output == output) return fmt::format("{} of {}", summary.findings, summary.rows);
  return "-";
}

std::string row_of(const std::vector<std::string>& cells) { return fmt::format("| {} |\n", fmt::join(cells, " | ")); }

std::string header_of(const std::vector<std::string>& cells) {
  return row_of(cells) + row_of(std::vector<std::string>(cells.size(), "---"));
}

std::string outputs_or_none(const std::vector<std::string>& outputs) {
  return outputs.empty() ? "-" : fmt::format("{}", fmt::join(outputs, ", "));
}

}  // namespace

std::string power_tables(const Power& power) {
  std::vector<std::string> head;
  head.push_back("fault");
  for (const char* output : kOutputs) head.push_back(output);
  head.push_back("direction of o");
  for (const Rule& rule : usual_rules()) head.push_back(rule.name);
  std::string text = header_of(head);
  for (const Seen& seen : power.faults) {
    std::vector<std::string> cells{seen.name};
    for (const char* output : kOutputs) cells.push_back(wrong_rows(seen.result, output));
    cells.push_back(seen.direction().empty() ? "-" : seen.direction());
    for (const auto& outputs : seen.by_rule) cells.push_back(outputs_or_none(outputs));
    text += row_of(cells);
  }
  text += '\n';
  text += header_of({"right kernels that it accuses", "how many", "the first"});
  const auto add = [&](const std::string& name, const auto& accuses) {
    std::int64_t accused = 0;
    std::string first = "-";
    for (const Seen& seen : power.right) {
      if (!accuses(seen)) continue;
      if (accused++ == 0) first = fmt::format("`{}`", print(seen.result.c));
    }
    text += row_of({name, fmt::format("{} of {}", accused, power.right.size()), first});
  };
  add("attnspec", [](const Seen& seen) { return seen.by_judge(); });
  for (std::size_t i = 0; i < usual_rules().size(); ++i)
    add(usual_rules()[i].name, [&](const Seen& seen) { return !seen.by_rule[i].empty(); });
  return text;
}

namespace {

constexpr int kLine = 20, kFirstColumn = 250, kColumn = 124, kHead = 30;

/// One line of text that begins or has its middle at x.
std::string text_at(int x, std::size_t line, const char* anchor, const std::string& text, const char* colour = "#222") {
  return fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"{}\" fill=\"{}\">{}</text>\n", x,
                     kHead + kLine * static_cast<int>(line) + 14, anchor, colour, text);
}

/// A cell with a text, green where that is good.
std::string cell(std::size_t column, std::size_t line, bool is_good, const std::string& text) {
  const int x = kFirstColumn + kColumn * static_cast<int>(column), y = kHead + kLine * static_cast<int>(line);
  return fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n", x + 1, y + 1, kColumn - 2,
                     kLine - 2, is_good ? "#2e7d32" : "#c62828") +
         text_at(x + kColumn / 2, line, "middle", text, "#fff");
}

}  // namespace

std::string power_picture(const Power& power) {
  const std::size_t rules = usual_rules().size(), lines = power.faults.size() + 1;
  const int width = kFirstColumn + kColumn * static_cast<int>(rules + 1),
            height = kHead + kLine * static_cast<int>(lines);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
      width, height);
  const auto head = [&](std::size_t column, const char* name) {
    svg += fmt::format("<text x=\"{}\" y=\"20\" text-anchor=\"middle\" font-weight=\"bold\" fill=\"#222\">{}</text>\n",
                       kFirstColumn + kColumn * static_cast<int>(column) + kColumn / 2, name);
  };
  head(0, "attnspec");
  for (std::size_t rule = 0; rule < rules; ++rule) head(rule + 1, usual_rules()[rule].name);
  for (std::size_t line = 0; line < power.faults.size(); ++line) {
    const Seen& seen = power.faults[line];
    const auto sees = [&](std::size_t column, bool it_does) {
      svg += cell(column, line, it_does, it_does ? "sees it" : "does not");
    };
    svg += text_at(6, line, "start", seen.name);
    sees(0, seen.by_judge());
    for (std::size_t rule = 0; rule < rules; ++rule) sees(rule + 1, !seen.by_rule[rule].empty());
  }
  const auto accuses = [&](std::size_t column, const auto& is_accused) {
    const auto accused = std::count_if(power.right.begin(), power.right.end(), is_accused);
    svg += cell(column, lines - 1, accused == 0, fmt::format("{} of {}", accused, power.right.size()));
  };
  svg += text_at(6, lines - 1, "start", "right kernels that are accused");
  accuses(0, [](const Seen& seen) { return seen.by_judge(); });
  for (std::size_t rule = 0; rule < rules; ++rule)
    accuses(rule + 1, [&](const Seen& seen) { return !seen.by_rule[rule].empty(); });
  return svg + "</svg>\n";
}

}  // namespace attnspec::fuzz
