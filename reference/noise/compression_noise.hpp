// The predicted noise of the rows that NSA's compression phi makes. docs/numerics.md, tags P1 and P2.
//
// Letters as in nsa_compression.hpp: l tokens of a block, x its tokens; and z = x + position.
#pragma once

#include <optional>

#include "reference/noise/sum_noise.hpp"
#include "reference/nsa/nsa_compression.hpp"

namespace attnspec::reference {

/// Rows that are summed, with the squares and magnitudes that predictions sum.
struct SummedRows {
  std::shared_ptr<const Matrix> y;  // [n, dim]
  Matrix squares, magnitudes;       // [n, dim]
  Groups equal;                     // of rows that are alike

  explicit SummedRows(Matrix rows = {});
};

/// What 1 / l and the product with it round: nothing if l is a power of two. P1.
double roundings_of_mean(double l);

/// The parameters as products read them: tag T2.
PhiParameters product_operands(const Arithmetic& arithmetic, PhiParameters phi);

/// Whether phi adds position W as one row, rounded, to the rounded x W. Tag C1.
bool has_position_bias(const Arithmetic& arithmetic, const NsaProblem& problem);

/// Adds the roundings of two parts that are stored before their sum is. A part next to one that is 0 is the sum. Tag
/// C1.
void add_stored_parts(const Vector& one, const Vector& other, Format format, SumNoise& sum);

/// What a kernel makes of the tokens of one block on the way to its row, and how far it may lie from the exact numbers.
/// The linear phi has z alone, the mean nothing.
struct BlockNoise {
  Vector row;                              // [features], the exact row
  Vector z, z_error, z_floor;              // [l features]; z_error: what rounding z to the format of products does
  Vector hidden, hidden_move;              // [hidden], before the activation; the move that the z_error make
  Vector act, act_move;                    // [hidden], after it
  Vector hidden_accumulation;              // [hidden], the part of hidden's variance that z_error do not make
  RowNoise hidden_noise{0}, act_noise{0};  // [hidden]
};

/// The noise of compressed rows, for one set of parameters. Tags P1, P2, C1.
class CompressionNoise {
 public:
  CompressionNoise(const Arithmetic& arithmetic, const NsaProblem& problem, PhiParameters phi);

  /// x [l, features], the tokens of a block; the row is stored in the arithmetic's input format. Tags P1, P2.
  PredictedRow row(const Rows& x) const;

  /// Tags P1, P2.
  BlockNoise block(const Rows& x) const;

 private:
  void add_hidden(BlockNoise& block) const;
  void add_activation(BlockNoise& block) const;
  PredictedRow mean_row(const Rows& x, const Vector& row) const;
  PredictedRow row_with_bias(const BlockNoise& block) const;

  Arithmetic arithmetic_;
  NsaProblem problem_;
  PhiParameters phi_;
  SummedRows w_, w1_, w2_;
  Vector bias_;  // [features], W^T position, where phi adds it as one row: C1; or empty
  std::optional<SumNoise> bias_noise_;
};

}  // namespace attnspec::reference
