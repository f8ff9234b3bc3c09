#include "reference/format.hpp"

#include <algorithm>
#include <limits>

namespace attnspec::reference {

double round_to(double x, Format format) {
  if (format == Format::fp32) return static_cast<float>(x);
  if (!std::isfinite(x)) return x;
  if (format == Format::tf32)  // hardware rounds ties away from zero
    return std::copysign(std::trunc(std::abs(x) / spacing(x, format) + 0.5) * spacing(x, format), x);
  if (format == Format::tf32_cut) return std::trunc(x / spacing(x, format)) * spacing(x, format);
  if (std::abs(x) >= overflow_threshold(format)) return std::copysign(std::numeric_limits<double>::infinity(), x);
  const double magic = 0x1.8p52 * spacing(x, format);  // adding it leaves no bits below the spacing
  return std::copysign((x + magic) - magic, x);
}

const char* name(Format format) {
  switch (format) {
    case Format::bf16: return "bf16";
    case Format::fp16: return "fp16";
    case Format::fp32: return "fp32";
    case Format::tf32: return "tf32";
    case Format::tf32_cut: return "tf32, cut";
  }
  return "";
}

}  // namespace attnspec::reference
