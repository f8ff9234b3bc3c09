// Laws: relations between calls of a kernel, or within one. A case with a law is judged by that law alone.
//
// Most laws hold to the bit, so that no tolerance and no reference is needed: the kernel runs on the case and on its
// follow_ups, in which something was changed or moved that the law says some rows do not depend on; these rows must
// have equal bits. Other laws hold within the rounding that the judge predicts of both numbers compared. They need no
// promise of the kernel.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "verify/cases/law.hpp"
#include "verify/judge/result.hpp"
#include "verify/laws/follow_up.hpp"
#include "verify/laws/rounding.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

struct LawInfo {
  Law law;
  const char* sentence;  // that can be false of a kernel
  EqualBits promise;     // a kernel without it may break the law and yet be right
  void (*prepare)(const Case& c,
                  Inputs& inputs);  // what the source call is given instead of the case's inputs, or null
  std::vector<FollowUp> (*follow_ups)(const SourceCall& source);          // to the bit; null of laws within rounding
  std::vector<NearFollowUp> (*near)(const JudgedCall& source) = nullptr;  // within rounding
  void (*check)(const JudgedCall& call, RoundedComparison& comparison) = nullptr;  // of one call, likewise
};

/// Of the law, which is not Law::none.
const LawInfo& info(Law law);

/// Runs the kernel on the case and its follow-up calls. result: a finding of Verdict::law_broken for each row that
/// differs, or Verdict::not_supported with the reason why the law says nothing.
void judge_law(const Kernel& kernel, const Case& c, CaseResult& result);

/// The reason of Verdict::not_supported where a kernel does not promise enough to be held to the law.
std::string promise_missing(Law law);

/// Lines that name the laws which the kernel, or its backward, is not held to because it does not promise enough; empty
/// where there are none.
std::string laws_not_held(const Kernel& kernel);

}  // namespace attnspec::verify
