#include "reference/gradient_noise.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "reference/score_range.hpp"

namespace attnspec::reference {

namespace {

/// Elementwise rounding_variance, rounding_worst.
Vector variances(const Vector& x, Format format) {
  return x.unaryExpr([&](double value) { return rounding_variance(value, format); });
}
Vector worsts(const Vector& x, Format format) {
  return x.unaryExpr([&](double value) { return rounding_worst(value, format); });
}

/// Groups of equal dS: they have equal P.
Groups equal_d_scores(const Groups& equal_weights, const Vector& d_scores) {
  return equal_weights.empty() ? Groups{} : equal_groups(d_scores);
}

/// What equal terms of <do, v_j> add to the variances of dP. A6.
void add_product_drifts(double u, const RowInputs& in, const Vector& d_o, const Eigen::ArrayXd& magnitudes,
                        const Eigen::ArrayXd& dp, Vector& variance) {
  const double ties = most_ties(d_o);
  if (ties <= 3) return;
  const std::vector<std::int64_t> keys = keys_of(in.visible);
  for (Eigen::Index i = 0; i < variance.size(); ++i) {
    const Vector v = in.kv.v.row(keys[static_cast<std::size_t>(i)]).transpose();
    variance[i] += square(product_drift(u, std::min(ties, most_ties(v)), magnitudes[i], dp[i]));
  }
}

}  // namespace

GradientTerms gradient_terms(const Arithmetic& arithmetic, const RowInputs& in, const RowGiven& given,
                             const RowGradient& row) {
  const Eigen::Index n = row.scores.size();
  const double u32 = unit_roundoff(Format::fp32), u = accumulator_roundoff(arithmetic);
  const double dv = static_cast<double>(given.d_o.size());
  const Vector zero = Vector::Zero(n);
  GradientTerms terms{zero, zero, zero, zero, zero, zero, zero, zero, zero};
  if (n == 0 || !std::isfinite(given.lse)) return terms;
  ScoreNoise scores = score_noise(arithmetic, in, row.scores, given.lse);
  const std::optional<Vector> range = given_weight_range(scores, row.scores, given.lse);  // A8
  if (range) scores = {zero, zero};
  const Vector &p = row.weights, &ds = row.d_scores;
  const Eigen::ArrayXd delta_parts = given.d_o.array() * given.o.array();
  const Vector delta_magnitudes = delta_parts.abs();
  const double lse_worst = range ? 0 : 2 * u32 * std::abs(given.lse), delta_worst = dv * u32 * delta_magnitudes.sum();
  terms.lse_variance = range ? 0 : 2 * square(kRounding * u32 * given.lse);
  terms.delta_variance = accumulation_variance(u32, dv, delta_parts.square().sum(), row.delta) +
                         square(delta_magnitudes.sum()) * repetition_variance(u32, sorted(delta_magnitudes));  // A6
  const Eigen::ArrayXd dp_squares = products(Vector(given.d_o.cwiseAbs2()), view(in.kv.v_squares), in.visible);
  const Eigen::ArrayXd dp_magnitudes = products(Vector(given.d_o.cwiseAbs()), view(in.kv.v_magnitudes), in.visible);
  const Eigen::ArrayXd dp = row.d_weights;
  terms.score_variance = scores.variance;
  terms.dp_variance = accumulation_variance(u, dv, 1, 0) * dp_squares +
                      accumulation_variance(u, dv, 0, 1) * dp.square() +
                      square(kRounding * u32) * (dp.square() + square(row.delta));
  add_product_drifts(u, in, given.d_o, dp_magnitudes, dp, terms.dp_variance);
  const Eigen::ArrayXd dp_worst = dv * u * dp_magnitudes + u32 * (dp.abs() + std::abs(row.delta));
  terms.p_variance =
      variances(p, arithmetic.weights).array() + p.array().square() * (scores.variance.array() + terms.lse_variance);
  terms.p_worst = worsts(p, arithmetic.weights).array() + p.array() * (scores.worst.array() + lse_worst);
  terms.rounding = variances(ds, arithmetic.weights);
  terms.ds_variance = terms.rounding.array() + ds.array().square() * scores.variance.array() +
                      p.array().square() * terms.dp_variance.array();
  terms.ds_worst = worsts(ds, arithmetic.weights).array() + ds.array().abs() * (scores.worst.array() + lse_worst) +
                   p.array() * (dp_worst + delta_worst);
  for (Eigen::Index j = 0; j < n; ++j) {
    if (may_flush(p[j], arithmetic.weights)) terms.p_floor[j] = p[j];
    if (p[j] < kFlushed || may_flush(ds[j], arithmetic.weights)) terms.ds_floor[j] = std::abs(ds[j]);
    if (std::abs(in.scale) < kFlushed) terms.ds_floor[j] = std::abs(ds[j]);          // the scale itself may become 0
    if (dp_magnitudes[j] < 0x1p-100) terms.ds_floor[j] += p[j] * 2 * dv * kFlushed;  // products do v and do o
  }
  if (range) {
    const double products = 1 + 4 * unit_roundoff(arithmetic.weights) + unit_roundoff(arithmetic.output) +
                            static_cast<double>(n + 2) * u;  // the roundings of what moved
    terms.p_floor += products * *range;
    terms.ds_floor.array() += products * range->array() * ((dp - row.delta).abs() + dp_worst + delta_worst);
  }
  return terms;
}

GradientNoise query_gradient_noise(const Arithmetic& arithmetic, const RowInputs& in, const GradientTerms& terms,
                                   const RowGradient& row, const Vector& dq) {
  GradientNoise result{RowErrors(dq.size()), RowNoise(dq.size())};
  if (row.scores.size() == 0) return result;
  const double n = static_cast<double>(row.scores.size()), u = accumulator_roundoff(arithmetic),
               sigma = std::abs(in.scale);
  const std::vector<std::int64_t> keys = keys_of(in.visible);
  const auto k = [&](Eigen::Index i) -> Vector { return in.kv.k.row(keys[static_cast<std::size_t>(i)]).transpose(); };
  RowErrors& errors = result.errors;
  errors.along =
      square(sigma) * (terms.ds_variance + accumulation_variance(u, n, 1, 0) * row.d_scores.cwiseAbs2());  // E2, E5
  errors.along_centre = terms.lse_variance + accumulation_variance(u, n, 0, 1);                            // E4, E5
  errors.shared.push_back(sigma * std::sqrt(terms.delta_variance) *
                          combination(row.weights, in.kv.k, in.visible));  // E3
  const Groups equal_weights = equal_groups(row.weights);
  add_shared(equal_weights, row.d_scores, terms.score_variance, sigma, k, errors);
  add_shared(repeated(keys, in.kv.v_labels), row.weights, terms.dp_variance, sigma, k, errors);
  add_shared(equal_d_scores(equal_weights, row.d_scores), Vector::Ones(row.scores.size()), terms.rounding, sigma, k,
             errors);
  add_drifts(u, row.d_scores, repeated(keys, in.kv.k_labels), sigma, k, dq, errors);  // A6
  const Rows magnitudes = view(in.kv.k_magnitudes);
  const Vector worst =
      sigma * combination(terms.ds_worst + (n + 2) * u * row.d_scores.cwiseAbs(), magnitudes, in.visible);
  const Vector floor = terms.ds_floor.any() ? Vector(sigma * combination(terms.ds_floor, magnitudes, in.visible))
                                            : Vector::Zero(dq.size());
  result.noise = finished(arithmetic, variance(errors, in.kv.k, in.kv.k_squares, in.visible, dq), worst, floor, n,
                          std::max(1.0, sigma));
  add_output_rounding(dq, arithmetic.output, result.noise);
  return result;
}

KeyTerms::KeyTerms(std::int64_t rows, std::int64_t keys, std::int64_t dk, std::int64_t dv, double softmax_scale,
                   double terms)
    : scale(softmax_scale), num_terms(terms) {
  for (Matrix* matrix : {&q, &q_squares, &q_magnitudes}) matrix->resize(rows, dk);
  for (Matrix* matrix : {&d_o, &d_o_squares, &d_o_magnitudes}) matrix->resize(rows, dv);
  for (Matrix* matrix : {&p, &ds, &score_variance, &p_variance, &p_worst, &p_floor, &ds_variance, &ds_worst, &ds_floor,
                         &p_rounding, &ds_rounding, &dp_variance})
    matrix->setZero(keys, rows);
}

void KeyTerms::set(const Arithmetic& arithmetic, std::int64_t i, std::int64_t first, const RowInputs& in,
                   const RowGiven& given, const RowGradient& row, const GradientTerms& terms) {
  const std::int64_t keys = in.visible[0].end - in.visible[0].begin;
  const auto part = [&](Matrix& matrix) { return matrix.col(i).segment(in.visible[0].begin - first, keys); };
  q.row(i) = in.q.transpose();
  q_squares.row(i) = in.q.cwiseAbs2().transpose();
  q_magnitudes.row(i) = in.q.cwiseAbs().transpose();
  d_o.row(i) = given.d_o.transpose();
  d_o_squares.row(i) = given.d_o.cwiseAbs2().transpose();
  d_o_magnitudes.row(i) = given.d_o.cwiseAbs().transpose();
  part(p) = row.weights;
  part(ds) = row.d_scores;
  part(score_variance) = terms.score_variance;
  part(p_variance) = terms.p_variance;
  part(p_worst) = terms.p_worst;
  part(p_floor) = terms.p_floor;
  part(p_rounding) = variances(row.weights, arithmetic.weights);
  part(ds_variance) = terms.ds_variance + terms.delta_variance * row.weights.cwiseAbs2() +
                      terms.lse_variance * row.d_scores.cwiseAbs2();
  part(ds_worst) = terms.ds_worst;
  part(ds_floor) = terms.ds_floor;
  part(ds_rounding) = terms.rounding;
  part(dp_variance) = terms.dp_variance;
}

void KeyTerms::complete() {
  equal_q = equal_rows(view(q));
  equal_d_o = equal_rows(view(d_o));
}

GradientNoise key_gradient_noise(const Arithmetic& arithmetic, const KeyTerms& terms, std::int64_t key,
                                 const Vector& dk) {
  if (terms.q.rows() == 0) return {RowErrors(dk.size()), RowNoise(dk.size())};
  const auto q = [&](Eigen::Index t) -> Vector { return terms.q.row(t).transpose(); };
  RowErrors errors(dk.size());
  add_shared(terms.equal_d_o, terms.p.row(key), terms.dp_variance.row(key), std::abs(terms.scale), q, errors);
  add_shared(terms.equal_q, terms.ds.row(key), terms.score_variance.row(key), std::abs(terms.scale), q, errors);
  GradientNoise result =
      sum_noise(arithmetic,
                {terms.q, terms.q_squares, terms.q_magnitudes, terms.ds.row(key), terms.ds_variance.row(key),
                 terms.ds_worst.row(key), terms.ds_floor.row(key), terms.ds_rounding.row(key), terms.scale,
                 equal_d_scores(equal_groups(terms.p.row(key)), terms.ds.row(key)), terms.equal_q},
                terms.num_terms, std::move(errors), dk);
  add_output_rounding(dk, arithmetic.output, result.noise);
  return result;
}

GradientNoise value_gradient_noise(const Arithmetic& arithmetic, const KeyTerms& terms, std::int64_t key,
                                   const Vector& dv) {
  if (terms.q.rows() == 0) return {RowErrors(dv.size()), RowNoise(dv.size())};
  const Vector ascending = sorted(terms.p.row(key));
  RowErrors errors(dv.size());
  errors.along_centre = square(kRounding * unit_roundoff(arithmetic.weights)) +
                        repetition_variance(accumulator_roundoff(arithmetic), ascending);
  add_shared(
      terms.equal_q, terms.p.row(key), terms.score_variance.row(key), 1,
      [&](Eigen::Index t) -> Vector { return terms.d_o.row(t).transpose(); }, errors);
  GradientNoise result =
      sum_noise(arithmetic,
                {terms.d_o, terms.d_o_squares, terms.d_o_magnitudes, terms.p.row(key), terms.p_variance.row(key),
                 terms.p_worst.row(key), terms.p_floor.row(key), terms.p_rounding.row(key), 1,
                 equal_groups(terms.p.row(key), ascending), terms.equal_d_o},
                terms.num_terms, std::move(errors), dv);
  add_output_rounding(dv, arithmetic.output, result.noise);
  return result;
}

}  // namespace attnspec::reference
