#include "verify/judge.hpp"

#include "verify/judge/cases.hpp"

namespace attnspec::verify {

CaseResult judge(const Kernel& kernel, const Case& c, const RowObserver& observe) {
  CaseResult result;
  result.c = c;
  result.kernel = kernel.name;
  if (const auto why = implements(kernel, c.op) ? kernel.unsupported(c) : "does not implement the operator") {
    result.verdict = Verdict::not_supported;
    result.reason = *why;
    return result;
  }
  result.profile = describe(make_profile(c.dtype, kernel.departures));
  if (c.op == Operator::nsa_compress) {
    judge_compression(kernel, c, observe, result);
  } else if (c.op == Operator::nsa) {
    judge_nsa(kernel, c, observe, result);
  } else {
    judge_attention(kernel, c, observe, result);
  }
  return result;
}

}  // namespace attnspec::verify
