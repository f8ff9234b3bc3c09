// Products as the model kernel's tensor cores compute them, and the rounding of what is stored between two products.
// All sums are fp32.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "reference/noise/arithmetic.hpp"

namespace attnspec::verify::model {

using reference::Arithmetic;
using reference::Fp32Products;

inline float rounded(float x, reference::Format format) {
  return format == reference::Format::fp32 ? x : static_cast<float>(reference::round_to(x, format));
}

/// x without the last 13 bits of its significand: the nearest tf32 number towards zero.
inline float cut_to_tf32(float x) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0xffffe000u); }

/// The nearest tf32 number. Of two, the one farther from zero.
inline float round_to_tf32(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t nearest = (bits + 0x1000) & 0xffffe000u;  // ties away from zero
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return std::bit_cast<float>(is_nan ? bits : nearest);
}

/// x as the arithmetic stores operands that the kernel computed itself: P~, P, dS, and the activations of phi.
inline float as_weight(double x, const Arithmetic& arithmetic) {
  if (arithmetic.products == Fp32Products::tf32_truncated) return cut_to_tf32(static_cast<float>(x));
  return arithmetic.weights == reference::Format::fp32 ? static_cast<float>(x)
                                                       : static_cast<float>(reference::round_to(x, arithmetic.weights));
}

/// visit(products as a constant of the compiler), so that no loop asks.
template <class Visit>
void with_constant(Fp32Products products, const Visit& visit) {
  using enum Fp32Products;
  switch (products) {
    case exact: visit(std::integral_constant<Fp32Products, exact>()); break;
    case tf32: visit(std::integral_constant<Fp32Products, tf32>()); break;
    case tf32_truncated: visit(std::integral_constant<Fp32Products, tf32_truncated>()); break;
    case tf32x3: visit(std::integral_constant<Fp32Products, tf32x3>()); break;
  }
}

/// sum += a b, in the arithmetic of Number.
template <Fp32Products products, class Number>
[[gnu::always_inline]] inline void add_product_as(float a, float b, Number& sum) {
  const auto add = [&sum](float x, float y) { sum += static_cast<Number>(x) * static_cast<Number>(y); };
  if constexpr (products == Fp32Products::exact) {
    add(a, b);
  } else if constexpr (products == Fp32Products::tf32) {
    add(round_to_tf32(a), round_to_tf32(b));
  } else if constexpr (products == Fp32Products::tf32_truncated) {
    add(cut_to_tf32(a), cut_to_tf32(b));
  } else {
    const float a_high = cut_to_tf32(a), b_high = cut_to_tf32(b);
    add(a_high, b_high);
    add(a_high, round_to_tf32(b - b_high));
    add(round_to_tf32(a - a_high), b_high);
  }
}
template <class Number>
void add_product(Fp32Products products, float a, float b, Number& sum) {
  with_constant(products, [&](auto constant) { add_product_as<constant()>(a, b, sum); });
}

/// sums[d] += a x[d].
inline void add_products(Fp32Products products, float a, const float* x, std::int64_t n, float* sums) {
  with_constant(products, [=](auto constant) {
    for (std::int64_t d = 0; d < n; ++d) {
      float sum = sums[d];
      add_product_as<constant()>(a, x[d], sum);
      sums[d] = sum;
    }
  });
}

/// <x, y>, feature by feature.
inline float dot(Fp32Products products, const float* x, const float* y, std::int64_t n) {
  float sum = 0;
  with_constant(products, [&](auto constant) {
    for (std::int64_t d = 0; d < n; ++d) add_product_as<constant()>(x[d], y[d], sum);
  });
  return sum;
}

}  // namespace attnspec::verify::model
