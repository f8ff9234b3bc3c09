#include "reference/gradient_noise.hpp"

#include <algorithm>
#include <cmath>

namespace attnspec::reference {

namespace {

double square(double x) { return x * x; }

/// The independent errors of dq: calls visit(variance, direction) for each, direction [dk].
template <class Visit>
void for_each_error(const Profile& profile, const RowInputs& in, const GradientTerms& terms, const RowGradient& row,
                    const Vector& dq, const Visit& visit) {
  const double n = static_cast<double>(row.scores.size()), u = accumulator_roundoff(profile);
  const double accumulated = accumulation_variance(u, n, 1, 0);
  Vector weighted_keys = Vector::Zero(dq.size());  // sum_j P_j k_j
  Eigen::Index i = 0;
  for (const auto& [begin, end] : in.visible) {
    for (std::int64_t j = begin; j < end; ++j, ++i) {
      const auto k = in.k.row(j).transpose();
      visit(square(in.scale) * (terms.ds_variance[i] + accumulated * square(row.d_scores[i])), k);
      weighted_keys += row.weights[i] * k;
    }
  }
  visit(square(in.scale) * terms.delta_variance, weighted_keys);
  visit(terms.lse_variance + accumulation_variance(u, n, 0, 1), dq);
}

}  // namespace

GradientTerms gradient_terms(const Profile& profile, const RowInputs& in, const RowGiven& given,
                             const RowGradient& row) {
  const Eigen::Index n = row.scores.size();
  const double u32 = unit_roundoff(Format::fp32), u = accumulator_roundoff(profile);
  const double dv = static_cast<double>(given.d_o.size());
  GradientTerms terms{Vector::Zero(n), Vector::Zero(n), Vector::Zero(n),
                      Vector::Zero(n), Vector::Zero(n), Vector::Zero(n)};
  if (n == 0 || !std::isfinite(given.lse)) return terms;
  const ScoreNoise scores = score_noise(profile, in.q, in.k, in.visible, in.scale, row.scores, 0);
  const Eigen::ArrayXd delta_parts = given.d_o.array() * given.o.array();
  const double lse_worst = 2 * u32 * std::abs(given.lse), delta_worst = dv * u32 * delta_parts.abs().sum();
  terms.lse_variance = square(lse_worst);
  terms.delta_variance = accumulation_variance(u32, dv, delta_parts.square().sum(), row.delta);
  Eigen::ArrayXd parts(given.d_o.size());
  Eigen::Index i = 0;
  for (const auto& [begin, end] : in.visible) {
    for (std::int64_t j = begin; j < end; ++j, ++i) {
      const double p = row.weights[i], ds = row.d_scores[i];
      parts = given.d_o.array() * in.v.row(j).transpose().array();
      const double dp_variance = accumulation_variance(u, dv, parts.square().sum(), row.d_weights[i]) +
                                 square(kRounding * u32) * (square(row.d_weights[i]) + square(row.delta));
      const double dp_worst = dv * u * parts.abs().sum() + u32 * (std::abs(row.d_weights[i]) + std::abs(row.delta));
      terms.p_variance[i] =
          rounding_variance(p, profile.weights) + square(p) * (scores.variance[i] + terms.lse_variance);
      terms.p_worst[i] = rounding_worst(p, profile.weights) + p * (scores.worst[i] + lse_worst);
      terms.p_floor[i] = may_flush(p, profile.weights) ? p : 0;
      terms.ds_variance[i] =
          rounding_variance(ds, profile.weights) + square(ds) * scores.variance[i] + square(p) * dp_variance;
      terms.ds_worst[i] = rounding_worst(ds, profile.weights) + std::abs(ds) * (scores.worst[i] + lse_worst) +
                          p * (dp_worst + delta_worst);
      terms.ds_floor[i] = p < kFlushed || may_flush(ds, profile.weights) ? std::abs(ds) : 0;
    }
  }
  return terms;
}

RowNoise query_gradient_noise(const Profile& profile, const RowInputs& in, const GradientTerms& terms,
                              const RowGradient& row, const Vector& dq) {
  RowNoise noise(dq.size());
  if (row.scores.size() == 0) return noise;
  for_each_error(profile, in, terms, row, dq, [&](double variance, const auto& direction) {
    noise.variance.array() += variance * direction.array().square();
  });
  const double n = static_cast<double>(row.scores.size()), sigma = std::abs(in.scale);
  Eigen::Index i = 0;
  for (const auto& [begin, end] : in.visible) {
    for (std::int64_t j = begin; j < end; ++j, ++i) {
      const auto k = in.k.row(j).transpose().array().abs();
      const double accumulated = (n + 2) * accumulator_roundoff(profile) * std::abs(row.d_scores[i]);
      noise.worst.array() += sigma * (terms.ds_worst[i] + accumulated) * k;
      if (terms.ds_floor[i] > 0) noise.floor.array() += sigma * terms.ds_floor[i] * k;
    }
  }
  noise.worst *= 1 + 4 * unit_roundoff(profile.weights);  // products of two roundings
  noise.floor.array() += (n + 2) * kFlushed * std::max(1.0, sigma);
  add_output_rounding(dq, profile.output, noise);
  return noise;
}

Matrix query_gradient_covariance(const Profile& profile, const RowInputs& in, const GradientTerms& terms,
                                 const RowGradient& row, const Vector& dq) {
  Matrix covariance = Matrix::Zero(dq.size(), dq.size());
  if (row.scores.size() == 0) return covariance;
  for_each_error(profile, in, terms, row, dq, [&](double variance, const auto& direction) {
    covariance.selfadjointView<Eigen::Lower>().rankUpdate(Vector(direction), variance);
  });
  covariance = covariance.selfadjointView<Eigen::Lower>();
  covariance.diagonal() = query_gradient_noise(profile, in, terms, row, dq).variance;
  return covariance;
}

Vector dv_weights(const Profile& profile, const GradientTerms& terms, const RowGradient& row, double num_terms) {
  const double accumulated = accumulation_variance(accumulator_roundoff(profile), num_terms, 1, 0);
  return terms.p_variance.array() + accumulated * row.weights.array().square();
}

Vector dk_weights(const Profile& profile, const GradientTerms& terms, const RowGradient& row, double num_terms,
                  double scale) {
  const double accumulated = accumulation_variance(accumulator_roundoff(profile), num_terms, 1, 0);
  return square(scale) * (terms.ds_variance.array() + terms.delta_variance * row.weights.array().square() +
                          (terms.lse_variance + accumulated) * row.d_scores.array().square());
}

void add_key_noise(const Profile& profile, const RowInputs& in, const RowGiven& given, const GradientTerms& terms,
                   const RowGradient& row, std::int64_t first_key, double num_terms, KeyNoise& dk, KeyNoise& dv) {
  const std::int64_t begin = in.visible[0].begin - first_key, keys = in.visible[0].end - in.visible[0].begin;
  const Vector q = in.q.cwiseAbs(), d_o = given.d_o.cwiseAbs();
  const double sigma = std::abs(in.scale), accumulated = (num_terms + 2) * accumulator_roundoff(profile);
  dv.variance.middleRows(begin, keys).noalias() +=
      dv_weights(profile, terms, row, num_terms) * d_o.cwiseAbs2().transpose();
  dv.worst.middleRows(begin, keys).noalias() += (terms.p_worst + accumulated * row.weights) * d_o.transpose();
  dk.variance.middleRows(begin, keys).noalias() +=
      dk_weights(profile, terms, row, num_terms, in.scale) * q.cwiseAbs2().transpose();
  dk.worst.middleRows(begin, keys).noalias() +=
      sigma * (terms.ds_worst + accumulated * row.d_scores.cwiseAbs()) * q.transpose();
  if (terms.p_floor.any()) dv.floor.middleRows(begin, keys).noalias() += terms.p_floor * d_o.transpose();
  if (terms.ds_floor.any()) dk.floor.middleRows(begin, keys).noalias() += sigma * terms.ds_floor * q.transpose();
}

bool is_even(const RowGradient& row) {
  const double largest = row.weights.maxCoeff();
  return largest - row.weights.minCoeff() <= unit_roundoff(Format::fp32) * largest;
}

double shared_dv_variance(const Profile& profile, double num_terms, const std::vector<double>& even_weights) {
  const Eigen::Map<const Vector> even(even_weights.data(), std::ssize(even_weights));
  const double sum = even.sum();
  const double drift = sum > 0 ? repetition_variance(accumulator_roundoff(profile), even / sum) : 0;
  return square(kRounding * unit_roundoff(profile.weights)) + drift + shared_dk_variance(profile, num_terms);
}

double shared_dk_variance(const Profile& profile, double num_terms) {
  return accumulation_variance(accumulator_roundoff(profile), num_terms, 0, 1);
}

RowNoise finished_key_noise(const Profile& profile, const KeyNoise& sums, std::int64_t key, double shared_variance,
                            double num_terms, double factor, const Vector& gradient) {
  RowNoise noise(gradient.size());
  noise.variance = sums.variance.row(key).transpose().array() + shared_variance * gradient.array().square();
  noise.worst = sums.worst.row(key).transpose() * (1 + 4 * unit_roundoff(profile.weights));
  noise.floor = sums.floor.row(key).transpose();
  if (num_terms > 0) noise.floor.array() += (num_terms + 2) * kFlushed * factor;
  if (num_terms > 0) add_output_rounding(gradient, profile.output, noise);
  return noise;
}

}  // namespace attnspec::reference
