#include "verify/diagnosis/diagnosis.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "verify/cases/session.hpp"
#include "verify/cases/space/work.hpp"
#include "verify/judge/judge.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

constexpr std::size_t kMaxCases = 5, kMaxPatterns = 4;
constexpr double kMaxWork = 3e9;  // of a case that is judged again

bool has_rows(const CaseResult& result) {
  return result.verdict == Verdict::value_out_of_bound || result.verdict == Verdict::non_finite ||
         result.verdict == Verdict::selection_mismatch || result.verdict == Verdict::stray_read;
}

/// The rule of a selection that a finding says was not kept; else what gives the blocks their scores.
std::string stage_of_selection(const CaseResult& result, Operator op) {
  const auto found = std::find_if(result.findings.begin(), result.findings.end(),
                                  [](const Finding& finding) { return finding.output == "selection"; });
  if (found == result.findings.end()) return "";
  if (found->detail.find("left out for") == std::string::npos)
    return fmt::format("selection, whatever the scores are ({})", found->detail);
  return has_importance(op) ? "importance of the blocks, or their selection" : "pooling, gate or selection";
}

/// Whether rows of one block are right, all of them, and others are not.
bool is_of_merge(const std::vector<RowFacts>& rows) {
  std::int64_t of_one_block = 0;
  for (const RowFacts& row : rows) {
    if (row.seen_ranges == 1 && row.is_wrong) return false;
    of_one_block += row.seen_ranges == 1 && row.seen_keys > 1;
  }
  return of_one_block >= 4;
}

/// Of an attention whose o is called `o` and whose lse is called `lse`.
std::string stage_of_attention(const WrongRows& wrong, const std::string& o, const std::string& lse, bool has_blocks) {
  const bool is_o = wrong.rows.contains(o), is_lse = wrong.rows.contains(lse);
  if (is_lse && !is_o) return fmt::format("lse as it is stored ({} is right)", o);
  if (!is_o) return "";
  const std::string those = is_lse ? fmt::format("{} and {} are wrong", o, lse) : fmt::format("{} is right", lse);
  if (has_blocks && is_of_merge(wrong.rows.at(o)) && (!is_lse || is_of_merge(wrong.rows.at(lse))))
    return fmt::format("merge of the blocks, or which blocks are visited ({}; rows that see one block are right)",
                       those);
  return fmt::format("{} ({})", is_lse ? "scores, mask or softmax" : "product with the values, or the output", those);
}

/// The earliest wrong stage, from the outputs that are wrong.
std::string stage_of(const WrongRows& wrong, const CaseResult& result) {
  const Operator op = result.c.op;
  const auto is_wrong = [&](std::string_view kind) {
    return std::any_of(wrong.kinds.begin(), wrong.kinds.end(), [&](const auto& one) { return one.second == kind; });
  };
  if (is_wrong("rows")) return "compression";
  if (wrong.kinds.contains("selection"))
    if (std::string stage = stage_of_selection(result, op); !stage.empty()) return stage;
  if (has_branches(op)) {
    for (const char* branch : {"compressed", "selected", "window"})
      if (std::string stage = stage_of_attention(wrong, fmt::format("{}.o", branch), fmt::format("{}.lse", branch),
                                                 std::string_view(branch) == "selected");
          !stage.empty())
        return fmt::format("branch {}: {}", branch, stage);
    if (wrong.kinds.contains("o")) return "gates: the sum of the branches (the branches are right)";
  } else if (std::string stage = stage_of_attention(wrong, "o", "lse", has_blocks(op)); !stage.empty()) {
    return stage;
  }
  if (is_wrong("d_gates") && !is_wrong("dq") && !is_wrong("dk") && !is_wrong("dv")) return "gradient of the gates";
  if (is_wrong("d_tokens") || is_wrong("d_phi"))
    if (!is_wrong("dq") && !is_wrong("dk") && !is_wrong("dv")) return "gradient of the compression";
  std::string gradients;
  for (const auto& [output, kind] : wrong.kinds) gradients += (gradients.empty() ? "" : ", ") + output;
  return gradients.empty() ? "" : fmt::format("backward ({}; the forward is right)", gradients);
}

/// Of findings that rows do not show.
std::string stage_of_calls(const CaseResult& result) {
  if (result.verdict == Verdict::law_broken)
    return fmt::format("law {}: two calls differ in rows that must be equal", name(result.c.law));
  if (result.verdict == Verdict::nondeterministic)
    return "order of summation, or a race: two runs of the same call differ";
  return "";
}

/// The failing call of a session, where the kernel passes it alone.
std::string stage_of_session(const Kernel& kernel, const CaseResult& result) {
  if (result.c.session.empty() || result.failing_call < 2) return "";
  const SessionCall call = session_calls(result.c).at(static_cast<std::size_t>(result.failing_call - 1));
  if (kernel.forget) kernel.forget();
  return is_finding(judge(kernel, call.c).verdict)
             ? ""
             : fmt::format("state between calls (call {} passes alone)", result.failing_call);
}

/// The smallest findings of the operator of the first one.
std::vector<const CaseResult*> smallest(const std::vector<CaseResult>& results) {
  std::vector<const CaseResult*> failing;
  for (const CaseResult& result : results)
    if (is_finding(result.verdict) && (failing.empty() || result.c.op == failing.front()->c.op) &&
        work(result.c) <= kMaxWork)
      failing.push_back(&result);
  std::stable_sort(failing.begin(), failing.end(), [](const CaseResult* a, const CaseResult* b) {
    return has_rows(*a) != has_rows(*b) ? has_rows(*a) : work(a->c) < work(b->c);
  });
  if (failing.size() > kMaxCases) failing.resize(kMaxCases);
  return failing;
}

}  // namespace

Diagnosis diagnose(const Kernel& kernel, const std::vector<CaseResult>& results, std::chrono::seconds max_time) {
  Diagnosis diagnosis;
  const auto start = std::chrono::steady_clock::now();
  const std::vector<const CaseResult*> failing = smallest(results);
  if (failing.empty()) return diagnosis;
  std::vector<Case> cases;
  for (const CaseResult* result : failing)
    if (has_rows(*result) && result->c.law == Law::none) cases.push_back(result->c);
  const WrongRows wrong = wrong_rows(kernel, cases, start + max_time / 2);
  diagnosis.stage = stage_of_session(kernel, *failing.front());
  if (diagnosis.stage.empty()) diagnosis.stage = stage_of(wrong, *failing.front());
  if (diagnosis.stage.empty()) diagnosis.stage = stage_of_calls(*failing.front());
  for (const TensorInfo& output : page_of(failing.front()->c.op).tensors)
    if (const auto found = wrong.rows.find(output.name);
        found != wrong.rows.end() && diagnosis.patterns.size() < kMaxPatterns)
      diagnosis.patterns.push_back(find_pattern(output.name, found->second));
  const auto left =
      max_time - std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start);
  diagnosis.behaviour = behaviour(kernel, results, std::max(left, std::chrono::seconds(0)));
  return diagnosis;
}

std::vector<std::string> Diagnosis::lines() const {
  std::vector<std::string> lines;
  if (!stage.empty()) lines.push_back("stage: " + stage);
  for (const Pattern& pattern : patterns) lines.push_back("where: " + pattern.line());
  if (std::string line = behaviour.line(); !line.empty()) lines.push_back(std::move(line));
  return lines;
}

}  // namespace attnspec::verify
