#include "verify/judge/result_json.hpp"

#include <nlohmann/json.hpp>

namespace attnspec::verify {

using nlohmann::ordered_json;

ordered_json json_of(const CaseResult& result, Command command) {
  ordered_json json{{"kernel", result.kernel}, {"case", print(result.c)}, {"verdict", name(result.verdict)}};
  if (!result.reason.empty()) json["reason"] = result.reason;
  json["rows_judged"] = result.rows();
  json["findings"] = ordered_json::array();
  for (const Finding& finding : result.findings)
    json["findings"].push_back(
        {{"verdict", name(finding.verdict)}, {"where", where(finding)}, {"failure", failure(result, finding)}});
  json["directions"] = ordered_json::array();
  for (const Directions& directions : result.directions)
    if (add_up(directions)) json["directions"].push_back(direction_line(directions));
  json["repeat"] = command(result.kernel, result.c);
  return json;
}

std::string json_text(const ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace attnspec::verify
