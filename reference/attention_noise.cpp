#include "reference/attention_noise.hpp"

#include <algorithm>
#include <cmath>

namespace attnspec::reference {

namespace {

double square(double x) { return x * x; }

/// The independent errors of o: calls visit(variance, direction) for each, direction [dv]. drift: A6 of the weights.
template <class Visit>
void for_each_error(const Profile& profile, const RowInputs& in, const AttendedRow& row, const ScoreNoise& scores,
                    double drift, const Visit& visit) {
  const double n = static_cast<double>(row.scores.size()), largest = row.scores.maxCoeff();
  const double sum = std::exp(row.lse - largest), u = accumulator_roundoff(profile);
  const double accumulated = accumulation_variance(u, n, 1, 0);
  const double rescaling = square(2 * unit_roundoff(Format::fp32) * (std::abs(largest) + std::abs(row.lse)));
  Vector centred(row.o.size()), block_sum(row.o.size());
  Eigen::Index i = 0;
  for (const auto& [begin, end] : in.visible) {
    block_sum.setZero();
    for (std::int64_t j = begin; j < end; ++j, ++i) {
      const double p = row.weights[i];
      const double rounding = rounding_variance(p * sum, profile.weights) / square(sum) +  // F1
                              accumulated * square(p);                                     // F5
      const double score = scores.variance[i] * square(p);                                 // F3
      const auto v = in.v.row(j).transpose();
      centred = v - row.o;
      block_sum += p * centred;
      if (profile.normaliser == Normaliser::sums_rounded) {
        visit(rounding + score, centred);
      } else {
        visit(rounding, v);
        visit(score, centred);
      }
    }
    visit(rescaling, block_sum);  // F4
  }
  const double equal_weights =
      profile.normaliser == Normaliser::sums_unrounded ? square(kRounding * unit_roundoff(profile.weights)) : 0;  // F2
  visit(equal_weights + square(kRounding * u) * (n / 3 + 4) + drift, row.o);                                      // F5
}

ScoreNoise scores_of(const Profile& profile, const RowInputs& in, const AttendedRow& row) {
  return score_noise(profile, in.q, in.k, in.visible, in.scale, row.scores, row.scores.maxCoeff());
}

/// The worst case and the floor of o, before the output's rounding.
void add_worst(const Profile& profile, const RowInputs& in, const AttendedRow& row, const ScoreNoise& scores,
               RowNoise& noise) {
  const double n = static_cast<double>(row.scores.size()), largest = row.scores.maxCoeff();
  const double sum = std::exp(row.lse - largest), u = accumulator_roundoff(profile);
  const double rescaling = 2 * unit_roundoff(Format::fp32) * (std::abs(largest) + std::abs(row.lse));
  const auto o = row.o.array().abs();
  Eigen::ArrayXd v(row.o.size());
  double shared = 0;  // of |o|
  Eigen::Index i = 0;
  for (const auto& [begin, end] : in.visible) {
    for (std::int64_t j = begin; j < end; ++j, ++i) {
      const double p = row.weights[i], rounding = rounding_worst(p * sum, profile.weights) / sum;
      const double score = (scores.worst[i] + 2 * rescaling) * p;
      v = in.v.row(j).transpose().array().abs();
      noise.worst.array() += (rounding + score + (n + 4) * u * p) * v;
      shared += score + (profile.normaliser == Normaliser::sums_rounded ? rounding : 0);
      if (may_flush(p * sum, profile.weights)) noise.floor.array() += p * v;
    }
  }
  noise.worst.array() += (shared + (n + 4) * u) * o;
  noise.floor.array() += (n + 2) * kFlushed;
  noise.worst *= 1 + 4 * unit_roundoff(profile.weights);  // products of two roundings
}

}  // namespace

AttentionNoise attention_noise(const Profile& profile, const RowInputs& in, const AttendedRow& row) {
  AttentionNoise noise{RowNoise(row.o.size()), RowNoise(1)};
  if (row.scores.size() == 0) return noise;
  const ScoreNoise scores = scores_of(profile, in, row);
  const double drift = repetition_variance(accumulator_roundoff(profile), row.weights);
  for_each_error(profile, in, row, scores, drift, [&](double variance, const auto& direction) {
    noise.o.variance.array() += variance * direction.array().square();
  });
  add_worst(profile, in, row, scores, noise.o);
  add_output_rounding(row.o, profile.output, noise.o);

  const double n = static_cast<double>(row.scores.size()), u32 = unit_roundoff(Format::fp32);
  const double offset = 2 * u32 * (std::abs(row.scores.maxCoeff()) + std::abs(row.lse));
  noise.lse.variance[0] = (row.weights.array().square() * scores.variance.array()).sum() + square(offset) +
                          accumulation_variance(u32, n, 0, 1) + drift + square(2 * u32);
  noise.lse.worst[0] = row.weights.dot(scores.worst) + 2 * offset + (n + 4) * u32;
  if (profile.normaliser == Normaliser::sums_rounded) {
    const double sum = std::exp(row.lse - row.scores.maxCoeff());
    for (const double p : row.weights) {
      noise.lse.variance[0] += rounding_variance(p * sum, profile.weights) / square(sum);
      noise.lse.worst[0] += rounding_worst(p * sum, profile.weights) / sum;
    }
    noise.lse.variance[0] += square(kRounding * unit_roundoff(profile.weights));
  }
  return noise;
}

Matrix attention_covariance(const Profile& profile, const RowInputs& in, const AttendedRow& row) {
  Matrix covariance = Matrix::Zero(row.o.size(), row.o.size());
  if (row.scores.size() == 0) return covariance;
  const ScoreNoise scores = scores_of(profile, in, row);
  const double drift = repetition_variance(accumulator_roundoff(profile), row.weights);
  for_each_error(profile, in, row, scores, drift, [&](double variance, const auto& direction) {
    covariance.selfadjointView<Eigen::Lower>().rankUpdate(Vector(direction), variance);
  });
  covariance = covariance.selfadjointView<Eigen::Lower>();
  covariance.diagonal() = attention_noise(profile, in, row).o.variance;
  return covariance;
}

}  // namespace attnspec::reference
