// Results as JSON, for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "verify/judge/report.hpp"

namespace attnspec::verify {

/// What was judged of a case: kernel, case, verdict; reason, where there is one; rows_judged; findings, each with
/// verdict, where and failure (the failure line without its command); directions, a line for each output whose errors
/// add up; repeat, the command that repeats the case.
nlohmann::ordered_json json_of(const CaseResult& result, Command command = replay_command);

/// As text, with lines indented by `indent` or, below 0, as one line. Bytes that are no UTF-8 are replaced.
std::string json_text(const nlohmann::ordered_json& json, int indent = -1);

}  // namespace attnspec::verify
