// Tensors as kernels see them: raw memory in a storage format, with strides.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "reference/format.hpp"
#include "reference/tensor.hpp"

namespace attnspec::verify {

using reference::Format;

constexpr std::int64_t bytes_of(Format format) { return format == Format::fp32 ? 4 : 2; }

/// The bit pattern of a number that is exact in the format (or infinite, or NaN), and back.
inline std::uint16_t encode_bf16(double x) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(x)) >> 16);
}
inline double decode_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
std::uint16_t encode_fp16(double x);
double decode_fp16(std::uint16_t bits);

/// A packed tensor [tokens, heads, dim] in somebody's memory; strides in elements, features are contiguous.
struct TensorView {
  void* data = nullptr;
  Format format = Format::fp32;
  std::int64_t tokens = 0, heads = 0, dim = 0;
  std::int64_t token_stride = 0, head_stride = 0;

  double load(std::int64_t token, std::int64_t head, std::int64_t d) const {
    const char* at = address(token, head, d);
    if (format == Format::fp32) {
      float value;
      std::memcpy(&value, at, sizeof value);
      return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, at, sizeof bits);
    return format == Format::bf16 ? decode_bf16(bits) : decode_fp16(bits);
  }

  /// Rounds once to the format.
  void store(std::int64_t token, std::int64_t head, std::int64_t d, double value) const {
    const double rounded = reference::round_to(value, format);
    if (format == Format::fp32) {
      const float single = static_cast<float>(rounded);
      std::memcpy(address(token, head, d), &single, sizeof single);
      return;
    }
    const std::uint16_t bits = format == Format::bf16 ? encode_bf16(rounded) : encode_fp16(rounded);
    std::memcpy(address(token, head, d), &bits, sizeof bits);
  }

  /// One row, [dim].
  reference::Vector row(std::int64_t token, std::int64_t head) const {
    reference::Vector values(dim);
    for (std::int64_t d = 0; d < dim; ++d) values[d] = load(token, head, d);
    return values;
  }

 private:
  char* address(std::int64_t token, std::int64_t head, std::int64_t d) const {
    return static_cast<char*>(data) + (token * token_stride + head * head_stride + d) * bytes_of(format);
  }
};

/// A tensor that a call does not have. One without tokens has heads, features and an address.
constexpr TensorView absent_tensor(Format format) { return {.format = format}; }

/// A copy of a tensor in somebody's memory.
reference::Tensor load(const TensorView& view);

/// A selection [tokens, heads, slots] in somebody's memory; -1 = empty slot. Strides in elements, slots are contiguous.
struct SelectionView {
  std::int32_t* data = nullptr;
  std::int64_t tokens = 0, heads = 0, slots = 0;
  std::int64_t token_stride = 0, head_stride = 0;

  std::int32_t* row(std::int64_t token, std::int64_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};

/// One in memory without gaps.
inline SelectionView packed_selection(std::int32_t* data, std::int64_t tokens, std::int64_t heads, std::int64_t slots) {
  return {data, tokens, heads, slots, heads * slots, slots};
}

}  // namespace attnspec::verify
