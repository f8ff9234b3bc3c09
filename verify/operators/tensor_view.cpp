#include "verify/operators/tensor_view.hpp"

namespace attnspec::verify {

std::uint16_t encode_fp16(double x) {
  const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::abs(x);
  if (std::isnan(x)) return 0x7e00;
  if (std::isinf(x)) return sign | 0x7c00;
  if (magnitude < 0x1p-14) return sign | static_cast<std::uint16_t>(magnitude * 0x1p24);
  const int exponent = std::ilogb(magnitude);
  return sign | static_cast<std::uint16_t>(((exponent + 15) << 10) +
                                           static_cast<int>(std::ldexp(magnitude, 10 - exponent)) - 1024);
}

double decode_fp16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 31  ? (fraction != 0 ? std::nan("") : HUGE_VAL)
                           : exponent == 0 ? fraction * 0x1p-24
                                           : (1024 + fraction) * reference::power_of_two(exponent - 25);
  return bits >> 15 != 0 ? -magnitude : magnitude;
}

reference::Tensor load(const TensorView& view) {
  reference::Tensor tensor(view.tokens, view.heads, view.dim);
  for (std::int64_t token = 0; token < view.tokens; ++token)
    for (std::int64_t head = 0; head < view.heads; ++head) tensor.row(token, head) = view.row(token, head);
  return tensor;
}

}  // namespace attnspec::verify
