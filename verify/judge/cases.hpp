// Judging a case, one class for each kind of operator.
#pragma once

#include "verify/kernel.hpp"
#include "verify/result.hpp"

namespace attnspec::verify {

/// An operator that selects or attends: everything but the two below.
void judge_attention(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result);

/// nsa_compress.
void judge_compression(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result);

/// nsa, stage by stage on what the stage before has stored.
void judge_nsa(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result);

}  // namespace attnspec::verify
