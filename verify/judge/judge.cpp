#include "verify/judge/judge.hpp"

#include <chrono>

#include "verify/judge/cases.hpp"
#include "verify/laws/laws.hpp"

namespace attnspec::verify {

namespace {

/// The kernel as it is judged on a case: without a backward where it has none of it.
Kernel for_case(const Kernel& kernel, const Case& c) {
  Kernel result = kernel;
  if (!has_backward(kernel, c.op) || !allows_backward(kernel.limits, c)) result.forward_only = result.operators;
  return result;
}

}  // namespace

void judge_call(const Kernel& given, const Case& c, const Inputs& inputs, const RowObserver& observe,
                CaseResult& result) {
  const Kernel kernel = for_case(given, c);
  if (!has_queries(c.op)) return judge_compression(kernel, c, inputs, observe, result);
  if (has_branches(c.op)) return judge_nsa(kernel, c, inputs, observe, result);
  judge_attention(kernel, c, inputs, observe, result);
}

namespace {

void judge(const Kernel& kernel, const Case& c, const RowObserver& observe, CaseResult& result) {
  if (const auto why = implements(kernel, c.op) ? kernel.unsupported(c) : "does not implement the operator") {
    result.verdict = Verdict::not_supported;
    result.reason = *why;
    return;
  }
  result.arithmetic = describe(c.dtype, kernel.arithmetic);
  if (!c.session.empty()) {
    judge_session(kernel, c, observe, result);
    return;
  }
  try {
    if (c.law != Law::none)
      judge_law(for_case(kernel, c), c, result);
    else
      judge_call(kernel, c, make_inputs(c), observe, result);
  } catch (const CallFailed& failure) {
    result.add({.verdict = failure.verdict, .output = "call", .detail = failure.what()});
  }
}

}  // namespace

CaseResult judge(const Kernel& kernel, const Case& c, const RowObserver& observe) {
  const auto start = std::chrono::steady_clock::now();
  CaseResult result;
  result.c = c;
  result.kernel = kernel.name;
  judge(kernel, c, observe, result);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace attnspec::verify
