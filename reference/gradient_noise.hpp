// The predicted noise of attention's backward: dq of one query row, dk and dv of one key. docs/numerics.md, tags
// E1 to E5. The o, lse and selection that the backward was given are exact here.
#pragma once

#include <vector>

#include "reference/attention_noise.hpp"

namespace attnspec::reference {

/// What the backward was given for one query row: do [dv], o [dv], lse.
struct RowGiven {
  Row d_o;
  Row o;
  double lse;
};

/// The independent errors with which one query row enters the gradients; n as in RowGradient.
struct GradientTerms {
  Vector p_variance, p_worst, p_floor;          // [n], of P as it enters dv
  Vector ds_variance, ds_worst, ds_floor;       // [n], of dS: the part that is independent from key to key
  double delta_variance = 0, lse_variance = 0;  // relative to P and to dS: the part that all keys of the row share
};

/// row: `attend_backward` on the same inputs, over any part of the row's keys. Tags E1 to E4.
GradientTerms gradient_terms(const Profile& profile, const RowInputs& in, const RowGiven& given,
                             const RowGradient& row);

/// The noise of dq, [dk]. dq: `query_gradient` of the same row. A row without keys has none. Tag E5.
RowNoise query_gradient_noise(const Profile& profile, const RowInputs& in, const GradientTerms& terms,
                              const RowGradient& row, const Vector& dq);

/// Covariance of the same errors, [dk, dk].
Matrix query_gradient_covariance(const Profile& profile, const RowInputs& in, const GradientTerms& terms,
                                 const RowGradient& row, const Vector& dq);

/// The noise of the gradients of some keys, summed over query rows.
struct KeyNoise {
  Matrix variance, worst, floor;  // [keys, dim]

  KeyNoise(std::int64_t keys, std::int64_t dim)
      : variance(Matrix::Zero(keys, dim)), worst(Matrix::Zero(keys, dim)), floor(Matrix::Zero(keys, dim)) {}
};

/// Weights [n] with which a query row's do^2 (q^2) enters the variance of dv (dk), of num_terms accumulated terms.
Vector dv_weights(const Profile& profile, const GradientTerms& terms, const RowGradient& row, double num_terms);
Vector dk_weights(const Profile& profile, const GradientTerms& terms, const RowGradient& row, double num_terms,
                  double scale);

/// Whether a row weights all of its keys alike, as far as fp32 can tell.
bool is_even(const RowGradient& row);

/// Adds one query row over the one range `visible`, as add_key_gradient does. Tags E1 to E4.
void add_key_noise(const Profile& profile, const RowInputs& in, const RowGiven& given, const GradientTerms& terms,
                   const RowGradient& row, std::int64_t first_key, double num_terms, KeyNoise& dk, KeyNoise& dv);

/// What a whole sum shares, as a variance relative to its square: accumulation, and for dv equal weights. Tags E5, A6.
/// even_weights: the weight of each row that weights all keys of the sum alike; where those repeat, dv drifts.
double shared_dv_variance(const Profile& profile, double num_terms, const std::vector<double>& even_weights);
double shared_dk_variance(const Profile& profile, double num_terms);

/// The noise of one finished gradient row [dim] of num_terms terms: its sums, what it shares, its output rounding.
/// factor: the largest a kernel multiplies the sum with at its end (dk: max(1, sigma); dv: 1). No terms: no noise.
RowNoise finished_key_noise(const Profile& profile, const KeyNoise& sums, std::int64_t key, double shared_variance,
                            double num_terms, double factor, const Vector& gradient);

}  // namespace attnspec::reference
