#include "verify/laws/power.hpp"

#include <algorithm>
#include <cmath>

#include "reference/noise/noise.hpp"
#include "verify/operators/operator.hpp"

namespace attnspec::verify {

namespace {

using reference::Tensor;

/// Powers of two that values and the given gradient are multiplied by.
constexpr int kValues = 3, kGradient = 2;
/// Numbers below this share of a tensor's largest are taken for 0.
constexpr double kMin = 0x1p-6;
/// Scores of a row may differ by so much: weights are at least 2^-18.
constexpr double kMaxSpread = 12;

double largest(const Tensor& tensor) {
  double most = 0;
  for (const double x : tensor.values) most = std::max(most, std::abs(x));
  return most;
}

void multiply(const Case& c, Tensor& tensor, double factor) {
  for (double& x : tensor.values) x = reference::round_to(x * factor, c.dtype);
}

void drop_small(Tensor& tensor) {
  const double least = kMin * largest(tensor);
  for (double& x : tensor.values)
    if (std::abs(x) < least) x = 0;
}

/// Brings the largest number into 1 .. 2.
void normalise(const Case& c, Tensor& tensor) {
  if (const double most = largest(tensor); most > 0)
    multiply(c, tensor, reference::power_of_two(-static_cast<int>(std::floor(std::log2(most)))));
}

/// The largest difference between two scores of a query with keys of its sequence.
double score_spread(const Case& c, const Tensor& q, const Tensor& k, RowsOf keys) {
  const auto q_offsets = row_offsets(c, RowsOf::queries, 0), k_offsets = row_offsets(c, keys, 0);
  const std::int64_t group = c.heads / c.kv_heads;
  double spread = 0;
  for (std::size_t s = 0; s + 1 < q_offsets.size(); ++s) {
    if (k_offsets[s] == k_offsets[s + 1]) continue;
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const reference::Rows of_head = k.rows(k_offsets[s], k_offsets[s + 1], h / group);
      for (std::int64_t token = q_offsets[s]; token < q_offsets[s + 1]; ++token) {
        const reference::Vector scores = c.scale * (of_head * q.row(token, h));
        spread = std::max(spread, scores.maxCoeff() - scores.minCoeff());
      }
    }
  }
  return spread;
}

/// That of the tokens; the mean of several of them spreads no more.
double token_spread(const Case& c, const Inputs& inputs) {
  const RowsOf keys = key_rows(c.op);
  double spread = score_spread(c, inputs.q, inputs.k, keys);
  for (const Tensor* k : {&inputs.k_selected, &inputs.k_window})
    if (has_branches(c.op)) spread = std::max(spread, score_spread(c, inputs.q, *k, keys));
  return spread;
}

/// Whether everything on the way to an output that scales is stored in formats whose exponents reach far enough: fp16
/// does not hold P~ and dS alone, which would do no harm.
bool scales_in_half(const Case& c, const std::string& output, bool has_half_partials) {
  const Degrees& d = tensor_of(c.op, output).degrees;
  if (d.v == 0 && d.gradient == 0) return true;
  if (d.gradient > 0 || has_half_partials) return false;
  return !tensor_of(c.op, output).follows_from_stored;
}

}  // namespace

void prepare_power(const Case& c, Inputs& inputs) {
  for (const auto& [member, rows] : input_tensors(c)) {
    Tensor& tensor = inputs.*member;
    if (member != &Inputs::gates) normalise(c, tensor);
    drop_small(tensor);
  }
  for (const auto phi : {&Inputs::phi_k, &Inputs::phi_v})
    for (const auto& [name, part] : kPhiParts<Tensor>) drop_small(inputs.*phi.*part);
  if (!attends(c.op)) return;
  for (double spread = token_spread(c, inputs); spread > kMaxSpread; spread = token_spread(c, inputs))
    multiply(c, inputs.q, reference::power_of_two(-static_cast<int>(std::ceil(std::log2(spread / kMaxSpread)))));
}

std::vector<FollowUp> power_follow_ups(const SourceCall& source) {
  const Case& c = source.c;
  if (attends(c.op) && c.scale != 0 && std::abs(c.scale) < kMinPowerScale) return {};
  if (has_branches(c.op) &&
      score_spread(c, source.inputs.q, source.outputs.at("k_compressed").values, RowsOf::compressed_rows) > kMaxSpread)
    return {};
  const bool is_half = c.dtype == Format::fp16;
  const int values = has_linear_rows(c) ? kValues : 0, gradient = is_half ? 0 : kGradient;
  if (values == 0 && gradient == 0) return {};
  FollowUp follow_up{c, source.inputs, [](const RowPlace& row) { return row; }, {}};
  for (Tensor Inputs::*tensor : {&Inputs::v, &Inputs::v_selected, &Inputs::v_window})
    multiply(c, follow_up.inputs.*tensor, reference::power_of_two(values));
  if (!has_queries(c.op)) multiply(c, follow_up.inputs.k, reference::power_of_two(values));
  multiply(c, follow_up.inputs.d_o, reference::power_of_two(gradient));
  follow_up.factor = [&c, values, gradient](const std::string& output) {
    const Degrees& d = tensor_of(c.op, output).degrees;
    return reference::power_of_two(d.v * values + d.gradient * gradient);
  };
  const bool has_half_partials = make_arithmetic(c.dtype, source.kernel.arithmetic).partial == Format::fp16;
  follow_up.speaks_of = [&c, is_half, has_half_partials](const std::string& output, const RowPlace&) {
    return !is_half || scales_in_half(c, output, has_half_partials);
  };
  return {follow_up};
}

}  // namespace attnspec::verify
