// The predicted noise of attention's backward: dq of one query row, dk and dv of one key. docs/numerics.md, tags
// E1 to E10. The o, lse and selection that the backward was given are exact here.
#pragma once

#include "reference/noise/sum_noise.hpp"

namespace attnspec::reference {

/// delta of one query row, and the error with which a kernel computes it. All of the row's dS share it. floor: the part
/// that does not average out, A8.
struct RowDelta {
  double value = 0, variance = 0, worst = 0, floor = 0;
  double by_scale = 0;  // what a relative error of all scores moves it by: A4
};

/// delta = <do, o> of the o that was given. Tag E3.
RowDelta delta_of_output(const Row& d_o, const Row& o);

/// What the backward was given for one query row: do [dv] as products read it, lse, and what it makes of do and o; and
/// the error of lse where the kernel kept its own to itself, so that lse is the exact one.
struct RowGiven {
  Row d_o;
  double lse;
  RowDelta delta;
  double lse_variance = 0, lse_worst = 0;
};

/// delta = sum_j P_j dP_j over all keys of the row, P from the given lse: what autograd computes, which reads no o. It
/// is another exact function than B3. row: `attend_backward` over these keys. Tag E10.
RowDelta softmax_delta(const Arithmetic& arithmetic, const RowInputs& in, const Row& d_o, double lse,
                       const RowGradient& row);

/// The independent errors with which one query row enters the gradients; n as in RowGradient.
struct GradientTerms {
  Vector score_variance;                   // [n], relative to P and to dS
  Vector dp_variance;                      // [n], of dP - delta, without delta's own error
  Vector rounding;                         // [n], of dS to the format of the products
  Vector p_rounding;                       // [n], of P to it, where dS is made of the rounded P; empty: it is not
  Vector p_variance, p_worst, p_floor;     // [n], of P as it enters dv
  Vector ds_variance, ds_worst, ds_floor;  // [n], of dS: the part that is independent from key to key
  bool is_range = false;                   // errors of scores are in the floors: A8
  double delta_by_scale = 0;
  double delta_variance = 0, lse_variance = 0;  // relative to P and to dS: the part that all keys of the row share
};

/// row: `attend_backward` on the same inputs with the given delta, over any part of the row's keys. Tags E1 to E4, E8,
/// E9.
GradientTerms gradient_terms(const Arithmetic& arithmetic, const RowInputs& in, const RowGiven& given,
                             const RowGradient& row);

using GradientNoise = SumNoise;

/// dq [dk]: `query_gradient` of the same row, with what its sum is multiplied by. parts: for each visible range the
/// number of the part of dq that it is in, or empty: dq is not stored in parts. A row without keys has no noise. Its
/// errors sum the keys. Tags E5, E6, E7.
GradientNoise query_gradient_noise(const Arithmetic& arithmetic, const RowInputs& in, const GradientTerms& terms,
                                   const RowGradient& row, const Vector& dq, double scale,
                                   const std::vector<int>& parts);

/// Everything that enters dk and dv of some keys: the query rows that see any of them, and what they add to each key;
/// 0 where a row does not see a key.
struct KeyTerms {
  Matrix q, q_squares, q_magnitudes;        // [rows, dk]
  Matrix d_o, d_o_squares, d_o_magnitudes;  // [rows, dv]
  Matrix p, ds;                             // [keys, rows]: P, dS
  Matrix p_variance, p_worst, p_floor;      // [keys, rows]
  Matrix ds_variance, ds_worst, ds_floor;   // [keys, rows]
  Matrix p_rounding, ds_rounding;           // [keys, rows], parts of p_variance and ds_variance
  Matrix score_variance, dp_variance;       // [keys, rows]
  Matrix p_by_scale, ds_by_scale;           // [keys, rows]: what a relative error of all scores moves P and dS by
  Matrix d_weights;                         // [keys, rows]: dP - delta, where dS is made of the rounded P; or empty
  std::vector<int> parts;                   // [rows], the part of dk and dv that a row is in; empty: they have no parts
  Groups equal_q, equal_d_o;                // rows with equal q, with equal do
  double scale;                             // of dk
  double num_terms;                         // how many rows a kernel sums: those that selected the block

  KeyTerms(std::int64_t rows, std::int64_t keys, std::int64_t dk, std::int64_t dv, double dk_scale, double terms);

  /// Row i sees the one range in.visible; `first` is the first of these keys.
  void set(const Arithmetic& arithmetic, std::int64_t i, std::int64_t first, const RowInputs& in, const RowGiven& given,
           const RowGradient& row, const GradientTerms& terms);
  /// To be called when all rows are set.
  void complete();
};

/// The noise of one finished gradient of a key, dk [dk] or dv [dv]. No rows: none. Their errors sum q and do. Tags E5
/// to E9.
GradientNoise key_gradient_noise(const Arithmetic& arithmetic, const KeyTerms& terms, std::int64_t key,
                                 const Vector& dk);
GradientNoise value_gradient_noise(const Arithmetic& arithmetic, const KeyTerms& terms, std::int64_t key,
                                   const Vector& dv);

}  // namespace attnspec::reference
