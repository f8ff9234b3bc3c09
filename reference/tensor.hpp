// The containers of the specification: packed tensors in double, and block selections.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace attnspec::reference {

using Vector = Eigen::VectorXd;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// Rows of one head, a view into a packed tensor: [tokens, dim].
using Rows = Eigen::Map<const Matrix>;
/// One row of one head, a view into a packed tensor or a vector of its own: [dim].
using Row = Eigen::Ref<const Vector>;

/// All rows of a matrix, which must outlive the view.
inline Rows view(const Matrix& matrix) { return {matrix.data(), matrix.rows(), matrix.cols()}; }

/// A packed tensor of doubles, zero when made: a row of `dim` numbers for every token and head. Comments give its shape
/// as [tokens, heads, dim]. The rows of one head lie together.
struct Tensor {
  std::int64_t tokens = 0, heads = 0, dim = 0;
  std::vector<double> values;  // feature d of (token, head) is values[(head * tokens + token) * dim + d]

  Tensor() = default;
  Tensor(std::int64_t num_tokens, std::int64_t num_heads, std::int64_t num_features)
      : tokens(num_tokens),
        heads(num_heads),
        dim(num_features),
        values(static_cast<std::size_t>(num_tokens * num_heads * num_features)) {}

  double* at(std::int64_t token, std::int64_t head) { return values.data() + (head * tokens + token) * dim; }
  const double* at(std::int64_t token, std::int64_t head) const {
    return values.data() + (head * tokens + token) * dim;
  }

  /// One row, [dim].
  Eigen::Map<Vector> row(std::int64_t token, std::int64_t head) { return {at(token, head), dim}; }
  Eigen::Map<const Vector> row(std::int64_t token, std::int64_t head) const { return {at(token, head), dim}; }

  /// The rows begin .. end - 1 of one head, [end - begin, dim].
  Rows rows(std::int64_t begin, std::int64_t end, std::int64_t head) const {
    return {at(begin, head), end - begin, dim};
  }
};

/// The key blocks each query attends to, [tokens, heads, slots]: block indices within the query's own sequence, -1 =
/// empty slot, in any order. heads is the number of query heads, or of kv heads when a group shares its blocks. The
/// slots of one row lie together.
struct Selection {
  std::int64_t tokens = 0, heads = 0, slots = 0;
  std::vector<std::int32_t> blocks;  // slot s of (token, head) is blocks[(token * heads + head) * slots + s]

  Selection() = default;
  Selection(std::int64_t num_tokens, std::int64_t num_heads, std::int64_t num_slots)
      : tokens(num_tokens),
        heads(num_heads),
        slots(num_slots),
        blocks(static_cast<std::size_t>(num_tokens * num_heads * num_slots), -1) {}

  std::span<std::int32_t> row(std::int64_t token, std::int64_t head) {
    return {blocks.data() + (token * heads + head) * slots, static_cast<std::size_t>(slots)};
  }
  std::span<const std::int32_t> row(std::int64_t token, std::int64_t head) const {
    return {blocks.data() + (token * heads + head) * slots, static_cast<std::size_t>(slots)};
  }
};

}  // namespace attnspec::reference
