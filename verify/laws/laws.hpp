// Laws: relations between calls of a kernel that hold to the bit, so that no tolerance and no reference is needed. A
// case with a law is judged by that law alone: the kernel runs on the case and on its follow_ups, in which something
// was changed or moved that the law says some rows do not depend on; these rows must have equal bits.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "verify/kernel.hpp"
#include "verify/laws/follow_up.hpp"
#include "verify/result.hpp"

namespace attnspec::verify {

struct LawInfo {
  Law law;
  const char* sentence;  // that can be false of a kernel
  unsigned operators;    // bits 1 << Operator of those that have it
  EqualBits promise;     // a kernel without it may break the law and yet be right
  std::vector<FollowUp> (*follow_ups)(const SourceCall& source);
  void (*prepare)(const Case& c,
                  Inputs& inputs);  // what the source call is given instead of the case's inputs, or null
};

/// Of the law, which is not Law::none.
const LawInfo& info(Law law);

/// law: not Law::none.
bool has_law(Operator op, Law law);

/// Throws reference::InvalidProblem for a case with a law that its operator does not have, or that needs causality.
void validate_law(const Case& c);

/// Runs the kernel on the case and its follow_ups. result: a finding of Verdict::law_broken for each row that differs,
/// or Verdict::not_supported with the reason why the law says nothing.
void judge_law(const Kernel& kernel, const Case& c, CaseResult& result);

/// The reason of Verdict::not_supported where a kernel does not promise enough to be held to the law.
std::string promise_missing(Law law);

/// Lines that name the laws which the kernel, or its backward, is not held to because it does not promise enough; empty
/// where there are none.
std::string laws_not_held(const Kernel& kernel);

}  // namespace attnspec::verify
