// The judge: runs a kernel on a case and decides whether it did what the specification says.
#pragma once

#include "verify/judge/result.hpp"
#include "verify/run/kernel.hpp"

namespace attnspec::verify {

/// Runs the kernel's forward, and its backward where it has one, each twice: with NaN and with numbers in all memory
/// that is not its own, and other bytes in its outputs; the bits must be equal. Expected values are computed after the
/// outputs are back. A call that throws CallFailed is a finding. Of a session every call is judged, until one fails.
/// observe, if given, is called for every row, from any thread. Throws what make_inputs throws.
CaseResult judge(const Kernel& kernel, const Case& c, const RowObserver& observe = {});

}  // namespace attnspec::verify
