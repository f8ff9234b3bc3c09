// How far a kernel's gate scores may lie from the exact ones. docs/numerics.md, tags G1 and G2.
#pragma once

#include "reference/noise/noise.hpp"

namespace attnspec::reference {

/// The noise of the mean keys of one sequence and kv head, each summed in fp32.
struct PoolNoise {
  Matrix variance;  // [n, dk]
  Matrix mean_abs;  // [n, dk], mean over the block of |k|
  Vector tokens;    // [n], tokens the block has
};
PoolNoise pool_noise(const Rows& k, const Matrix& pooled, std::int64_t block);

/// e_b = min(worst, kappa sqrt(variance)) of the score of block b, for the first scores.size() blocks.
/// q [dk]; pooled as pool_keys gives it; scores as gate_scores gives them.
Vector score_margins(const Arithmetic& arithmetic, const Row& q, const Matrix& pooled, const PoolNoise& noise,
                     const Vector& scores);

}  // namespace attnspec::reference
