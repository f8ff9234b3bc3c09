// The predicted noise of what phi's backward stores: the gradients of tokens and of parameters. docs/numerics.md, tags
// P3 to P5, C1, E7. The gradients of the compressed rows that it was given are exact here.
//
// Letters as in nsa_compression.hpp: l tokens of a block, x its tokens; z = x + position; and B blocks, of all
// sequences and of all kv heads that share the parameters.
#pragma once

#include <optional>
#include <vector>

#include "reference/noise/compression_noise.hpp"

namespace attnspec::reference {

/// What all blocks know of their hidden units, [B, hidden]: activations, and the gradients before them. Tags P2, P4.
struct HiddenUnits {
  Matrix act, act_move, act_variance, act_worst, act_floor;
  Matrix d_hidden;
  Matrix by_z, by_d_row;      // deviations of d_hidden, signed: of what equal z share, and what equal d_row share
  Matrix move, worst, floor;  // of d_hidden; move: by the known roundings of z

  explicit HiddenUnits(std::int64_t num_blocks = 0, std::int64_t hidden = 0);
};

/// A matrix that products of phi's backward multiply vectors with.
struct Factor {
  SummedRows rows;
  Matrix transposed;
  Vector ties;  // of every row: max_ties

  explicit Factor(const Matrix& matrix);
};

/// The noise of all gradients of phi, for one set of parameters. Every row below is stored in the arithmetic's output
/// format.
class CompressionGradientNoise {
 public:
  /// set: of phi, and so the kv head unless all share one; tokens and d_rows of all kv heads, as `compress_backward`
  /// takes them.
  CompressionGradientNoise(const Arithmetic& arithmetic, const NsaProblem& problem, const PhiHeads& phi,
                           const Tensor& tokens, const Tensor& d_rows, std::int64_t set);

  /// The exact gradients of the parameters.
  const PhiParameters& expected() const { return expected_; }

  /// Row i of a parameter's gradient; a bias has one row. Tags P3, P4, P5.
  PredictedRow position(std::int64_t i) const;  // [features]
  PredictedRow w(std::int64_t i) const;         // [features]
  PredictedRow w1(std::int64_t i) const;        // [hidden]
  PredictedRow b1() const;                      // [hidden]
  PredictedRow w2(std::int64_t i) const;        // [features]
  PredictedRow b2() const;                      // [features]

  /// The gradient of a token of a kv head that has these parameters, [features]; zero if no block has it. Tags P3, P4.
  PredictedRow token(std::int64_t token, std::int64_t kv_head) const;

 private:
  /// A block, and a place 0 .. l - 1 in it.
  struct Part {
    std::int64_t block, s;
  };
  struct BlockPlace {
    std::int64_t begin, row, kv_head;  // its first token, its compressed row
  };
  /// What every block's gradient is multiplied with, [B], and its errors.
  struct Inputs {
    Vector values, variance, worst, floor, move;
    Groups equal;  // blocks whose values are equal and err together, if their move does not say so
  };

  void set_hidden(std::int64_t b, const BlockNoise& block, const Factor& w2, const Vector& d_row);
  double roundoff_of_inputs() const;  // of the sums that make gradients of tokens
  void set_input_gradients(const Matrix& to_input);
  std::int64_t num_blocks() const { return static_cast<std::int64_t>(blocks_.size()); }
  Inputs inputs(std::int64_t i) const;
  Inputs ones() const;
  /// row_of_w: of W, to whose gradient position adds its part where phi has it as a bias. Tag C1.
  PredictedRow sum_of_d_rows(const Inputs& in, Vector expected, std::optional<std::int64_t> row_of_w = {}) const;
  PredictedRow sum_of_d_hidden(const Inputs& in, Vector expected) const;
  /// The gradient of a token or, if is_parameter, of a row of position.
  PredictedRow input_gradient(const std::vector<Part>& parts, bool is_parameter) const;
  /// The roundings of each kv head's part of a parameter's gradient, sum_b values_b y_b. Tag E7.
  void add_head_parts(const Vector& values, const Matrix& y, const Vector& expected, SumNoise& sum) const;
  PredictedRow through_hidden(const std::vector<Part>& parts, RowErrors errors, const Vector& worst,
                              Vector expected) const;

  Arithmetic arithmetic_;
  NsaProblem problem_;
  std::int64_t features_;
  PhiParameters expected_;
  std::vector<BlockPlace> blocks_;  // [B]
  SummedRows to_input_;             // W or W1, [l features, features or hidden]
  SummedRows d_rows_, d_hidden_;    // [B, features], [B, hidden]
  Matrix z_, z_error_, z_floor_;    // [l features, B]
  Groups equal_z_;                  // blocks with equal z
  HiddenUnits units_;
  Vector position_;  // [l features], where phi adds it as one row: C1; or empty
  // Where phi adds position as one row, [features]: the sum S of all d_rows, what rounding it does, and its whole
  // error.
  Vector d_bias_, d_bias_error_, d_bias_deviation_, d_bias_worst_;
  Matrix dx_, dx_deviation_, dx_worst_;  // [B, l features], every block's gradient of its tokens; its accumulation
};

}  // namespace attnspec::reference
