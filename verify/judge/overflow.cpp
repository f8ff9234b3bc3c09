#include "verify/judge/overflow.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "reference/format.hpp"
#include "reference/problem.hpp"

namespace attnspec::verify {

double longest_row(const reference::Tensor& x) {
  double longest = 0;
#pragma omp parallel for reduction(max : longest)
  for (std::int64_t token = 0; token < x.tokens; ++token)
    for (std::int64_t head = 0; head < x.heads; ++head)
      if (const double length = x.row(token, head).norm(); std::isfinite(length)) longest = std::max(longest, length);
  return longest;
}

void refuse_overflowing_scores(double scale, const reference::Tensor& q, const reference::Tensor& k) {
  // |<q, k>| <= |q| |k|, partial sums too; a kernel multiplies q, k or their product by scale and by log2 e.
  const double largest = std::numbers::log2e * std::max(1.0, std::abs(scale)) * std::max(1.0, longest_row(q)) *
                         std::max(1.0, longest_row(k));
  if (largest < reference::largest_finite(reference::Format::fp32)) return;
  throw reference::InvalidProblem(
      "scale", fmt::format("{:g}", scale),
      fmt::format(
          "scores may reach {:.3g} on these inputs, and fp32 holds no more than {:.3g}: no kernel can be judged",
          largest, reference::largest_finite(reference::Format::fp32)));
}

}  // namespace attnspec::verify
