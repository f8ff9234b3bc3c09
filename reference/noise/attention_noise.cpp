#include "reference/noise/attention_noise.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace attnspec::reference {

namespace {

/// What the predictions of one row share.
struct Parts {
  const Arithmetic& arithmetic;
  const RowInputs& in;
  const AttendedRow& row;
  double n;                    // number of visible keys
  double u;                    // roundoff of the accumulator
  double offset;               // |m| + |L|: what scores are shifted by
  ScoreNoise scores;           // [n]
  double unit;                 // a weight is rounded as P unit
  Vector rounding;             // [n], variance of rounding a weight, relative to Z
  Vector rounding_worst_case;  // [n]
  Vector ascending;            // [n], the weights
  Groups equal;                // groups of equal weights
  double drift;                // variance of the drift of Z, relative: A6
  /// Instead of errors of the scores and of rescaling: A8.
  std::optional<WeightRange> range;

  Parts(const Arithmetic& p, const RowInputs& i, const AttendedRow& r)
      : arithmetic(p),
        in(i),
        row(r),
        n(static_cast<double>(r.scores.size())),
        u(accumulator_roundoff(p)),
        offset(std::abs(r.scores.maxCoeff()) + std::abs(r.lse)),
        scores(score_noise(p, i, r.scores, r.scores.maxCoeff())),
        unit(p.normaliser == Normaliser::divides_first ? 1 : std::exp(r.lse - r.scores.maxCoeff())),
        rounding(r.weights.size()),
        rounding_worst_case(r.weights.size()),
        ascending(sorted(r.weights)),
        equal(equal_groups(r.weights, ascending)),
        drift(repetition_variance(u, ascending)),
        range(weight_range(scores, r, offset)) {
    if (range) scores = {Vector::Zero(r.scores.size()), Vector::Zero(r.scores.size())};
    for (Eigen::Index j = 0; j < r.weights.size(); ++j) {
      rounding[j] = rounding_variance(r.weights[j] * unit, p.weights) / square(unit);
      rounding_worst_case[j] = rounding_worst(r.weights[j] * unit, p.weights) / unit;
    }
  }

  /// What rescaling factors are made of: |m| + |L|, or 0 where the range has it.
  double rescaled() const { return range ? 0 : offset; }
  bool sums_rounded() const { return arithmetic.normaliser == Normaliser::sums_rounded; }
};

/// Equal weights of a group: their roundings are one error and their score errors another, F6; and equal terms drift,
/// A6.
void add_equal_weights(const Parts& parts, RowErrors& errors) {
  if (parts.equal.empty() && parts.in.kv.v_labels.empty()) return;
  const std::vector<std::int64_t> keys = keys_of(parts.in.visible);
  const auto v = [&](Eigen::Index i) -> Vector {
    return parts.in.kv.v.row(keys[static_cast<std::size_t>(i)]).transpose();
  };
  for (const auto& group : parts.equal) {
    Vector sum = Vector::Zero(parts.row.o.size());
    for (const Eigen::Index i : group) sum += v(i);
    const Vector centred = sum - static_cast<double>(group.size()) * parts.row.o;
    errors.shared.push_back(std::sqrt(parts.rounding[group[0]]) * (parts.sums_rounded() ? centred : sum));
    errors.shared.push_back(std::sqrt(parts.scores.variance[group[0]]) * parts.row.weights[group[0]] * centred);
  }
  add_drifts(parts.u, parts.row.weights, repeated(keys, parts.in.kv.v_labels), 1, v, parts.row.o, errors);
}

/// Partial outputs that are stored in 16 bits, one for each range: F7.
void add_partial_roundings(const Parts& parts, const std::vector<Vector>& sums, const std::vector<double>& weights,
                           RowErrors& errors) {
  for (Eigen::Index d = 0; d < parts.row.o.size(); ++d) {
    double variance = 0, agreeing = 0;
    for (std::size_t b = 0; b < sums.size(); ++b) {
      if (weights[b] == 0) continue;
      const double deviation =
          weights[b] * std::sqrt(rounding_variance(sums[b][d] / weights[b], parts.arithmetic.partial));
      const bool agrees =
          std::abs(sums[b][d] / weights[b] - parts.row.o[d]) <= spacing(parts.row.o[d], parts.arithmetic.partial);
      variance += agrees ? 0 : square(deviation);
      agreeing += agrees ? deviation : 0;  // partial outputs that agree with o round alike
    }
    errors.separate[d] += variance + square(agreeing);
  }
}

RowErrors output_errors(const Parts& parts) {
  const auto& [arithmetic, in, row] = std::tie(parts.arithmetic, parts.in, parts.row);
  RowErrors errors(row.o.size());
  errors.along = term_variance(arithmetic, parts.n) * row.weights.cwiseAbs2();                              // F5
  errors.along_centred = parts.scores.variance.cwiseProduct(row.weights.cwiseAbs2());                       // F3
  (parts.sums_rounded() ? errors.along_centred : errors.along) += parts.rounding;                           // F1
  errors.along_centre = square(kRounding * parts.u) * (parts.n / 3 + 4) + parts.drift;                      // F5
  if (!parts.sums_rounded()) errors.along_centre += square(kRounding * unit_roundoff(arithmetic.weights));  // F2
  if (!parts.range) errors.along_centre += 2 * square(kRounding * unit_roundoff(Format::fp32) * row.lse);   // F4
  if (!parts.range)                                                                                         // A4
    errors.shared.push_back(kScaleError * (combination(row.weights.cwiseProduct(row.scores), in.kv.v, in.visible) -
                                           row.weights.dot(row.scores) * row.o));
  const double rescaling = 2 * kRounding * unit_roundoff(Format::fp32) * parts.rescaled();
  std::vector<Vector> sums;
  std::vector<double> weights;
  Eigen::Index i = 0;
  for (const auto& [begin, end] : in.visible) {
    const auto p = row.weights.segment(i, end - begin);
    sums.push_back(in.kv.v.middleRows(begin, end - begin).transpose() * p);
    weights.push_back(p.sum());
    errors.shared.push_back(rescaling * (sums.back() - weights.back() * row.o));  // F4
    i += end - begin;
  }
  add_equal_weights(parts, errors);
  const bool is_stored_once = sums.size() == 1 && arithmetic.partial == arithmetic.output;  // and not rounded again
  if (arithmetic.partial != Format::fp32 && !is_stored_once) add_partial_roundings(parts, sums, weights, errors);
  return errors;
}

/// The worst case and the floor of o, before the output's rounding.
void add_worst(const Parts& parts, RowNoise& noise) {
  const auto& [arithmetic, in, row] = std::tie(parts.arithmetic, parts.in, parts.row);
  const double rescaling = 4 * unit_roundoff(Format::fp32) * parts.rescaled(),
               accumulated = term_worst(arithmetic, parts.n + 4);
  const Vector score = (parts.scores.worst.array() + rescaling) * row.weights.array();
  const Rows magnitudes = view(in.kv.v_magnitudes);
  const double partial = arithmetic.partial == Format::fp32 ? 0 : unit_roundoff(arithmetic.partial);
  noise.worst =
      combination(parts.rounding_worst_case + score + (accumulated + partial) * row.weights, magnitudes, in.visible);
  noise.worst +=
      (score.sum() + accumulated + (parts.sums_rounded() ? parts.rounding_worst_case.sum() : 0)) * row.o.cwiseAbs();
  noise.worst *= 1 + 4 * unit_roundoff(arithmetic.weights);  // products of two roundings
  if (may_flush(row.weights.minCoeff() * parts.unit, arithmetic.weights)) {
    Vector flushed = row.weights;
    for (double& p : flushed)
      if (!may_flush(p * parts.unit, arithmetic.weights)) p = 0;
    noise.floor = combination(flushed, magnitudes, in.visible);
  }
  noise.floor.array() += (parts.n + 2) * kFlushed;
  if (partial > 0) noise.floor.array() += subnormal_spacing(arithmetic.partial) / 2;
}

/// What scores that err too much for first order may do goes to the floor: it does not average out. A8.
void add_range(const Parts& parts, AttentionNoise& noise) {
  const auto& [arithmetic, in, row] = std::tie(parts.arithmetic, parts.in, parts.row);
  const double weights = unit_roundoff(arithmetic.weights),
               partial = arithmetic.partial == Format::fp32 ? 0 : unit_roundoff(arithmetic.partial);
  const WeightRange& range = *parts.range;
  Vector o = moved(range, in.kv.v, in.visible, row.o);
  o += range.factor * (weights + partial + (parts.n + 4) * parts.u) *
       combination(range.change, view(in.kv.v_magnitudes), in.visible);  // the roundings of weights that moved
  noise.o.floor += (1 + 4 * weights + unit_roundoff(arithmetic.output)) * o;
  noise.lse.floor[0] += range.lse + (parts.sums_rounded() ? weights : 0);
}

RowNoise lse_noise(const Parts& parts) {
  const double u32 = unit_roundoff(Format::fp32), offset = 2 * kRounding * u32 * parts.offset;
  RowNoise noise(1);
  noise.variance[0] = parts.row.weights.cwiseAbs2().dot(parts.scores.variance) + square(offset) +
                      accumulation_variance(u32, parts.n, 0, 1) + parts.drift + square(2 * kRounding * u32);
  noise.worst[0] = parts.row.weights.dot(parts.scores.worst) + 4 * u32 * parts.offset + (parts.n + 4) * u32;
  if (parts.sums_rounded()) {
    noise.variance[0] += parts.rounding.sum() + square(kRounding * unit_roundoff(parts.arithmetic.weights));
    noise.worst[0] += parts.rounding_worst_case.sum();
  }
  for (const auto& group : parts.equal) {
    const auto m = static_cast<double>(group.size());
    const double p = parts.row.weights[group[0]];
    const double rounding = parts.sums_rounded() ? parts.rounding[group[0]] : 0;
    noise.variance[0] += square(m) * (square(p) * parts.scores.variance[group[0]] + rounding);
  }
  return noise;
}

}  // namespace

AttentionNoise attention_noise(const Arithmetic& arithmetic, const RowInputs& in, const AttendedRow& row) {
  AttentionNoise noise{RowErrors(row.o.size()), RowNoise(row.o.size()), RowNoise(1)};
  if (row.scores.size() == 0) return noise;
  const Parts parts(arithmetic, in, row);
  noise.errors = output_errors(parts);
  noise.o.variance = variance(noise.errors, in.kv.v, in.kv.v_squares, in.visible, row.o);
  add_worst(parts, noise.o);
  add_output_rounding(row.o, arithmetic.output, noise.o);
  noise.lse = lse_noise(parts);
  if (parts.range) add_range(parts, noise);
  noise.range = parts.range;
  return noise;
}

}  // namespace attnspec::reference
