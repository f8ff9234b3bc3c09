#include "reference/noise.hpp"

#include <algorithm>
#include <cmath>

namespace attnspec::reference {

std::string describe(const Profile& profile) {
  return std::string(name(profile.input)) + " in; P~, P, dS " + name(profile.weights) + "; normaliser sums " +
         (profile.normaliser == Normaliser::sums_rounded ? "rounded" : "unrounded") + " weights; mean keys " +
         name(profile.pooled) + "; out " + name(profile.output);
}

double rounding_variance(double x, Format format) {
  const double s = subnormal_spacing(format), normal = kRounding * unit_roundoff(format) * x;
  return std::max(normal * normal, std::min(x * x, s * s / 12));
}

double rounding_worst(double x, Format format) {
  return std::max(unit_roundoff(format) * std::abs(x), std::min(std::abs(x), subnormal_spacing(format) / 2));
}

bool may_flush(double x, Format format) { return std::abs(x) < std::max(subnormal_spacing(format) / 2, kFlushed); }

double accumulator_roundoff(const Profile& profile) {
  return (profile.weights == Format::fp32 ? 1 : 2) * unit_roundoff(Format::fp32);
}

double accumulation_variance(double roundoff, double n, double squares, double sum) {
  const double step = kRounding * roundoff;
  return step * step * (n / 2 * squares + n / 3 * sum * sum);
}

double repetition_variance(double roundoff, const Vector& terms) {
  Vector sorted = terms;
  std::sort(sorted.begin(), sorted.end());
  double variance = 0;
  for (Eigen::Index first = 0, next; first < sorted.size(); first = next) {
    next = first + 1;
    while (next < sorted.size() && sorted[next] - sorted[first] <= roundoff) ++next;
    const double drift = static_cast<double>(next - first) * std::min(kRounding * roundoff / 2, sorted[first]);
    if (next - first > 1) variance += drift * drift;
  }
  return variance;
}

void add_output_rounding(const Vector& expected, Format output, RowNoise& noise) {
  for (Eigen::Index d = 0; d < expected.size(); ++d) {
    const double magnitude = std::abs(expected[d]);
    const double likely = std::min(magnitude + std::sqrt(noise.variance[d]), largest_finite(output));
    const double s = spacing(likely, output);
    noise.variance[d] += std::min(likely * likely, s * s / 12);
    noise.worst[d] += rounding_worst(magnitude + noise.worst[d], output);
  }
}

ScoreNoise score_noise(const Profile& profile, const Row& q, const Rows& k, std::span<const KeyRange> visible,
                       double scale, const Vector& scores, double offset) {
  const double u32 = unit_roundoff(Format::fp32), u = accumulator_roundoff(profile);
  const double dk = static_cast<double>(q.size());
  ScoreNoise noise{Vector(scores.size()), Vector(scores.size())};
  Eigen::ArrayXd terms(q.size());
  Eigen::Index n = 0;
  for (const auto& [begin, end] : visible) {
    for (std::int64_t j = begin; j < end; ++j, ++n) {
      terms = q.array() * k.row(j).transpose().array();
      const double rest = 2 * u32 * (std::abs(scores[n]) + std::abs(offset));  // scaling, and score - offset
      noise.variance[n] = scale * scale * accumulation_variance(u, dk, terms.square().sum(), terms.sum()) +
                          rest * rest + kExpError * kExpError;
      noise.worst[n] = std::abs(scale) * dk * u * terms.abs().sum() + rest + kExpError;
    }
  }
  return noise;
}

double effective_terms(const Matrix& covariance) {
  const double trace = covariance.trace();
  if (!(trace > 0)) return 1;
  Matrix power = covariance / trace;
  for (int squaring = 0; squaring < 5; ++squaring) power = (power * power).eval();
  return std::pow(power.trace(), -1.0 / 32);
}

double row_limit(double effective_terms) { return 1 + kKappa / std::sqrt(effective_terms); }

}  // namespace attnspec::reference
