#pragma once

#include <algorithm>
#include <iterator>
#include <vector>

namespace attnspec::fuzz {

/// The middle one of the numbers, at least one; the larger of two.
template <class Number>
Number median(std::vector<Number> numbers) {
  const auto middle = numbers.begin() + std::ssize(numbers) / 2;
  std::nth_element(numbers.begin(), middle, numbers.end());
  return *middle;
}

}  // namespace attnspec::fuzz
