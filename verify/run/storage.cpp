#include "verify/run/storage.hpp"

#include <algorithm>
#include <atomic>

namespace attnspec::verify {

namespace {

/// Bytes of a row that are visited at a time, and of rows that are worth sharing between threads.
constexpr std::size_t kPart = std::size_t{1} << 18;

/// What surrounds the rows, over and over: NaN, or numbers of either sign around 1.
std::vector<std::byte> pattern(Format format, Surroundings with) {
  constexpr std::int64_t kPeriod = 14;
  std::vector<std::byte> bytes(static_cast<std::size_t>(kPeriod * bytes_of(format)), std::byte{0xff});
  if (with == Surroundings::nan) return bytes;
  const TensorView row{bytes.data(), format, 1, 1, kPeriod, kPeriod, kPeriod};
  for (std::int64_t i = 0; i < kPeriod; ++i)
    row.store(0, 0, i, (i % 2 == 0 ? 1 : -1) * (1 + 0.125 * static_cast<double>(i % 7)));
  return bytes;
}

}  // namespace

std::size_t HostTensor::row_begin(std::int64_t row) const {
  return static_cast<std::size_t>((first_ + row / heads_ * token_stride_ + row % heads_ * head_stride_) *
                                  bytes_of(format_));
}

template <class Visit>
void HostTensor::for_each_part(const Visit& visit) const {
  const std::int64_t rows = tokens_ * heads_;
  const auto size = static_cast<std::size_t>(dim_ * bytes_of(format_)), parts = (size + kPart - 1) / kPart;
#pragma omp parallel for collapse(2) if (bytes_.size() > kPart)
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::size_t part = 0; part < parts; ++part)
      visit(row_begin(row) + part * kPart, std::min(kPart, size - part * kPart),
            static_cast<std::size_t>(row) * size + part * kPart);
}

template <class Visit>
void HostTensor::for_each_gap(const Visit& visit) const {
  const std::int64_t rows = tokens_ * heads_;
  const auto size = static_cast<std::size_t>(dim_ * bytes_of(format_));
#pragma omp parallel for if (bytes_.size() > kPart)
  for (std::int64_t row = 0; row <= rows; ++row) {  // the gap before the row, or after the last
    const std::size_t begin = row == 0 ? 0 : row_begin(row - 1) + size;
    visit(begin, (row == rows ? bytes_.size() : row_begin(row)) - begin);
  }
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
  surroundings_ = with;
  const std::vector<std::byte> repeated = pattern(format_, with);
  for_each_gap([&](std::size_t first, std::size_t size) {
    for (std::size_t i = first; i < first + size; ++i) bytes_[i] = repeated[i % repeated.size()];
  });
}

void HostTensor::fill_rows_with_nan() {
  for_each_part(
      [&](std::size_t first, std::size_t size, std::size_t) { std::memset(bytes_.data() + first, 0xff, size); });
}

void HostTensor::fill_rows(const Random& random) {
  for_each_part([&](std::size_t first, std::size_t size, std::size_t) {
    for (std::size_t i = first; i < first + size; ++i)
      bytes_[i] = static_cast<std::byte>(random.bits(i / 8) >> i % 8 * 8);
  });
}

std::vector<std::byte> HostTensor::rows() const {
  std::vector<std::byte> result(static_cast<std::size_t>(tokens_ * heads_ * dim_ * bytes_of(format_)));
  for_each_part([&](std::size_t first, std::size_t size, std::size_t packed) {
    std::memcpy(result.data() + packed, bytes_.data() + first, size);
  });
  return result;
}

bool HostTensor::rows_are(const std::vector<std::byte>& bits) const {
  std::atomic<bool> are_equal = true;
  for_each_part([&](std::size_t first, std::size_t size, std::size_t packed) {
    if (std::memcmp(bits.data() + packed, bytes_.data() + first, size) != 0) are_equal = false;
  });
  return are_equal;
}

bool HostTensor::outside_is_intact() const {
  const std::vector<std::byte> repeated = pattern(format_, surroundings_);
  std::atomic<bool> is_intact = true;
  for_each_gap([&](std::size_t first, std::size_t size) {
    for (std::size_t i = first; i < first + size; ++i)
      if (bytes_[i] != repeated[i % repeated.size()]) is_intact = false;
  });
  return is_intact;
}

Strays HostTensor::strays() const {
  Strays strays;
  if (outside_is_intact()) return strays;
  const std::vector<std::byte> repeated = pattern(format_, surroundings_);
  const auto element = static_cast<std::size_t>(bytes_of(format_));
  const auto size = static_cast<std::size_t>(dim_) * element;
  for (std::int64_t row = 0; row <= tokens_ * heads_; ++row) {  // the gap before the row, or after the last
    const std::size_t begin = row == 0 ? 0 : row_begin(row - 1) + size;
    const std::size_t end = row == tokens_ * heads_ ? bytes_.size() : row_begin(row);
    for (std::size_t first = begin; first < end; first += element) {
      const auto is_as_before = [&](std::size_t i) { return bytes_[i] == repeated[i % repeated.size()]; };
      std::size_t i = first;
      while (i < std::min(first + element, end) && is_as_before(i)) ++i;
      if (i == std::min(first + element, end)) continue;
      if (strays.elements++ > 0 || row == 0) continue;
      strays.token = (row - 1) / heads_;
      strays.head = (row - 1) % heads_;
      strays.behind = static_cast<std::int64_t>((first - begin) / element) + 1;
    }
  }
  return strays;
}

}  // namespace attnspec::verify
