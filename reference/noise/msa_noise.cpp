#include "reference/noise/msa_noise.hpp"

namespace attnspec::reference {

Vector score_margins(const Arithmetic& arithmetic, const MsaProblem& problem, const Row& qi, const Rows& ki,
                     const Vector& ties) {
  IndexNoise noise = index_noise(arithmetic, qi, ki, ties);
  const double u32 = unit_roundoff(Format::fp32), flushed = kFlushed * std::sqrt(static_cast<double>(qi.size()));
  Vector highest(noise.x.size());
  for (Eigen::Index j = 0; j < highest.size(); ++j) {
    noise.variance[j] += 2 * square(kRounding * u32 * noise.x[j]);
    noise.worst[j] += 2 * u32 * std::abs(noise.x[j]);
    highest[j] = noise.x[j] + noise.margin(j) + flushed;
  }
  return block_maxima(highest, problem.block) - block_maxima(noise.x, problem.block);
}

Vector score_bounds(const Arithmetic& arithmetic, const MsaProblem& problem, const Row& qi, const Vector& norms) {
  const double u32 = unit_roundoff(Format::fp32), flushed = kFlushed * std::sqrt(static_cast<double>(qi.size()));
  const Vector bounds = index_bounds(arithmetic, qi, norms).array() + 2 * u32 * qi.norm() * norms.array() + flushed;
  return block_maxima(bounds, problem.block);
}

}  // namespace attnspec::reference
