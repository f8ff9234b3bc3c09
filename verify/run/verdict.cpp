#include "verify/run/verdict.hpp"

namespace attnspec::verify {

const char* name(Verdict verdict) {
  switch (verdict) {
    case Verdict::pass: return "pass";
    case Verdict::not_supported: return "not-supported";
    case Verdict::undecided: return "undecided";
    case Verdict::value_out_of_bound: return "value-out-of-bound";
    case Verdict::non_finite: return "non-finite";
    case Verdict::selection_mismatch: return "selection-mismatch";
    case Verdict::nondeterministic: return "nondeterministic";
    case Verdict::stray_read: return "stray-read";
    case Verdict::law_broken: return "law-broken";
    case Verdict::invalid_timing: return "invalid-timing";
    case Verdict::stray_write: return "stray-write";
    case Verdict::call_failed: return "call-failed";
    case Verdict::hang: return "hang";
    case Verdict::crash: return "crash";
  }
  return "";
}

}  // namespace attnspec::verify
