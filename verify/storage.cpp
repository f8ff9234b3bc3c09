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

reference::Tensor load(const TensorView& view) {
  reference::Tensor tensor(view.tokens, view.heads, view.dim);
  for (std::int64_t token = 0; token < view.tokens; ++token)
    for (std::int64_t head = 0; head < view.heads; ++head) tensor.row(token, head) = view.row(token, head);
  return tensor;
}

template <class Visit>
void HostTensor::for_each_row(const Visit& visit) const {
  for (std::int64_t token = 0; token < tokens_; ++token)
    for (std::int64_t head = 0; head < heads_; ++head)
      visit(static_cast<std::size_t>((first_ + token * token_stride_ + head * head_stride_) * bytes_of(format_)),
            static_cast<std::size_t>(dim_ * bytes_of(format_)));
}

HostTensor::HostTensor(Format format, Layout layout, std::int64_t tokens, std::int64_t heads, std::int64_t dim,
                       std::pmr::memory_resource* memory)
    : format_(format),
      tokens_(tokens),
      heads_(heads),
      dim_(dim),
      head_stride_(dim + (layout == Layout::strided ? 8 : 0)),
      token_stride_(heads * head_stride_ + (layout == Layout::strided ? 16 : 0)),
      first_(kGuardElements + (layout == Layout::strided ? 24 : 0)),
      bytes_(static_cast<std::size_t>((first_ + tokens * token_stride_ + kGuardElements) * bytes_of(format)),
             std::byte{0xff}, memory) {}

HostTensor::HostTensor(Format format, Layout layout, const reference::Tensor& values, std::pmr::memory_resource* memory)
    : HostTensor(format, layout, values.tokens, values.heads, values.dim, memory) {
  const TensorView to = view();
#pragma omp parallel for
  for (std::int64_t token = 0; token < tokens_; ++token)
    for (std::int64_t head = 0; head < heads_; ++head)
      for (std::int64_t d = 0; d < dim_; ++d) to.store(token, head, d, values.at(token, head)[d]);
}

TensorView HostTensor::view() {
  return {bytes_.data() + first_ * bytes_of(format_), format_, tokens_, heads_, dim_, token_stride_, head_stride_};
}

void HostTensor::surround(Surroundings with) {
  surrounded_.assign(bytes_.size(), std::byte{0xff});
  if (with == Surroundings::numbers) {  // all of it, seen as one row of numbers of either sign around 1
    const auto size = static_cast<std::int64_t>(bytes_.size()) / bytes_of(format_);
    const TensorView all{surrounded_.data(), format_, 1, 1, size, size, size};
    for (std::int64_t i = 0; i < size; ++i)
      all.store(0, 0, i, (i % 2 == 0 ? 1 : -1) * (1 + 0.125 * static_cast<double>(i % 7)));
  }
  for_each_row([&](std::size_t first, std::size_t size) {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(first), size,
                surrounded_.begin() + static_cast<std::ptrdiff_t>(first));
  });
  std::copy(surrounded_.begin(), surrounded_.end(), bytes_.begin());
}

void HostTensor::fill_rows_with_nan() {
  for_each_row([&](std::size_t first, std::size_t size) {
    std::fill_n(bytes_.begin() + static_cast<std::ptrdiff_t>(first), size, std::byte{0xff});
  });
}

void HostTensor::fill_rows(const Random& random) {
  for_each_row([&](std::size_t first, std::size_t size) {
    for (std::size_t i = first; i < first + size; ++i)
      bytes_[i] = static_cast<std::byte>(random.bits(i / 8) >> i % 8 * 8);
  });
}

std::vector<std::byte> HostTensor::rows() const {
  std::vector<std::byte> result;
  for_each_row([&](std::size_t first, std::size_t size) {
    const auto row = bytes_.begin() + static_cast<std::ptrdiff_t>(first);
    result.insert(result.end(), row, row + static_cast<std::ptrdiff_t>(size));
  });
  return result;
}

bool HostTensor::outside_is_intact() const {
  std::vector<std::byte> expected = surrounded_;
  for_each_row([&](std::size_t first, std::size_t size) {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(first), size,
                expected.begin() + static_cast<std::ptrdiff_t>(first));
  });
  return std::equal(bytes_.begin(), bytes_.end(), expected.begin(), expected.end());
}

}  // namespace attnspec::verify
