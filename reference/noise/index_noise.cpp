#include "reference/noise/index_noise.hpp"

#include <algorithm>
#include <cmath>

#include "reference/noise/operands.hpp"

namespace attnspec::reference {

namespace {

/// How far the product of operands that are rounded or cut to tf32 lies from that of the operands: T2.
double tf32_move(const Arithmetic& arithmetic, const Row& q, const Row& k) {
  const Format format = operand_format(arithmetic);
  if (format == Format::fp32) return 0;
  double move = 0;
  for (Eigen::Index d = 0; d < q.size(); ++d) move += round_to(q[d], format) * round_to(k[d], format) - q[d] * k[d];
  return std::abs(move);
}

/// What flushing may take from a product of n terms: every term, their sum, and a term whose operand is flushed. A5.
double flushed(const Row& q, const Row& k) {
  double sum = (static_cast<double>(q.size()) + 2) * kFlushed;
  for (Eigen::Index d = 0; d < q.size(); ++d)
    if (std::min(std::abs(q[d]), std::abs(k[d])) < kFlushed) sum += std::abs(q[d] * k[d]);
  return sum;
}

/// The most lanes that add every so many-th term each: the threads of a warp.
constexpr Eigen::Index kMaxLanes = 32;

/// Sum of the squares of all partial sums where lane i adds the terms i, i + lanes, ... in order. A7.
double squared_partials(const Vector& terms, Eigen::Index lanes) {
  double squares = 0;
  for (Eigen::Index lane = 0; lane < std::min(lanes, terms.size()); ++lane) {
    double partial = 0;
    for (Eigen::Index i = lane; i < terms.size(); i += lanes) squares += square(partial += terms[i]);
  }
  return squares;
}

}  // namespace

Vector max_ties_of_rows(const Rows& k) {
  Vector ties(k.rows());
  for (Eigen::Index j = 0; j < k.rows(); ++j) ties[j] = max_ties(k.row(j).transpose());
  return ties;
}

double sum_variance(double roundoff, const Vector& terms, double ties) {
  const double sum = terms.sum(), magnitude = terms.cwiseAbs().sum();
  const double any_order = accumulation_variance(roundoff, static_cast<double>(terms.size()), terms.squaredNorm(), sum);
  double squares = 0;
  for (Eigen::Index lanes = 1; lanes <= kMaxLanes; lanes *= 2)
    squares = std::max(squares, squared_partials(terms, lanes));
  return std::max(any_order, square(kRounding * roundoff) * squares) +
         square(product_drift(roundoff, ties, magnitude, sum));
}

IndexNoise index_noise(const Arithmetic& arithmetic, const Row& q, const Rows& k, const Vector& ties) {
  const double n = static_cast<double>(q.size()), u = accumulator_roundoff(arithmetic), query_ties = max_ties(q);
  IndexNoise noise{k * q, Vector(k.rows()), Vector(k.rows()), Vector(k.rows())};
  const double dropped = term_variance(arithmetic, n) - accumulation_variance(u, n, 1, 0);  // T3
  const double common = arithmetic.products == Fp32Products::tf32x3 ? common_variance(arithmetic) : 0;
  for (Eigen::Index j = 0; j < k.rows(); ++j) {
    const Vector key = k.row(j).transpose(), terms = q.cwiseProduct(key);
    noise.variance[j] = dropped * terms.squaredNorm() + common * square(noise.x[j]) +
                        sum_variance(u, terms, std::min(query_ties, ties[j]));
    noise.worst[j] = term_worst(arithmetic, n + 2) * terms.cwiseAbs().sum();
    noise.floor[j] = tf32_move(arithmetic, q, key) + flushed(q, key);
  }
  return noise;
}

Vector index_bounds(const Arithmetic& arithmetic, const Row& q, const Vector& norms) {
  const Format format = operand_format(arithmetic);
  const double n = static_cast<double>(q.size()), u = format == Format::fp32 ? 0 : unit_roundoff(format);
  const double share = term_worst(arithmetic, n + 2) + 2 * u + square(u), length = q.norm();
  return share * length * norms.array() + kFlushed * (n + 2 + std::sqrt(n) * (length + norms.array()));
}

}  // namespace attnspec::reference
