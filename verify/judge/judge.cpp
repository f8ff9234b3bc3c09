#include "verify/judge.hpp"

#include <algorithm>

#include "verify/judge/cases.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::verify {

namespace {

/// The kernel as it is judged on one operator: without a backward where it has none of it.
Kernel for_operator(const Kernel& kernel, Operator op) {
  Kernel result = kernel;
  if (std::find(kernel.forward_only.begin(), kernel.forward_only.end(), op) == kernel.forward_only.end()) return result;
  result.backward = {};
  result.compress_backward = {};
  result.nsa_backward = {};
  return result;
}

void judge_operator(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result) {
  if (c.law != Law::none) {
    judge_law(kernel, c, result);
  } else if (c.op == Operator::nsa_compress) {
    judge_compression(kernel, c, observe, result);
  } else if (c.op == Operator::nsa) {
    judge_nsa(kernel, c, observe, result);
  } else {
    judge_attention(kernel, c, observe, result);
  }
}

}  // namespace

CaseResult judge(const Kernel& kernel, const Case& c, const RowObserver& observe) {
  CaseResult result;
  result.c = c;
  result.kernel = kernel.name;
  if (const auto why = implements(kernel, c.op) ? kernel.unsupported(c) : "does not implement the operator") {
    result.verdict = Verdict::not_supported;
    result.reason = *why;
    return result;
  }
  result.arithmetic = describe(c.dtype, kernel.arithmetic);
  if (!c.session.empty()) {
    judge_session(kernel, c, observe, result);
    return result;
  }
  try {
    judge_operator(for_operator(kernel, c.op), c, observe, result);
  } catch (const CallFailed& failure) {
    result.add({.verdict = failure.verdict, .output = "call", .detail = failure.what()});
  }
  return result;
}

}  // namespace attnspec::verify
