#include "verify/judge/report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <pugixml.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "verify/cases/paths.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::verify {

namespace {

using Line = std::pair<std::string, std::string>;  // kernel, operator

/// Results by kernel and operator, in the order they came.
std::vector<std::pair<Line, std::vector<const CaseResult*>>> grouped(const std::vector<CaseResult>& results) {
  std::vector<std::pair<Line, std::vector<const CaseResult*>>> groups;
  for (const CaseResult& result : results) {
    const Line line{result.kernel, name(result.c.op)};
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == line; });
    if (group == groups.end()) group = groups.insert(groups.end(), {line, {}});
    group->second.push_back(&result);
  }
  return groups;
}

/// The promise that a kernel lacks to be judged on the case; empty where it lacks none.
std::string needed_promise(const CaseResult& result) {
  const Law law = result.c.law;
  const bool lacks =
      result.verdict == Verdict::not_supported && law != Law::none && result.reason == promise_missing(law);
  return lacks ? name(info(law).promise) : "";
}

/// "12 pass, 15 law cases need row-independent"
std::string counts(const std::vector<const CaseResult*>& results) {
  std::map<Verdict, std::int64_t> verdicts;
  std::map<std::string, std::int64_t> needed;
  for (const CaseResult* result : results) {
    const std::string promise = needed_promise(*result);
    promise.empty() ? ++verdicts[result->verdict] : ++needed[promise];
  }
  std::vector<std::string> parts;
  for (const auto& [verdict, cases] : verdicts) parts.push_back(fmt::format("{} {}", cases, name(verdict)));
  for (const auto& [promise, cases] : needed)
    parts.push_back(fmt::format("{} law case{} {}", cases, cases == 1 ? " needs" : "s need", promise));
  return fmt::format("{}", fmt::join(parts, ", "));
}

double worst_r(const CaseResult& result) {
  double worst = 0;
  for (const OutputSummary& output : result.outputs) worst = std::max(worst, output.worst_r);
  return worst;
}

/// Where a JUnit file is written before it takes its name.
std::string partial_path(const std::string& path) { return path + ".part"; }

std::runtime_error cannot_write(const char* option, const std::string& path) {
  return std::runtime_error(fmt::format("{} {}: cannot be written", option, path));
}

/// "4096 of 2097152 rows of o" for every output of which a sample was judged, or for that one.
std::vector<std::string> samples(const CaseResult& result, const std::string& of = "") {
  std::vector<std::string> texts;
  for (const OutputSummary& output : result.outputs)
    if (const std::int64_t judged = output.rows + output.undecided;
        result.c.sample > 0 && judged < output.all && (of.empty() || of == output.output))
      texts.push_back(fmt::format("{} of {} rows of {}", judged, output.all, output.output));
  return texts;
}

ImaginedCounts imagined(const std::vector<const CaseResult*>& results) {
  ImaginedCounts sum;
  for (const CaseResult* result : results) sum += result->imagined();
  return sum;
}

/// "fewer than 0.0031 % of rows (3 / 96312)", by the rule of three; what is not known where no row would show it.
std::string share_excluded(const Imagined& fault) {
  if (fault.shown == 0) return "an unknown number of rows (it would show in none)";
  return fmt::format("fewer than {:.2g} % of rows (3 / {})", 300 / static_cast<double>(fault.shown), fault.shown);
}

std::string number(double x) { return fmt::format("{:a} ({:.6g})", x, x); }

}  // namespace

std::string one_line(const std::exception& error) {
  std::string line;
  for (const char* c = error.what(); *c != '\0'; ++c) {
    const auto code = static_cast<unsigned char>(*c);
    line += code < 0x20 || code == 0x7f ? fmt::format("\\x{:02x}", code) : std::string(1, *c);
  }
  return line;
}

std::string error_line(const std::exception& error) { return "attnspec: " + one_line(error) + "\n"; }

std::string short_number(double x) { return std::abs(x) < 9.995 ? fmt::format("{:.2f}", x) : fmt::format("{:.3g}", x); }

std::string replay_command(const std::string& kernel, const Case& c) {
  return fmt::format("{} replay '{}' --kernel {}", paths::command(), print(c), kernel);
}

std::string bench_command(const std::string& kernel, const Case& c) {
  return fmt::format("{} bench {} --case '{}'", paths::command(), kernel, print(c));
}

std::string where(const Finding& f) {
  std::string place = f.output;
  if (f.token >= 0) {
    place += f.sequence >= 0 ? fmt::format("[seq={},token={},head={}", f.sequence, f.token, f.head)
                             : fmt::format("[row={},set={}", f.token, f.head);
    place += f.d >= 0 && !f.output.ends_with("lse") ? fmt::format(",d={}]", f.d) : "]";
  }
  if (!f.call.empty()) place += fmt::format(" ({})", f.call);
  return place;
}

std::string failure(const CaseResult& result, const Finding& f) {
  std::string line = fmt::format("FAIL {} {} {} => ", name(f.verdict), result.kernel, where(f));
  if (!f.detail.empty()) {
    line += f.detail;
  } else {
    const double error = std::abs(f.observed - f.expected);
    line += fmt::format("{} expected {} bound {:.3g} ratio {:.3g}", number(f.observed), number(f.expected), f.bound,
                        error / f.bound);
    if (f.limit > 0) line += fmt::format("; its row R {:.3g} limit {:.3g}", f.r, f.limit);
  }
  if (f.token >= 0)
    for (const std::string& sample : samples(result, f.output)) line += "; judged " + sample;
  return line;
}

std::string failure_line(const CaseResult& result, const Finding& f, Command command) {
  return failure(result, f) + " | " + command(result.kernel, result.c);
}

std::string direction_line(const Directions& directions) {
  std::vector<std::string> faults;
  for (const Direction& d : directions.directions) faults.push_back(fmt::format("{} {:.1f}", d.fault, d.z()));
  return fmt::format("{}, in deviations: {}", directions.output, fmt::join(faults, ", "));
}

bool add_up(const Directions& directions) {
  return std::any_of(directions.directions.begin(), directions.directions.end(),
                     [](const Direction& d) { return std::abs(d.z()) >= 0.05; });  // else the line says 0.0
}

std::string details(const CaseResult& result) {
  std::string text = fmt::format("{}\n{}  {}\n", print(result.c), result.kernel, result.arithmetic);
  if (!result.outputs.empty())
    text += fmt::format("  {:<18} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "output", "rows", "worst R", "rms R", "undecided",
                        "wrong");
  for (const OutputSummary& output : result.outputs) {
    const double rms = output.rows > 0 ? std::sqrt(output.sum_r_squared / static_cast<double>(output.rows)) : 0;
    const bool has_r = output.output != "selection" && result.c.law == Law::none;
    text += fmt::format("  {:<18} {:>9} {:>9} {:>9} {:>9} {:>9}\n", output.output, output.rows,
                        has_r ? short_number(output.worst_r) : "-", has_r ? short_number(rms) : "-", output.undecided,
                        output.findings);
  }
  if (const Law law = result.c.law; law != Law::none && info(law).follow_ups == nullptr && !result.outputs.empty())
    text += "  compared within the predicted rounding\n";
  if (const auto judged = samples(result); !judged.empty())
    text += fmt::format("  a sample: judged {}\n", fmt::join(judged, ", "));
  for (const Directions& directions : result.directions) text += "  " + direction_line(directions) + "\n";
  if (const auto [left_out, too_many] = result.imagined(); left_out.rows > 0)
    text += fmt::format("  a block or key left out would show in {} of {} rows, one too many in {} of {}\n",
                        left_out.shown, left_out.rows, too_many.shown, too_many.rows);
  if (result.launches > 0)
    text += fmt::format("  {} launches: at 95 % fewer than {:.2g} of them give other bits\n", result.launches,
                        3 / static_cast<double>(result.launches));
  return text +
         fmt::format("verdict: {}{}\n", name(result.verdict), result.reason.empty() ? "" : " (" + result.reason + ")");
}

std::string aligned(const std::vector<std::vector<std::string>>& rows, const std::set<std::size_t>& text_columns) {
  std::vector<std::size_t> widths(rows[0].size());
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i)
      line += (i > 0 ? "  " : "") + (text_columns.contains(i) ? fmt::format("{:<{}}", row[i], widths[i])
                                                              : fmt::format("{:>{}}", row[i], widths[i]));
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string undecided_line(const CaseResult& result) {
  std::vector<std::string> why;
  if (!result.reason.empty()) why.push_back(result.reason);
  for (const OutputSummary& output : result.outputs)
    if (output.undecided > 0)
      why.push_back(
          fmt::format("{} of {} rows of {}", output.undecided, output.rows + output.undecided, output.output));
  return fmt::format("UNDECIDED {}: {} | {}", result.kernel, fmt::join(why, "; "),
                     replay_command(result.kernel, result.c));
}

namespace {

/// Why cases are undecided, the first few.
std::string undecided_lines(const std::vector<CaseResult>& results) {
  std::string lines;
  std::size_t undecided = 0;
  for (const CaseResult& result : results)
    if (result.verdict == Verdict::undecided && undecided++ < kMaxUndecidedLines)
      lines += undecided_line(result) + "\n";
  return lines;
}

/// A line for each operator of which no row would show a fault, and for each kernel that passes what that excludes.
std::string excluded_lines(const std::vector<CaseResult>& results) {
  std::map<std::string, ImaginedCounts> sums;
  std::set<std::string> failed;
  std::string lines;
  for (const auto& [line, group] : grouped(results)) {
    sums[line.first] += imagined(group);
    for (const CaseResult* result : group)
      if (is_finding(result->verdict)) failed.insert(line.first);
    if (imagined(group).show_nothing())
      lines += fmt::format("INCONCLUSIVE {} {}: a block or key left out, or one too many, would show in no row\n",
                           line.first, line.second);
  }
  for (const auto& [kernel, sum] : sums)
    if (!failed.contains(kernel)) lines += excluded_line(kernel, sum);
  return lines;
}

}  // namespace

std::string table(const std::vector<CaseResult>& results) {
  std::vector<std::vector<std::string>> rows{
      {"kernel", "operator", "cases", "rows judged", "worst R", "undecided rows", "verdicts"}};
  for (const auto& [line, group] : grouped(results)) {
    std::int64_t judged = 0, undecided = 0;
    double worst = 0;
    for (const CaseResult* result : group) {
      judged += result->rows();
      undecided += result->undecided();
      worst = std::max(worst, worst_r(*result));
    }
    rows.push_back({line.first, line.second, std::to_string(group.size()), std::to_string(judged),
                    has_gradients(parse_operator(line.second)) ? short_number(worst) : "-", std::to_string(undecided),
                    counts(group)});
  }
  return aligned(rows, {0, 1, rows[0].size() - 1}) + totals(results) + "\n" + undecided_lines(results) +
         excluded_lines(results);
}

std::string totals(const std::vector<CaseResult>& results) {
  std::vector<const CaseResult*> all;
  for (const CaseResult& result : results) all.push_back(&result);
  return fmt::format("{} cases: {}", all.size(), counts(all));
}

std::string excluded_line(const std::string& kernel, const ImaginedCounts& imagined) {
  if (imagined.left_out.rows + imagined.too_many.rows == 0) return "";
  return fmt::format("at 95 % {} leaves out a block or key in {}, and has one too many in {}\n", kernel,
                     share_excluded(imagined.left_out), share_excluded(imagined.too_many));
}

std::string lse_not_judged(const Kernel& kernel) {
  if (kernel.exports_lse || std::none_of(kernel.operators.begin(), kernel.operators.end(), attends)) return "";
  return fmt::format("{}: lse was not judged: the kernel keeps it to itself\n", kernel.name);
}

int exit_code(const std::vector<CaseResult>& results) {
  int code = 0;
  for (const auto& [line, group] : grouped(results)) {
    if (std::any_of(group.begin(), group.end(), [](const CaseResult* r) { return is_finding(r->verdict); })) return 1;
    const bool any_undecided =
        std::any_of(group.begin(), group.end(), [](const CaseResult* r) { return r->verdict == Verdict::undecided; });
    const bool none_judged = std::all_of(group.begin(), group.end(),
                                         [](const CaseResult* r) { return r->verdict == Verdict::not_supported; });
    if (any_undecided || none_judged || imagined(group).show_nothing()) code = 3;
  }
  return code;
}

void require_writable(const char* option, const std::string& path) {
  const std::string partial = partial_path(path);
  const bool is_writable = std::ofstream(partial).good();
  std::error_code error;
  std::filesystem::remove(partial, error);
  if (!is_writable) throw cannot_write(option, path);
}

void write_file(const char* option, const std::string& path, const std::string& text) {
  const std::string partial = partial_path(path);
  std::error_code error;
  if ((std::ofstream(partial) << text << std::flush).good()) {
    std::filesystem::rename(partial, path, error);
    if (!error) return;
  }
  std::filesystem::remove(partial, error);
  throw cannot_write(option, path);
}

void write_junit(const std::string& path, const std::vector<CaseResult>& results) {
  pugi::xml_document document;
  pugi::xml_node suites = document.append_child("testsuites");
  for (const auto& [line, group] : grouped(results)) {
    pugi::xml_node suite = suites.append_child("testsuite");
    suite.append_attribute("name") = fmt::format("{} {}", line.first, line.second).c_str();
    suite.append_attribute("tests") = static_cast<unsigned long long>(group.size());
    unsigned failures = 0, skipped = 0;
    for (const CaseResult* result : group) {
      pugi::xml_node test = suite.append_child("testcase");
      test.append_attribute("classname") = line.first.c_str();
      test.append_attribute("name") = print(result->c).c_str();
      if (result->verdict == Verdict::pass) continue;
      const bool failed = is_finding(result->verdict);
      (failed ? failures : skipped) += 1;
      pugi::xml_node outcome = test.append_child(failed ? "failure" : "skipped");
      outcome.append_attribute("message") = result->reason.empty() ? name(result->verdict) : result->reason.c_str();
      std::string text;
      for (const Finding& finding : result->findings) text += failure_line(*result, finding) + "\n";
      if (!text.empty()) outcome.text() = text.c_str();
    }
    suite.append_attribute("failures") = failures;
    suite.append_attribute("skipped") = skipped;
  }
  std::ostringstream text;
  document.save(text);
  write_file("--junit", path, text.str());
}

}  // namespace attnspec::verify
