// Judging a case: one function for each kind of operator, and one for sessions.
#pragma once

#include "verify/cases/regimes.hpp"
#include "verify/judge/result.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// One call on these inputs, whatever its operator, by the specification.
void judge_call(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe,
                CaseResult& result);

/// An operator that selects or attends: everything but the two below.
void judge_attention(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe,
                     CaseResult& result);

/// nsa_compress.
void judge_compression(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe,
                       CaseResult& result);

/// nsa, stage by stage on what the stage before has stored.
void judge_nsa(const Kernel& kernel, const Case& c, const Inputs& inputs, const RowObserver& observe,
               CaseResult& result);

/// The calls of a session one after the other, each judged, until one fails.
void judge_session(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result);

}  // namespace attnspec::verify
