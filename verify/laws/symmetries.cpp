#include "verify/laws/symmetries.hpp"

#include <algorithm>
#include <cmath>

#include "reference/noise/noise.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

using reference::Tensor;

/// Power of two that k is multiplied by.
constexpr int kKeys = 3;
/// Softmax scales below it, but for 0, would make gradients too small.
constexpr double kMinScaleOfKeys = 0x1p-7;

/// The call with all q and k multiplied by powers of two or their negatives.
FollowUp scaled(const SourceCall& source, double q, double k) {
  FollowUp follow_up{source.c, source.inputs, stay, {}};
  const auto multiply = [](Tensor& tensor, double factor) {
    for (double& x : tensor.values) x *= factor;
  };
  multiply(follow_up.inputs.q, q);
  for (Tensor Inputs::*keys : {&Inputs::k, &Inputs::k_selected, &Inputs::k_window}) multiply(follow_up.inputs.*keys, k);
  follow_up.factor = [&c = source.c, q, k](const std::string& output) {
    const Degrees& d = tensor_of(c.op, output).degrees;
    return (d.q > 0 ? q : 1) * (d.k > 0 ? k : 1);
  };
  return follow_up;
}

/// Whether the format holds all q and k as they are: fp16 may lose digits of what is multiplied by a small power.
bool are_exact(const Case& c, const Inputs& inputs) {
  const auto is_exact = [&](double x) { return reference::round_to(x, c.dtype) == x; };
  return std::ranges::all_of(inputs.q.values, is_exact) && std::ranges::all_of(inputs.k.values, is_exact);
}

/// Whether fp16, which has normal numbers from 2^-14 only, stores anything that changes with q or with k before it is
/// a score. X4.
bool stores_operands_in_half(const SourceCall& source) {
  const reference::Arithmetic arithmetic = make_arithmetic(source.c.dtype, source.kernel.arithmetic);
  return source.c.dtype == Format::fp16 && (compresses(source.c.op) || arithmetic.pooled == Format::fp16 ||
                                            arithmetic.scaled_operand != reference::ScaledOperand::none);
}

}  // namespace

std::vector<FollowUp> negation_follow_ups(const SourceCall& source) {
  if (!has_linear_rows(source.c)) return {};
  FollowUp follow_up = scaled(source, -1, -1);
  follow_up.speaks_of = [](const std::string&, const RowPlace&) { return true; };
  return {follow_up};
}

std::vector<FollowUp> reciprocal_follow_ups(const SourceCall& source) {
  const Case& c = source.c;
  if (!has_linear_rows(c) || (c.scale != 0 && std::abs(c.scale) < kMinScaleOfKeys) || stores_operands_in_half(source))
    return {};
  FollowUp follow_up = scaled(source, reference::power_of_two(-kKeys), reference::power_of_two(kKeys));
  if (!are_exact(c, follow_up.inputs)) return {};
  follow_up.speaks_of = [&c](const std::string& output, const RowPlace&) {
    const Degrees& d = tensor_of(c.op, output).degrees;
    return c.dtype != Format::fp16 || (d.q == 0 && d.k == 0);
  };
  return {follow_up};
}

}  // namespace attnspec::verify
