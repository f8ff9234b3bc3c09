// The noise a correct kernel makes: what the predictions of attention_noise, gradient_noise and gate_noise share.
// docs/numerics.md derives each term under the tag given here.
//
// Every stage is judged on the inputs it really had, so no prediction knows about the stage before: o on the kernel's
// own selection; the gradients on the o, lse and selection the backward was given.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "reference/attention.hpp"
#include "reference/format.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// Which sum divides the output.
enum class Normaliser {
  sums_unrounded,  // of the weights before their rounding to `weights`
  sums_rounded,    // of the rounded weights, so that equal rounding errors cancel
};

/// The arithmetic a kernel declares. Products accumulate in fp32; statistics (lse, delta) are fp32.
struct Profile {
  Format input = Format::bf16;    // q, k, v, do
  Format weights = Format::bf16;  // P~ at the product with v; P and dS at the products of the backward
  Format pooled = Format::fp32;   // mean keys
  Format output = Format::bf16;   // o, dq, dk, dv
  Normaliser normaliser = Normaliser::sums_unrounded;
};

/// One line: "bf16 in; P~, P, dS bf16; normaliser sums unrounded weights; mean keys fp32; out bf16".
std::string describe(const Profile& profile);

/// C: standard deviation of one rounding over u |x|, for a mantissa spread log-uniformly: sqrt(1/(8 ln 2)).
inline constexpr double kRounding = 0.42466;

/// kappa: the number of standard deviations at which an error is no longer noise.
inline constexpr double kKappa = 7;

/// Relative error of exp in fp32 (the hardware's ex2.approx with its range reduction).
inline constexpr double kExpError = 0x1p-21;

/// fp32 arithmetic may flush results below this to zero. Tag A5.
inline constexpr double kFlushed = 0x1p-126;

/// The predicted errors of one output row. An element is right if |error| <= min(worst, kappa sqrt(variance)) + floor.
struct RowNoise {
  Vector variance;  // [n]
  Vector worst;     // [n], the same roundings, each at its largest and all in step
  Vector floor;     // [n], what flushes to zero shares a sign and does not average out: its sum

  explicit RowNoise(std::int64_t n) : variance(Vector::Zero(n)), worst(Vector::Zero(n)), floor(Vector::Zero(n)) {}
};

/// Variance of rounding x once when its mantissa is not known (a running maximum scales it): tag A1,
/// max((C u x)^2, min(x^2, s^2/12)), s the spacing of subnormals.
double rounding_variance(double x, Format format);

/// Largest error of rounding x once: max(u |x|, min(|x|, s/2)).
double rounding_worst(double x, Format format);

/// Whether a weight may vanish when it is rounded: below half a subnormal spacing, or flushed by fp32. Tag A5.
bool may_flush(double x, Format format);

/// Unit roundoff of the accumulator: fp32, twice that where tensor cores (16-bit weights) may truncate. Tag A2.
double accumulator_roundoff(const Profile& profile);

/// Variance of a sum of n terms accumulated in any order, from the sum of their squares and their sum. Tag A2:
/// (C u)^2 (n/2 sum x^2 + n/3 (sum x)^2).
double accumulation_variance(double roundoff, double n, double squares, double sum);

/// Variance that equal terms add to it, for positive terms that sum to 1: adding the same number to a partial sum
/// rounds the same way every time while the sum keeps its exponent, so that the errors drift instead of averaging out.
/// Tag A6: sum over groups of m equal terms p of (m min(C u / 2, p))^2. Terms closer than u are equal.
double repetition_variance(double roundoff, const Vector& terms);

/// Adds the rounding of the stored output, whose mantissa is known, to a row's noise. Tag A3.
void add_output_rounding(const Vector& expected, Format output, RowNoise& noise);

/// Scores of one query row as a kernel computes them: exact score, variance and worst case of its error. Tag A4.
/// offset: the magnitude of what is subtracted before exp (the running maximum, or lse).
struct ScoreNoise {
  Vector variance, worst;  // [n]
};
ScoreNoise score_noise(const Profile& profile, const Row& q, const Rows& k, std::span<const KeyRange> visible,
                       double scale, const Vector& scores, double offset);

/// n_eff = trace / largest eigenvalue: over how many independent directions an error spreads, 1 .. dim. The eigenvalue
/// is bounded from above by the 32nd root of trace(covariance^32), at most dim^(1/32) too large. Tag R1.
double effective_terms(const Matrix& covariance);

/// The length of a correct error vector stays below row_limit * sqrt(trace of its covariance). The length concentrates
/// around its mean with the deviation of its largest principal direction: 1 + kappa / sqrt(n_eff). Tag R1.
double row_limit(double effective_terms);

}  // namespace attnspec::reference
