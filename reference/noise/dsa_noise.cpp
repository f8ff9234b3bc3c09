#include "reference/noise/dsa_noise.hpp"

namespace attnspec::reference {

Vector score_margins(const Arithmetic& arithmetic, const Matrix& qi, const Row& w, const Rows& ki, const Vector& ties) {
  const double u32 = unit_roundoff(Format::fp32), heads = static_cast<double>(qi.rows());
  const double scale = std::sqrt(heads * static_cast<double>(qi.cols()));  // what a kernel divides by before it flushes
  std::vector<IndexNoise> noise;
  for (Eigen::Index h = 0; h < qi.rows(); ++h)
    noise.push_back(index_noise(arithmetic, qi.row(h).transpose(), ki, ties));
  Vector margins(ki.rows()), terms(qi.rows());
  for (Eigen::Index j = 0; j < ki.rows(); ++j) {
    double variance = 0, worst = 0, floor = (heads + 2) * kFlushed * scale;
    for (Eigen::Index h = 0; h < qi.rows(); ++h) {
      const IndexNoise& head = noise[static_cast<std::size_t>(h)];
      terms[h] = 0;
      if (head.x[j] + head.margin(j) < 0) continue;  // ReLU is 0, whatever the error
      terms[h] = w[h] * std::max(0.0, head.x[j]);
      variance += square(w[h]) * head.variance[j] + 4 * square(kRounding * u32 * terms[h]);
      worst += std::abs(w[h]) * head.worst[j] + (heads + 4) * u32 * std::abs(terms[h]);
      floor += std::abs(w[h]) * (head.floor[j] + scale * kFlushed);
      if (std::abs(w[h]) < scale * kFlushed) floor += std::abs(terms[h]);
    }
    variance += sum_variance(u32, terms, max_ties(terms)) + 2 * square(kRounding * u32 * terms.sum());
    worst += 2 * u32 * terms.cwiseAbs().sum();
    margins[j] = std::min(worst, kKappa * std::sqrt(variance)) + floor;
  }
  return margins;
}

Vector score_bounds(const Arithmetic& arithmetic, const Matrix& qi, const Row& w, const Vector& norms) {
  const double u32 = unit_roundoff(Format::fp32), heads = static_cast<double>(qi.rows());
  const double scale = std::sqrt(heads * static_cast<double>(qi.cols()));
  Vector bounds = Vector::Constant(norms.size(), (heads + 2 + w.cwiseAbs().sum()) * kFlushed * scale);
  for (Eigen::Index h = 0; h < qi.rows(); ++h) {
    const Row q = qi.row(h).transpose();
    bounds += std::abs(w[h]) * index_bounds(arithmetic, q, norms);
    bounds += ((heads + 6) * u32 * std::abs(w[h]) + scale * kFlushed) * q.norm() * norms;
  }
  return bounds;
}

}  // namespace attnspec::reference
