#include "reference/noise/operands.hpp"

#include <numbers>

namespace attnspec::reference {

Format operand_format(const Arithmetic& arithmetic) {
  if (arithmetic.products == Fp32Products::tf32) return Format::tf32;
  return arithmetic.products == Fp32Products::tf32_truncated ? Format::tf32_cut : Format::fp32;
}

Operand product_operand(const Arithmetic& arithmetic, const Tensor& x) {
  const Format format = operand_format(arithmetic);
  if (format == Format::fp32) return Operand(x);
  Tensor rounded = x;
  for (double& value : rounded.values) value = round_to(value, format);
  return Operand(std::move(rounded));
}

Operand scaled_operand(const Arithmetic& arithmetic, double scale, const Tensor& x) {
  const double factor = static_cast<float>(arithmetic.scaled_log2 ? scale * std::numbers::log2e : scale);
  const Format format = operand_format(arithmetic);
  Tensor scaled = x;
  for (double& value : scaled.values)
    value = round_to(round_to(round_to(value * factor, Format::fp32), arithmetic.input), format);
  return Operand(std::move(scaled));
}

double factor_of_scaled(const Arithmetic& arithmetic) { return arithmetic.scaled_log2 ? std::numbers::ln2 : 1; }

ScoreOperands forward_operands(const Arithmetic& arithmetic, double scale, const Tensor& q, const Tensor& k) {
  if (arithmetic.scaled_operand != ScaledOperand::q)
    return {product_operand(arithmetic, q), product_operand(arithmetic, k), scale};
  return {scaled_operand(arithmetic, scale, q), product_operand(arithmetic, k), factor_of_scaled(arithmetic)};
}

ScoreOperands backward_operands(const Arithmetic& arithmetic, double scale, const Tensor& q, const Tensor& k) {
  if (arithmetic.scaled_operand != ScaledOperand::k) return forward_operands(arithmetic, scale, q, k);
  return {product_operand(arithmetic, q), scaled_operand(arithmetic, scale, k), factor_of_scaled(arithmetic)};
}

}  // namespace attnspec::reference
