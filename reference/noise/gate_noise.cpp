#include "reference/noise/gate_noise.hpp"

#include <algorithm>
#include <cmath>

#include "reference/noise/operands.hpp"

namespace attnspec::reference {

PoolNoise pool_noise(const Rows& k, const Matrix& pooled, std::int64_t block) {
  const double u32 = unit_roundoff(Format::fp32);
  PoolNoise noise{Matrix(pooled.rows(), pooled.cols()), Matrix(pooled.rows(), pooled.cols()), Vector(pooled.rows())};
  for (Eigen::Index b = 0; b < pooled.rows(); ++b) {
    const auto keys = k.middleRows(b * block, std::min<Eigen::Index>(block, k.rows() - b * block));
    const double n = static_cast<double>(keys.rows());
    noise.tokens[b] = n;
    noise.mean_abs.row(b) = keys.cwiseAbs().colwise().mean();
    const double squares = accumulation_variance(u32, n, 1, 0) / (n * n), sum = accumulation_variance(u32, n + 6, 0, 1);
    noise.variance.row(b) = squares * keys.cwiseAbs2().colwise().sum() + sum * pooled.row(b).cwiseAbs2();
  }
  return noise;
}

namespace {

/// What flushing may take from a score: every product, of the sum, and of what is multiplied, a mean included, whose
/// own sum may have been flushed too. Tag G3.
double flushed(const Row& q, const Eigen::RowVectorXd& mean) {
  const auto is_flushed = [](double x) { return std::abs(x) < kFlushed; };
  const double dk = static_cast<double>(q.size());
  double sum = (dk + 2) * kFlushed + 4 * kFlushed * q.cwiseAbs().sum();
  for (Eigen::Index d = 0; d < q.size(); ++d)
    if (is_flushed(q[d])) sum += std::abs(q[d] * mean[d]);
  return sum;
}

}  // namespace

Vector score_margins(const Arithmetic& arithmetic, const Row& q, const Matrix& pooled, const PoolNoise& noise,
                     const Vector& scores) {
  const double dk = static_cast<double>(q.size()), u32 = unit_roundoff(Format::fp32);
  const Format operands = operand_format(arithmetic);
  const Vector q_error = q.unaryExpr([&](double x) { return round_to(x, operands) - x; });  // T2
  Vector margins(scores.size());
  Eigen::ArrayXd terms(q.size());
  for (Eigen::Index b = 0; b < scores.size(); ++b) {
    terms = q.array() * pooled.row(b).transpose().array();
    double rounding = 0, rounding_largest = 0;  // of the stored mean key: G1
    if (arithmetic.pooled != Format::fp32) {
      for (Eigen::Index d = 0; d < q.size(); ++d) {
        rounding += q[d] * q[d] * rounding_variance(pooled(b, d), arithmetic.pooled);
        rounding_largest += std::abs(q[d]) * rounding_worst(pooled(b, d), arithmetic.pooled);
      }
    }
    if (arithmetic.products != Fp32Products::exact) {  // T2: of the operands, which a kernel may round or not
      rounding += q_error.cwiseAbs2().dot(pooled.row(b).cwiseAbs2().transpose());
      rounding_largest += q_error.cwiseAbs().dot(pooled.row(b).cwiseAbs().transpose());
      for (Eigen::Index d = 0; d < q.size(); ++d) {
        rounding += q[d] * q[d] * square(kRounding * unit_roundoff(operands) * pooled(b, d));
        rounding_largest += std::abs(q[d]) * rounding_worst(pooled(b, d), operands);
      }
    }
    const double variance = rounding + (q.array().square() * noise.variance.row(b).transpose().array()).sum() +
                            term_variance(arithmetic, dk) * terms.square().sum() +
                            accumulation_variance(accumulator_roundoff(arithmetic), dk, 0, scores[b]);  // G2
    const double worst =
        rounding_largest +
        (noise.tokens[b] + 2) * u32 * (q.array().abs() * noise.mean_abs.row(b).transpose().array()).sum() +
        term_worst(arithmetic, dk + 2) * terms.abs().sum();
    margins[b] = std::min(worst, kKappa * std::sqrt(variance)) + flushed(q, pooled.row(b));
  }
  return margins;
}

}  // namespace attnspec::reference
