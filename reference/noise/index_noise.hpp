// How far a kernel's products of index queries and index keys may lie from the exact ones: what msa_noise, dsa_noise
// and qsa_noise share. docs/numerics.md, tags G4 and G7.
#pragma once

#include "reference/noise/noise.hpp"

namespace attnspec::reference {

/// For every row the largest number of features of the same magnitude, as max_ties gives it.
Vector max_ties_of_rows(const Rows& k);

/// The errors of x_j = <q, k_j> for n keys. |error| <= min(worst, kappa sqrt(variance)) + floor.
struct IndexNoise {
  Vector x;         // [n], the exact products
  Vector variance;  // [n]
  Vector worst;     // [n], all roundings at their largest and in step
  Vector floor;     // [n], what does not average out: numbers that flush, operands that are rounded to tf32

  double margin(Eigen::Index j) const { return std::min(worst[j], kKappa * std::sqrt(variance[j])) + floor[j]; }
};

/// q [di]; k [n, di]; ties [n], max_ties_of_rows(k). Tag G4.
IndexNoise index_noise(const Arithmetic& arithmetic, const Row& q, const Rows& k, const Vector& ties);

/// No less than the margins of index_noise for keys of those lengths, [n]: all roundings in step, and as many numbers
/// flushed as can be. norms [n], |k_j|. Tag G7.
Vector index_bounds(const Arithmetic& arithmetic, const Row& q, const Vector& norms);

/// Variance of a sum of `terms` that fp32 adds in some order: the larger of A2 and A7, in order and in lanes, and the
/// drift of `ties` equal terms (A6).
double sum_variance(double roundoff, const Vector& terms, double ties);

}  // namespace attnspec::reference
