#include "reference/noise/importance_noise.hpp"

#include <cmath>

#include "reference/noise/attention_noise.hpp"

namespace attnspec::reference {

Vector importance_margins(const Arithmetic& arithmetic, const NsaProblem& problem, const Matrix& q,
                          const KeyValues& keys, std::int64_t t, const Vector& importance) {
  const Arithmetic fp32{
      .input = arithmetic.input, .weights = Format::fp32, .output = Format::fp32, .products = arithmetic.products};
  const Eigen::Index blocks = importance.size();
  const KeyRange visible{0, num_visible_compressed(problem, t)};
  Vector variance = Vector::Zero(blocks), worst = variance, floor = variance;
  if (visible.end == 0) return variance;
  for (Eigen::Index h = 0; h < q.rows(); ++h) {
    const Vector query = q.row(h).transpose();
    const RowInputs in{query, keys, {&visible, 1}, problem.attention.scale};
    const AttendedRow row = attend({query, keys.k, keys.v}, {&visible, 1}, problem.attention.scale);
    const AttentionNoise noise = attention_noise(fp32, in, row);
    variance += noise.o.variance.head(blocks);
    worst += noise.o.worst.head(blocks);
    floor += noise.o.floor.head(blocks);
    if (noise.range)  // p_slc takes the rounded lse, and nothing bounds it by 1: A8
      floor += combination(exponential_range(row.scores, 2 * noise.range->errors, row.lse), keys.v, {&visible, 1})
                   .head(blocks);
  }
  const double u32 = unit_roundoff(Format::fp32), heads = static_cast<double>(q.rows());
  variance += accumulation_variance(u32, heads, 0, 1) * importance.cwiseAbs2();
  worst += heads * u32 * importance;
  return worst.cwiseMin(kKappa * variance.cwiseSqrt()) + floor;
}

}  // namespace attnspec::reference
