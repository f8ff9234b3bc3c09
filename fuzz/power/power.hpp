// What the judge sees and what the usual rules see: the smallest faults, and right kernels that are accused.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "fuzz/power/faults.hpp"
#include "fuzz/power/rules.hpp"
#include "verify/judge/judge.hpp"

namespace attnspec::fuzz {

/// A kernel on a case, judged, and compared by the usual rules in the same run.
struct Seen {
  std::string name;  // of the subject
  verify::CaseResult result;
  /// By usual_rules(): the outputs that it takes for wrong.
  std::vector<std::vector<std::string>> by_rule;

  bool by_judge() const { return is_finding(result.verdict); }
  /// The line of the direction test, "softmax scale off; 55.8 deviations"; empty where it found nothing.
  std::string direction() const;
};

/// Every output is compared with what the judge expects of it: gradients with those of the o and lse that the backward
/// was given.
Seen look(const Subject& subject);

/// What was seen of faults() and of right_kernels().
struct Power {
  std::vector<Seen> faults, right;
};

/// Two tables of Markdown: faults and who sees them; right kernels and who accuses them.
std::string power_tables(const Power& power);

/// The same as one picture: a line for each fault, a column for the judge and for each rule.
std::string power_picture(const Power& power);

}  // namespace attnspec::fuzz
