// What the judge says of a case.
#pragma once

namespace attnspec::verify {

/// The closed list of verdicts, by severity.
enum class Verdict {
  pass,
  not_supported,       // the kernel's declared limits exclude the case
  undecided,           // rows remain whose selection could not be established
  value_out_of_bound,  // an element or a row is further off than the declared arithmetic allows
  non_finite,          // NaN, or an infinity where a finite number belongs, or the reverse
  selection_mismatch,  // a selection that no correct kernel makes
  nondeterministic,    // two runs on the same memory gave different bits
  stray_read,          // the outputs depend on memory outside the tensors
  law_broken,          // outputs that must have equal bits differ
  invalid_timing,      // a time that was measured is not that of the work
  stray_write,         // memory outside the outputs was written
  call_failed,         // the kernel reported an error in a case that its limits allow
  hang,                // a call did not return in time
  crash,               // the kernel's process ended during a call
};
inline constexpr Verdict kVerdicts[] = {Verdict::pass,
                                        Verdict::not_supported,
                                        Verdict::undecided,
                                        Verdict::value_out_of_bound,
                                        Verdict::non_finite,
                                        Verdict::selection_mismatch,
                                        Verdict::nondeterministic,
                                        Verdict::stray_read,
                                        Verdict::law_broken,
                                        Verdict::invalid_timing,
                                        Verdict::stray_write,
                                        Verdict::call_failed,
                                        Verdict::hang,
                                        Verdict::crash};

/// kebab-case, stable.
const char* name(Verdict verdict);
/// Whether the verdict says that the kernel is wrong.
inline bool is_finding(Verdict verdict) { return verdict >= Verdict::value_out_of_bound; }

}  // namespace attnspec::verify
