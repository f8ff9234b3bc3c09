// The calls of a law, and the comparison of their rows.
#pragma once

#include "verify/judge/result.hpp"
#include "verify/laws/follow_up.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// Runs the forward, and with_backward the backward on what it left. result: what the kernel did to memory, and a
/// selection that is malformed, which no backward is given.
Outputs call_once(const Kernel& kernel, const Case& c, const Inputs& inputs, bool with_backward, CaseResult& result);

/// Adds the rows compared to the result, and a finding for each that differs. law: begins their text.
void compare(const SourceCall& source, const FollowUp& follow_up, const Outputs& outputs, const char* law,
             CaseResult& result);

}  // namespace attnspec::verify
