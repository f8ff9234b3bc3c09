#include "reference/noise/nsa_gate_noise.hpp"

#include <algorithm>
#include <cmath>

namespace attnspec::reference {

PredictedRow gated_noise(const Arithmetic& arithmetic, const Row& gates, const BranchRows& outputs) {
  const Eigen::Index dv = outputs[0].size();
  Matrix terms(3, dv);
  for (Eigen::Index b = 0; b < 3; ++b) terms.row(b) = gates[b] * outputs[static_cast<std::size_t>(b)].transpose();
  Vector expected = terms.colwise().sum().transpose();
  FeatureSum sum = feature_sum(unit_roundoff(Format::fp32), terms, {}, expected);
  for (Eigen::Index b = 0; arithmetic.fused_branches && b < 3; ++b) {
    for (Eigen::Index d = 0; d < dv; ++d) {
      const double o = outputs[static_cast<std::size_t>(b)][d], s = spacing(o, arithmetic.output);
      sum.variance[d] += square(gates[b] * s) / 12;
      sum.worst[d] += std::abs(gates[b]) * s / 2;
    }
  }
  RowErrors errors(dv);
  errors.separate = sum.variance;
  RowNoise noise = finished(arithmetic, sum.variance, sum.worst, Vector::Zero(dv), 3,
                            std::max(1.0, gates.cwiseAbs().maxCoeff()));  // A5: of what a gate multiplies
  return stored(std::move(expected), {std::move(errors), std::move(noise)}, arithmetic.output);
}

PredictedRow gate_gradient_noise(const Arithmetic& arithmetic, const Row& d_o, const BranchRows& outputs) {
  const double n = static_cast<double>(d_o.size()), u = unit_roundoff(Format::fp32);
  Vector expected(3), worst(3);
  RowErrors errors(3);
  for (Eigen::Index b = 0; b < 3; ++b) {
    const Matrix terms = d_o.cwiseProduct(outputs[static_cast<std::size_t>(b)]);  // [dv, 1]
    const Vector magnitudes = terms.cwiseAbs();
    expected[b] = terms.sum();
    errors.separate[b] = accumulation_variance(u, n, terms.squaredNorm(), expected[b]) +
                         square(magnitudes.sum()) * repetition_variance(u, sorted(magnitudes)) +  // A6
                         order_variance(u, Vector::Ones(d_o.size()), terms, {})[0];               // A7
    worst[b] = (n + 2) * u * magnitudes.sum();
  }
  RowNoise noise = finished(arithmetic, errors.separate, worst, Vector::Zero(3), n, 1);
  return stored(std::move(expected), {std::move(errors), std::move(noise)}, arithmetic.output);
}

}  // namespace attnspec::reference
