// The noise a correct kernel makes: what the predictions of attention_noise, gradient_noise, compression_noise,
// compression_gradient_noise, gate_noise, nsa_gate_noise and importance_noise share; sums of rows are in sum_noise.
// docs/numerics.md derives each term under the tag given here.
//
// Every stage is judged on the inputs it really had, so no prediction knows about the stage before: o on the kernel's
// own selection; the gradients on the o, lse and selection the backward was given.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "reference/attention.hpp"
#include "reference/noise/arithmetic.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

inline double square(double x) { return x * x; }

/// C: standard deviation of one rounding over u |x|, for a mantissa spread log-uniformly: sqrt(1/(8 ln 2)).
inline constexpr double kRounding = 0.42466;

/// kappa: the number of standard deviations at which an error is no longer noise.
inline constexpr double kKappa = 7;

/// Largest relative error of exp in fp32 (the hardware's ex2.approx with its range reduction).
inline constexpr double kExpError = 0x1p-21;

/// fp32 arithmetic may flush results below this to zero. Tag A5.
inline constexpr double kFlushed = 0x1p-126;

/// The predicted errors of one output row. An element is right if |error| <= min(worst, kappa sqrt(variance)) + floor.
struct RowNoise {
  Vector variance;  // [n]
  Vector rounding;  // [n], the part of the variance that the rounding of the stored output makes
  Vector worst;     // [n], the same roundings, each at its largest and all in step
  Vector floor;     // [n], what flushes to zero shares a sign and does not average out: its sum

  explicit RowNoise(std::int64_t n)
      : variance(Vector::Zero(n)), rounding(Vector::Zero(n)), worst(Vector::Zero(n)), floor(Vector::Zero(n)) {}
};

/// Variance of rounding x once when its mantissa is not known (a running maximum scales it): tag A1,
/// max((C u x)^2, min(x^2, s^2/12)), s the spacing of subnormals. Where x is cut: around the mean of such errors.
double rounding_variance(double x, Format format);

/// Largest error of rounding x once: max(u |x|, min(|x|, s/2)).
double rounding_worst(double x, Format format);

/// Whether a weight may vanish when it is rounded: below half a subnormal spacing, or flushed by fp32. Tag A5.
bool may_flush(double x, Format format);

/// Unit roundoff of the accumulator: fp32, twice that where tensor cores may truncate. Tag A2.
double accumulator_roundoff(const Arithmetic& arithmetic);

/// Variance of a sum of n terms accumulated in any order, from the sum of their squares and their sum. Tag A2:
/// (C u)^2 (n/2 sum x^2 + n/3 (sum x)^2).
double accumulation_variance(double roundoff, double n, double squares, double sum);

/// The same for one term of a product of n terms, relative to its square; three products of tf32 parts drop a little
/// of every term. And its worst case, relative to its magnitude. Tags A2, T3.
double term_variance(const Arithmetic& arithmetic, double n);
double term_worst(const Arithmetic& arithmetic, double n);

/// Variance along a sum of products whose operands were cut: the mean of their errors, which all terms share. Tags T2,
/// T3.
double common_variance(const Arithmetic& arithmetic);

/// Deviation of all scores of a call relative to each: the scale and its product with log2 e are rounded once for all.
/// Tag A4.
inline constexpr double kScaleError = 1.4142135623730951 * kRounding * 0x1p-24;

/// Indices of values that fp32 cannot tell apart, in groups of two and more: |x - y| <= 2^-22 |x|. Zeros are in none.
/// What is computed from equal numbers in the same way has equal errors: tags F6, E6. sorted: the values, ascending.
using Groups = std::vector<std::vector<Eigen::Index>>;
Groups equal_groups(const Vector& values, const Vector& sorted);
Groups equal_groups(const Vector& values);

/// The values, ascending.
Vector sorted(Vector values);

/// Deviation that m equal terms add to a sum whose partial sums stay below `largest`, `total` being the sum of their
/// magnitudes. Tag A6: adding the same number to a partial sum rounds the same way every time while the sum keeps its
/// exponent, so that the errors drift instead of averaging out: min(m C u / 2 largest, total).
double drift(double roundoff, double num_equal, double largest, double total);

/// Variance of the drifts of a sum of positive terms, relative to its square. Tag A6: terms that differ by less than u
/// of the sum are equal. terms: ascending.
double repetition_variance(double roundoff, const Vector& terms);

/// The largest number of elements with the same magnitude, zeros aside.
double max_ties(const Vector& x);

/// Deviation that equal terms add to a product sum_i a_i b_i, `magnitude` being that of |a| and |b|. Tag A6: terms are
/// equal where a and b both repeat, so `ties` is the smaller of their max_ties. Up to three are within A2: 0.
double product_drift(double roundoff, double ties, double magnitude, double product);

/// Adds the rounding of the stored output, whose mantissa is known, to a row's noise. Tag A3.
void add_output_rounding(const Vector& expected, Format output, RowNoise& noise);

/// A label for every row of y that occurs more than once, the same for equal rows; -1 for the others. Empty: no row
/// occurs twice, as is usual.
std::vector<int> repeated_rows(const Rows& y);

/// Keys and values of one sequence and kv head, with the squares and magnitudes that predictions sum.
struct KeyValues {
  Rows k, v;                            // [T, dk], [T, dv]; not owned
  Matrix k_squares, v_squares;          // of every element
  Matrix k_magnitudes, v_magnitudes;    // of every element
  std::vector<int> k_labels, v_labels;  // repeated_rows

  KeyValues(const Rows& keys, const Rows& values);
};

/// The keys that ranges list, in order.
std::vector<std::int64_t> keys_of(std::span<const KeyRange> visible);

/// Indices into `keys`, in groups of two and more, of those with the same label.
Groups repeated(const std::vector<std::int64_t>& keys, const std::vector<int>& labels);

/// What one query row was computed from: q [dk], the keys and values, and the key ranges it sees.
struct RowInputs {
  Row q;
  const KeyValues& kv;
  std::span<const KeyRange> visible;
  double scale;
};

/// Errors of the scores of one query row as a kernel computes them, as relative errors of exp(score - offset). Tag A4.
/// offset: what is subtracted before exp (the maximum, or lse); its own error is not among them.
struct ScoreNoise {
  Vector variance, worst;  // [n]
};
ScoreNoise score_noise(const Arithmetic& arithmetic, const RowInputs& in, const Vector& scores, double offset);

/// The independent errors of one output row [dim] that is a weighted sum of n rows y_j [dim] (values, keys, queries or
/// do): each moves the output along one direction. `centre` is the output itself.
struct RowErrors {
  Vector along;                // [n], variances of the errors along y_j
  Vector along_centred;        // [n], of those along y_j - centre; empty: none
  double along_centre = 0;     // of the error along centre
  std::vector<Vector> shared;  // directions that several y_j share, each as long as its deviation
  Vector separate;             // [dim], variances of errors of single features

  explicit RowErrors(std::int64_t dim) : separate(Vector::Zero(dim)) {}
};

/// Terms scale weights_j y_j of a sum that are equal drift: tag A6. Terms are equal where their rows are (equal_rows)
/// and their weights differ by less than u of the sum of all. y(j) is row j [dim]; centre [dim] the sum.
void add_drifts(double roundoff, const Vector& weights, const Groups& equal_rows, double scale,
                const std::function<Vector(Eigen::Index)>& y, const Vector& centre, RowErrors& errors);

/// Variance of every feature, [dim]. squares: y_j^2. Rows as `visible` lists them.
Vector variance(const RowErrors& errors, const Rows& y, const Matrix& squares, std::span<const KeyRange> visible,
                const Vector& centre);

/// The covariance C, [dim, dim], of such errors and the rounding of the output.
struct Covariance {
  const RowErrors& errors;
  Rows y;
  std::span<const KeyRange> visible;
  const Vector& centre;                // [dim]
  const Vector& rounding;              // [dim]
  std::vector<Covariance> parts = {};  // of independent terms that the row also sums, such as the branches of NSA

  /// <w, C w>: the variance of <w, error>.
  double along(const Vector& w) const;
  Matrix matrix() const;
};

/// n_eff = trace / largest eigenvalue: over how many independent directions an error spreads, 1 .. dim. The eigenvalue
/// is bounded from above by the 32nd root of trace(covariance^32), at most dim^(1/32) too large. Tag R1.
double effective_terms(const Matrix& covariance);

/// n_eff from which R must be near 1.
inline constexpr double kManyTerms = 8;

/// The length of a correct error vector stays below row_limit * sqrt(trace of its covariance). The length concentrates
/// around its mean with the deviation of its largest principal direction: 1 + kappa / sqrt(n_eff). Tag R1.
double row_limit(double effective_terms);

}  // namespace attnspec::reference
