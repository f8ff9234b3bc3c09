// The operands of products as a kernel has them: rounded to tf32, or multiplied by the softmax scale and rounded. They
// are exact functions of the inputs, so that they cost no power. docs/numerics.md, tags T1, T2.
#pragma once

#include <optional>
#include <utility>

#include "reference/noise/arithmetic.hpp"
#include "reference/tensor.hpp"

namespace attnspec::reference {

/// A tensor that products read: one that was given and must outlive this, or another one in its place.
class Operand {
 public:
  explicit Operand(const Tensor& given) : given_(&given) {}
  explicit Operand(Tensor&& changed) : changed_(std::move(changed)) {}

  const Tensor& operator*() const { return changed_ ? *changed_ : *given_; }
  const Tensor* operator->() const { return &**this; }

 private:
  const Tensor* given_ = nullptr;
  std::optional<Tensor> changed_;
};

/// The format of operands that come from fp32 tensors: tf32 where tensor cores multiply them. Tag T2.
Format operand_format(const Arithmetic& arithmetic);

/// x as products read it. Tag T2.
Operand product_operand(const Arithmetic& arithmetic, const Tensor& x);

/// RN(fl32(x f)), as products read it, with f = fl32(scale), or fl32(scale log2 e). Tag T1.
Operand scaled_operand(const Arithmetic& arithmetic, double scale, const Tensor& x);

/// What scores are multiplied with whose one operand is scaled already: 1, or ln 2. Tag T1.
double factor_of_scaled(const Arithmetic& arithmetic);

/// Queries and keys as the products of scores read them, and what multiplies the products. Forward, and backward.
struct ScoreOperands {
  Operand q, k;
  double scale;
};
ScoreOperands forward_operands(const Arithmetic& arithmetic, double scale, const Tensor& q, const Tensor& k);
ScoreOperands backward_operands(const Arithmetic& arithmetic, double scale, const Tensor& q, const Tensor& k);

}  // namespace attnspec::reference
