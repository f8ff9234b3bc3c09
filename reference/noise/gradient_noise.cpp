#include "reference/noise/gradient_noise.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include "reference/noise/score_range.hpp"

namespace attnspec::reference {

namespace {

/// Elementwise rounding_variance, rounding_worst.
Vector variances(const Vector& x, Format format) {
  return x.unaryExpr([&](double value) { return rounding_variance(value, format); });
}
Vector worsts(const Vector& x, Format format) {
  return x.unaryExpr([&](double value) { return rounding_worst(value, format); });
}

/// What rounding does to weights that are known. P1.
Vector rounding_errors(const Vector& weights, Format format) {
  return weights.unaryExpr([&](double p) { return round_to(p, format) - p; });
}

/// Groups of equal dS: they have equal P.
Groups equal_d_scores(const Groups& equal_weights, const Vector& d_scores) {
  return equal_weights.empty() ? Groups{} : equal_groups(d_scores);
}

/// What equal terms of <do, v_j> add to the variances of dP. A6.
void add_product_drifts(double u, const RowInputs& in, const Vector& d_o, const Eigen::ArrayXd& magnitudes,
                        const Eigen::ArrayXd& dp, Vector& variance) {
  const double ties = max_ties(d_o);
  if (ties <= 3) return;
  const std::vector<std::int64_t> keys = keys_of(in.visible);
  for (Eigen::Index i = 0; i < variance.size(); ++i) {
    const Vector v = in.kv.v.row(keys[static_cast<std::size_t>(i)]).transpose();
    variance[i] += square(product_drift(u, std::min(ties, max_ties(v)), magnitudes[i], dp[i]));
  }
}

/// The errors of dP_j = <do, v_j>, and of the difference dP - delta. E2.
struct ProductErrors {
  Vector variance, worst, magnitudes;  // [n]
};
ProductErrors d_weight_errors(const Arithmetic& arithmetic, const RowInputs& in, const Row& d_o,
                              const RowGradient& row) {
  const double u32 = unit_roundoff(Format::fp32), u = accumulator_roundoff(arithmetic);
  const double dv = static_cast<double>(d_o.size());
  const Eigen::ArrayXd squares = products(Vector(d_o.cwiseAbs2()), view(in.kv.v_squares), in.visible);
  const Eigen::ArrayXd magnitudes = products(Vector(d_o.cwiseAbs()), view(in.kv.v_magnitudes), in.visible);
  const Eigen::ArrayXd dp = row.d_weights;
  ProductErrors errors;
  errors.magnitudes = magnitudes;
  errors.variance = term_variance(arithmetic, dv) * squares + accumulation_variance(u, dv, 0, 1) * dp.square() +
                    square(kRounding * u32) * (dp.square() + square(row.delta));
  add_product_drifts(u, in, d_o, magnitudes, dp, errors.variance);
  errors.worst = term_worst(arithmetic, dv) * magnitudes + u32 * (dp.abs() + std::abs(row.delta));
  return errors;
}

/// Twice the rounding of lse that a row's weights share. E4.
double lse_variance(double lse) { return 2 * square(kRounding * unit_roundoff(Format::fp32) * lse); }
double lse_worst(double lse) { return 2 * unit_roundoff(Format::fp32) * std::abs(lse); }

/// Variance of sum_j weights_j e_j, the e_j independent, and one error in every group beside that. E6.
double summed_variance(const Vector& weights, const Vector& variances, const Groups& groups) {
  double variance = weights.cwiseAbs2().dot(variances);
  for (const auto& group : groups) {
    double sum = 0, largest = 0;
    for (const Eigen::Index j : group) {
      sum += weights[j];
      largest = std::max(largest, variances[j]);
    }
    variance += square(sum) * largest;
  }
  return variance;
}

/// Rows summed by their part: labels [n], one for each row of terms [n, dim].
Matrix sums_of_parts(const std::vector<int>& labels, const std::function<Vector(Eigen::Index)>& term,
                     Eigen::Index dim) {
  std::map<int, Vector> sums;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    auto [part, is_new] = sums.try_emplace(labels[i]);
    if (is_new) part->second = Vector::Zero(dim);
    part->second += term(static_cast<Eigen::Index>(i));
  }
  Matrix parts(static_cast<Eigen::Index>(sums.size()), dim);
  Eigen::Index row = 0;
  for (const auto& [label, sum] : sums) parts.row(row++) = sum.transpose();
  return parts;
}

}  // namespace

RowDelta delta_of_output(const Row& d_o, const Row& o) {
  const double u32 = unit_roundoff(Format::fp32), dv = static_cast<double>(d_o.size());
  const Vector magnitudes = d_o.cwiseProduct(o).cwiseAbs();
  const double value = d_o.dot(o), total = magnitudes.sum();
  return {value,
          accumulation_variance(u32, dv, magnitudes.squaredNorm(), value) +
              square(total) * repetition_variance(u32, sorted(magnitudes)),  // A6
          dv * u32 * total};
}

RowDelta softmax_delta(const Arithmetic& arithmetic, const RowInputs& in, const Row& d_o, double lse,
                       const RowGradient& row) {
  if (row.scores.size() == 0 || !std::isfinite(lse)) return {};
  const double u32 = unit_roundoff(Format::fp32), n = static_cast<double>(row.scores.size());
  ScoreNoise scores = score_noise(arithmetic, in, row.scores, lse);
  const std::optional<Vector> range = given_weight_range(scores, row.scores, lse);  // A8
  if (range) scores = {Vector::Zero(row.scores.size()), Vector::Zero(row.scores.size())};
  const Vector terms = row.weights.cwiseProduct(row.d_weights), magnitudes = terms.cwiseAbs();
  const double value = terms.sum(), total = magnitudes.sum();
  RowGradient bare = row;
  bare.delta = 0;  // no difference is formed here
  const ProductErrors dp = d_weight_errors(arithmetic, in, d_o, bare);
  RowDelta delta{value};
  delta.variance = accumulation_variance(u32, n, terms.squaredNorm(), value) +
                   square(total) * repetition_variance(u32, sorted(magnitudes)) +  // A6
                   summed_variance(row.weights, dp.variance, repeated(keys_of(in.visible), in.kv.v_labels)) +
                   summed_variance(terms, scores.variance, equal_groups(row.weights)) +
                   ((range ? 0 : lse_variance(lse)) + square(kRounding * kExpError)) * square(value);
  delta.worst =
      row.weights.dot(dp.worst) + magnitudes.dot(scores.worst) + ((range ? 0 : lse_worst(lse)) + n * u32) * total;
  if (!range) delta.by_scale = terms.dot(row.scores);
  if (range) delta.floor = range->dot(row.d_weights.cwiseAbs() + dp.worst);
  return delta;
}

GradientTerms gradient_terms(const Arithmetic& arithmetic, const RowInputs& in, const RowGiven& given,
                             const RowGradient& row) {
  const Eigen::Index n = row.scores.size();
  const Vector zero = Vector::Zero(n);
  GradientTerms terms{zero, zero, zero, {}, zero, zero, zero, zero, zero, zero};
  if (n == 0 || !std::isfinite(given.lse)) return terms;
  const Format weights = arithmetic.weights;
  const double factor = arithmetic.scaled_ds ? std::abs(in.scale) : 1;  // E8
  ScoreNoise scores = score_noise(arithmetic, in, row.scores, given.lse);
  const std::optional<Vector> range = given_weight_range(scores, row.scores, given.lse);  // A8
  if (range) scores = {zero, zero};
  terms.is_range = range.has_value();
  const ProductErrors dp = d_weight_errors(arithmetic, in, given.d_o, row);
  const Vector &p = row.weights, &ds = row.d_scores;
  const Eigen::ArrayXd difference = row.d_weights.array() - row.delta;
  const double lse_error = range ? 0 : lse_worst(given.lse) + given.lse_worst;
  terms.lse_variance = range ? 0 : lse_variance(given.lse) + given.lse_variance;
  terms.delta_variance = given.delta.variance;
  terms.delta_by_scale = given.delta.by_scale;
  terms.score_variance = scores.variance;
  terms.dp_variance = dp.variance;
  terms.p_variance =
      variances(p, weights).array() + p.array().square() * (scores.variance.array() + terms.lse_variance);
  terms.p_worst = worsts(p, weights).array() + p.array() * (scores.worst.array() + lse_error);
  if (factor > 0) terms.rounding = variances(factor * ds, weights) / square(factor);
  terms.ds_variance = terms.rounding.array() + ds.array().square() * scores.variance.array() +
                      p.array().square() * terms.dp_variance.array();
  terms.ds_worst =
      ds.array().abs() * (scores.worst.array() + lse_error) + p.array() * (dp.worst.array() + given.delta.worst);
  if (factor > 0) terms.ds_worst += worsts(factor * ds, weights) / factor;
  if (arithmetic.rounded_p_in_ds) {  // E9
    terms.p_rounding = variances(p, weights);
    terms.ds_variance.array() += difference.square() * terms.p_rounding.array();
    terms.ds_worst.array() += difference.abs() * worsts(p, weights).array();
  }
  const double dv = static_cast<double>(given.d_o.size());
  for (Eigen::Index j = 0; j < n; ++j) {
    const bool p_vanishes = may_flush(p[j], weights);
    if (p_vanishes) terms.p_floor[j] = p[j];
    if (p[j] < kFlushed || may_flush(factor * ds[j], weights) || (p_vanishes && arithmetic.rounded_p_in_ds))
      terms.ds_floor[j] = std::abs(ds[j]);
    if (std::abs(in.scale) < kFlushed) terms.ds_floor[j] = std::abs(ds[j]);          // the scale itself may become 0
    if (dp.magnitudes[j] < 0x1p-100) terms.ds_floor[j] += p[j] * 2 * dv * kFlushed;  // products do v and do o
  }
  if (range) {
    const double products =
        1 + 4 * unit_roundoff(weights) + unit_roundoff(arithmetic.output) +
        static_cast<double>(n + 2) * accumulator_roundoff(arithmetic);  // the roundings of what moved
    terms.p_floor += products * *range;
    terms.ds_floor.array() += products * range->array() * (difference.abs() + dp.worst.array() + given.delta.worst);
  }
  if (given.delta.floor > 0) terms.ds_floor += given.delta.floor * p;
  return terms;
}

GradientNoise query_gradient_noise(const Arithmetic& arithmetic, const RowInputs& in, const GradientTerms& terms,
                                   const RowGradient& row, const Vector& dq, double scale,
                                   const std::vector<int>& parts) {
  GradientNoise result{RowErrors(dq.size()), RowNoise(dq.size())};
  if (row.scores.size() == 0) return result;
  const double n = static_cast<double>(row.scores.size()), u = accumulator_roundoff(arithmetic),
               sigma = std::abs(scale);
  const std::vector<std::int64_t> keys = keys_of(in.visible);
  const auto k = [&](Eigen::Index i) -> Vector { return in.kv.k.row(keys[static_cast<std::size_t>(i)]).transpose(); };
  RowErrors& errors = result.errors;
  errors.along =
      square(sigma) * (terms.ds_variance + term_variance(arithmetic, n) * row.d_scores.cwiseAbs2());  // E2, E5
  errors.along_centre =
      terms.lse_variance + accumulation_variance(u, n, 0, 1) + common_variance(arithmetic);  // E4, E5, T2
  errors.shared.push_back(sigma * std::sqrt(terms.delta_variance) *
                          combination(row.weights, in.kv.k, in.visible));  // E3
  if (!terms.is_range)
    errors.shared.push_back(kScaleError * sigma *
                            combination(row.d_scores.cwiseProduct(row.scores) - terms.delta_by_scale * row.weights,
                                        in.kv.k,
                                        in.visible));  // A4
  const Groups equal_weights = equal_groups(row.weights);
  add_shared(equal_weights, row.d_scores, terms.score_variance, sigma, k, errors);
  if (terms.p_rounding.size() > 0)
    add_shared(equal_weights, row.d_weights.array() - row.delta, terms.p_rounding, sigma, k, errors);  // E9
  add_shared(repeated(keys, in.kv.v_labels), row.weights, terms.dp_variance, sigma, k, errors);
  add_shared(equal_d_scores(equal_weights, row.d_scores), Vector::Ones(row.scores.size()), terms.rounding, sigma, k,
             errors);
  add_drifts(u, row.d_scores, repeated(keys, in.kv.k_labels), sigma, k, dq, errors);  // A6
  const Rows magnitudes = view(in.kv.k_magnitudes);
  const Vector worst = sigma * combination(terms.ds_worst + term_worst(arithmetic, n + 2) * row.d_scores.cwiseAbs(),
                                           magnitudes, in.visible);
  const Vector floor = terms.ds_floor.any() ? Vector(sigma * combination(terms.ds_floor, magnitudes, in.visible))
                                            : Vector::Zero(dq.size());
  result.noise = finished(arithmetic, variance(errors, in.kv.k, in.kv.k_squares, in.visible, dq), worst, floor, n,
                          std::max(1.0, sigma));
  if (!parts.empty()) {  // E7
    std::vector<Vector> of_ranges;
    Eigen::Index i = 0;
    for (const auto& [begin, end] : in.visible) {
      of_ranges.push_back(scale *
                          (in.kv.k.middleRows(begin, end - begin).transpose() * row.d_scores.segment(i, end - begin)));
      i += end - begin;
    }
    const auto range = [&](Eigen::Index r) { return of_ranges[static_cast<std::size_t>(r)]; };
    add_part_roundings(arithmetic, sums_of_parts(parts, range, dq.size()), dq, result);
  }
  add_output_rounding(dq, arithmetic.output, result.noise);
  return result;
}

KeyTerms::KeyTerms(std::int64_t rows, std::int64_t keys, std::int64_t dk, std::int64_t dv, double dk_scale,
                   double terms)
    : scale(dk_scale), num_terms(terms) {
  for (Matrix* matrix : {&q, &q_squares, &q_magnitudes}) matrix->resize(rows, dk);
  for (Matrix* matrix : {&d_o, &d_o_squares, &d_o_magnitudes}) matrix->resize(rows, dv);
  for (Matrix* matrix : {&p, &ds, &score_variance, &p_variance, &p_worst, &p_floor, &ds_variance, &ds_worst, &ds_floor,
                         &p_rounding, &ds_rounding, &dp_variance, &p_by_scale, &ds_by_scale})
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
  if (!terms.is_range) {
    part(p_by_scale) = row.weights.cwiseProduct(row.scores);
    part(ds_by_scale) = row.d_scores.cwiseProduct(row.scores) - terms.delta_by_scale * row.weights;
  }
  if (!arithmetic.rounded_p_in_ds) return;
  if (d_weights.size() == 0) d_weights.setZero(p.rows(), p.cols());
  part(d_weights) = row.d_weights.array() - row.delta;
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
  errors.shared.push_back(kScaleError * std::abs(terms.scale) * terms.q.transpose() *
                          terms.ds_by_scale.row(key).transpose());  // A4
  const Groups equal_p = equal_groups(terms.p.row(key));
  if (terms.d_weights.size() > 0)
    add_shared(equal_p, terms.d_weights.row(key), terms.p_rounding.row(key), std::abs(terms.scale), q, errors);  // E9
  GradientNoise result =
      sum_noise(arithmetic,
                {terms.q, terms.q_squares, terms.q_magnitudes, terms.ds.row(key), terms.ds_variance.row(key),
                 terms.ds_worst.row(key), terms.ds_floor.row(key), terms.ds_rounding.row(key), terms.scale,
                 equal_d_scores(equal_p, terms.ds.row(key)), terms.equal_q},
                terms.num_terms, std::move(errors), dk);
  if (!terms.parts.empty())
    add_part_roundings(
        arithmetic,
        sums_of_parts(
            terms.parts, [&](Eigen::Index t) -> Vector { return terms.scale * terms.ds(key, t) * q(t); }, dk.size()),
        dk, result);
  add_output_rounding(dk, arithmetic.output, result.noise);
  return result;
}

GradientNoise value_gradient_noise(const Arithmetic& arithmetic, const KeyTerms& terms, std::int64_t key,
                                   const Vector& dv) {
  if (terms.q.rows() == 0) return {RowErrors(dv.size()), RowNoise(dv.size())};
  const Vector ascending = sorted(terms.p.row(key));
  RowErrors errors(dv.size());
  const Vector p = terms.p.row(key), p_rounding = terms.p_rounding.row(key);
  errors.along_centre = repetition_variance(accumulator_roundoff(arithmetic), ascending);
  errors.shared.push_back(kScaleError * terms.d_o.transpose() * terms.p_by_scale.row(key).transpose());  // A4
  // The roundings of P are known, unless its own error is larger than a part of them: E5.
  const Vector own = (terms.p_variance.row(key).transpose() - p_rounding).cwiseMax(0).cwiseSqrt();
  const double limit = unit_roundoff(arithmetic.weights) / 16;
  const double unknown = (own.array() + terms.p_floor.row(key).transpose().array() > limit * p.array())
                             .select(p.array().square(), 0)
                             .sum();
  if (unknown > 0)
    errors.along_centre += square(kRounding * unit_roundoff(arithmetic.weights)) * unknown / p.squaredNorm();
  const auto d_o = [&](Eigen::Index t) -> Vector { return terms.d_o.row(t).transpose(); };
  add_shared(terms.equal_q, terms.p.row(key), terms.score_variance.row(key), 1, d_o, errors);
  GradientNoise result =
      sum_noise(arithmetic,
                {terms.d_o, terms.d_o_squares, terms.d_o_magnitudes, terms.p.row(key), terms.p_variance.row(key),
                 terms.p_worst.row(key), terms.p_floor.row(key), terms.p_rounding.row(key), 1,
                 equal_groups(terms.p.row(key), ascending), terms.equal_d_o,
                 terms.d_o.transpose() * rounding_errors(terms.p.row(key), arithmetic.weights)},
                terms.num_terms, std::move(errors), dv);
  if (!terms.parts.empty())
    add_part_roundings(arithmetic,
                       sums_of_parts(
                           terms.parts, [&](Eigen::Index t) -> Vector { return terms.p(key, t) * d_o(t); }, dv.size()),
                       dv, result);
  add_output_rounding(dv, arithmetic.output, result.noise);
  return result;
}

}  // namespace attnspec::reference
