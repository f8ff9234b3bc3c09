#include "fuzz/report/report_json.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "verify/judge/result_json.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::fuzz {

namespace {

using namespace verify;
using nlohmann::ordered_json;

template <class Items, class ToJson>
ordered_json array_of(const Items& items, const ToJson& to_json) {
  ordered_json array = ordered_json::array();
  for (const auto& item : items) array.push_back(to_json(item));
  return array;
}

/// JSON has no NaN and no infinity: they are strings, as "nan" and "-inf".
ordered_json number(double x) {
  if (std::isfinite(x)) return x;
  return std::isnan(x) ? "nan" : x > 0 ? "inf" : "-inf";
}

ordered_json numbers(const std::vector<double>& row) { return array_of(row, number); }

/// Pairs: where a bin begins, and how many it holds.
ordered_json json_of(const Distribution& distribution) {
  return array_of(distribution.bins(), [](const auto& bin) {
    return ordered_json{bin.first == Distribution::kFirstBin ? 0 : Distribution::begin_of(bin.first), bin.second};
  });
}

ordered_json json_of(const Imagined& fault) {
  return {{"rows", fault.rows}, {"shown", fault.shown}, {"smallest_weights", json_of(fault.smallest)}};
}

ordered_json json_of(const OutputSummary& output) {
  ordered_json json{{"output", output.output},
                    {"rows", output.rows},
                    {"wrong", output.findings},
                    {"undecided", output.undecided},
                    {"worst_r", number(output.worst_r)}};
  if (const std::int64_t rows = output.r.count(); rows > 0) {
    json["rms_r"] = number(std::sqrt(output.sum_r_squared / static_cast<double>(rows)));
    json["r"] = json_of(output.r);
    json["smallest_relative_errors"] = json_of(output.smallest_errors);
  }
  if (output.clearances.count() > 0) json["clearances"] = json_of(output.clearances);
  if (output.imagined.left_out.rows + output.imagined.too_many.rows > 0)
    json["imagined"] = {{"left_out", json_of(output.imagined.left_out)},
                        {"too_many", json_of(output.imagined.too_many)}};
  return json;
}

ordered_json verdict_counts(const std::map<Verdict, std::int64_t>& verdicts) {
  ordered_json json = ordered_json::object();
  for (const auto& [verdict, cases] : verdicts) json[name(verdict)] = cases;
  return json;
}

ordered_json json_of(const OperatorResults& results) {
  return {{"operator", name(results.op)},
          {"cases", results.cases},
          {"verdicts", verdict_counts(results.verdicts)},
          {"rows", results.rows()},
          {"undecided_rows", results.undecided()},
          {"seconds", results.seconds},
          {"arithmetic", results.arithmetic},
          {"outputs", array_of(results.outputs, [](const OutputSummary& output) { return json_of(output); })}};
}

ordered_json json_of(const LawResults& results) {
  return {{"law", name(results.law)},
          {"sentence", info(results.law).sentence},
          {"promise", name(info(results.law).promise)},
          {"passed", results.passed},
          {"failed", results.failed},
          {"not_promised", results.not_promised},
          {"other", results.other}};
}

ordered_json json_of(const CaughtDefect& defect) {
  ordered_json json{
      {"defect", defect.name}, {"what", defect.what}, {"operator", name(defect.op)}, {"cases", defect.cases}};
  if (!defect.caught_by.empty()) json["caught_by"] = defect.caught_by;
  return json;
}

ordered_json json_of(const KernelResults& kernel) {
  return {{"kernel", kernel.name},
          {"summary", kernel.summary},
          {"declared",
           {{"limits", kernel.limits},
            {"share_inside", kernel.share_inside},
            {"arithmetic_options", kernel.options},
            {"promise", kernel.promise},
            {"promise_backward", kernel.promise_backward},
            {"exports_selection", kernel.exports_selection},
            {"exports_lse", kernel.exports_lse}}},
          {"notes", kernel.notes},
          {"diagnosis", kernel.diagnosis},
          {"operators", array_of(kernel.operators, [](const OperatorResults& results) { return json_of(results); })},
          {"laws", array_of(kernel.laws, [](const LawResults& results) { return json_of(results); })},
          {"planted_defects", array_of(kernel.defects, [](const CaughtDefect& defect) { return json_of(defect); })},
          {"slowest", array_of(kernel.slowest, [](const TimedCase& timed) {
             return ordered_json{{"case", timed.c}, {"seconds", timed.seconds}};
           })}};
}

ordered_json json_of(const ErrorMap& map) {
  return {{"output", map.output},
          {"heads", map.heads},
          {"lengths", map.lengths},
          {"holds_all_rows", map.holds_all_rows},
          {"wrong", array_of(wrong_rows(map), [](const WrongRun& rows) {
             return ordered_json{{"sequence", rows.sequence},
                                 {"head", rows.head},
                                 {"first_token", rows.first_token},
                                 {"last_token", rows.last_token}};
           })}};
}

ordered_json json_of(const WrongRow& row) {
  return {{"output", row.output},   {"sequence", row.place.sequence},    {"token", row.place.token},
          {"head", row.place.head}, {"expected", numbers(row.expected)}, {"observed", numbers(row.observed)}};
}

ordered_json json_of(const InputTensor& tensor) {
  return {{"tensor", tensor.name},
          {"rows", array_of(tensor.rows, [](const InputRow& row) {
             return ordered_json{{"token", row.token}, {"head", row.head}, {"values", numbers(row.values)}};
           })}};
}

/// A finding in words, and its numbers where it has a place and where it has numbers.
ordered_json json_of(const CaseResult& result, const Finding& finding) {
  ordered_json json{{"verdict", name(finding.verdict)},
                    {"where", where(finding)},
                    {"failure", failure(result, finding)},
                    {"output", finding.output}};
  if (finding.sequence >= 0) json["sequence"] = finding.sequence;
  if (finding.token >= 0) json["token"] = finding.token, json["head"] = finding.head;
  if (finding.d >= 0) json["d"] = finding.d;
  if (finding.detail.empty()) {
    json["observed"] = number(finding.observed);
    json["expected"] = number(finding.expected);
    json["bound"] = number(finding.bound);
  }
  if (finding.limit > 0) json["r"] = number(finding.r), json["limit"] = number(finding.limit);
  return json;
}

ordered_json json_of(const FailingCase& failing) {
  ordered_json json = verify::json_of(failing.result);
  json["findings"] =
      array_of(failing.result.findings, [&](const Finding& finding) { return json_of(failing.result, finding); });
  json["seconds"] = failing.result.seconds;
  json["repeat"] = failing.replay;
  if (failing.drawn) json["drawn"] = print(*failing.drawn);
  json["maps"] = array_of(failing.rows.maps, [](const ErrorMap& map) { return json_of(map); });
  json["wrong_rows"] = array_of(failing.rows.wrong, [](const WrongRow& row) { return json_of(row); });
  if (failing.numbers)
    json["inputs"] = array_of(*failing.numbers, [](const InputTensor& tensor) { return json_of(tensor); });
  if (failing.xray) json["xray_svg"] = *failing.xray;
  return json;
}

}  // namespace

std::string report_json(const Report& report) {
  const ordered_json json{
      {"schema", "attnspec.report"},
      {"version", kReportVersion},
      {"attnspec", report.version},
      {"command", report.command},
      {"ended", report.ended},
      {"seconds", report.seconds},
      {"is_complete", report.is_complete},
      {"outcome", report.outcome()},
      {"cases", report.cases()},
      {"findings", report.findings()},
      {"kernels", array_of(report.kernels, [](const KernelResults& kernel) { return json_of(kernel); })},
      {"failing", array_of(report.failing, [](const FailingCase& failing) { return json_of(failing); })},
      {"undecided", array_of(report.undecided, [](const CaseResult& result) { return verify::json_of(result); })}};
  return json_text(json, 1);
}

}  // namespace attnspec::fuzz
