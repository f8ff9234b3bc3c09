// Plain numbers are judged as rightly as those of the input patterns.

#include "verify/cases/inputs/plain_numbers.hpp"

#include <gtest/gtest.h>

#include "verify/cases/levels.hpp"
#include "verify/cases/random.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"

namespace {

using namespace attnspec::verify;

/// A case with plain numbers in some of its tensors.
Case some_plain(Case c, std::uint64_t index) {
  const Random random(index, "numbers");
  std::uint64_t at = 0;
  for (const std::string& tensor : filled_tensors_with_numbers(c))
    if (const auto kind = random.below(kPlainNumbers + 1, at++); kind < kPlainNumbers)
      c = with_numbers(c, tensor, static_cast<PlainNumbers>(kind));
  return c;
}

TEST(PlainNumbers, AccuseNoCorrectKernel) {
  for (const Operator op : kOperators) {
    const Kernel moba = find_kernel("model:moba"), nsa = find_kernel("model:nsa");
    const Kernel& kernel = implements(moba, op) ? moba : nsa;
    std::int64_t judged = 0;
    std::uint64_t index = 0;
    for (const Case& c : level_cases(op, 1)) {
      if (c.law != Law::none || c.dtype == Format::fp16 || c.lens.size() > 8 || ++index % 3 != 0) continue;
      const CaseResult result = judge(kernel, some_plain(c, index));
      for (const Finding& finding : result.findings) ADD_FAILURE() << failure_line(result, finding);
      ++judged;
    }
    EXPECT_GT(judged, 25) << name(op);
  }
}

}  // namespace
