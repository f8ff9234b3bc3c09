#include "verify/storage.hpp"

#include <algorithm>

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

HostTensor::HostTensor(Format format, std::int64_t tokens, std::int64_t heads, std::int64_t dim)
    : format_(format),
      tokens_(tokens),
      heads_(heads),
      dim_(dim),
      bytes_(static_cast<std::size_t>(tokens * heads * dim * bytes_of(format)), std::byte{0xff}) {}

HostTensor::HostTensor(Format format, const reference::Tensor& values)
    : HostTensor(format, values.tokens, values.heads, values.dim) {
  const TensorView to = view();
#pragma omp parallel for
  for (std::int64_t token = 0; token < tokens_; ++token)
    for (std::int64_t head = 0; head < heads_; ++head)
      for (std::int64_t d = 0; d < dim_; ++d) to.store(token, head, d, values.at(token, head)[d]);
}

TensorView HostTensor::view() { return {bytes_.data(), format_, tokens_, heads_, dim_, heads_ * dim_, dim_}; }

}  // namespace attnspec::verify
