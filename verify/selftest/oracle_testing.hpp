// What the tests of the oracles share: tolerances, problems by the hundred, and comparisons.
#pragma once

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "reference/tensor.hpp"
#include "verify/selftest/oracle.hpp"

namespace attnspec::oracle {

using Real = long double;
using Complex = std::complex<long double>;

constexpr Real kDoubleTolerance = 1e-13L;    // of the terms, for results computed in double
constexpr Real kExtendedTolerance = 1e-15L;  // of the terms, for results computed in long double

struct SequenceLengths {
  std::int64_t queries, keys;
};

/// 0 to most_keys keys, and as many queries in three sequences of four.
inline rc::Gen<SequenceLengths> sequence_lengths(std::int64_t most_keys) {
  const auto count = rc::gen::resize(rc::kNominalSize, rc::gen::inRange<std::int64_t>(0, most_keys + 1));
  const auto surplus_or_own = rc::gen::weightedOneOf<std::int64_t>({{3, rc::gen::just<std::int64_t>(-1)}, {1, count}});
  return rc::gen::map(rc::gen::pair(count, surplus_or_own), [](const std::pair<std::int64_t, std::int64_t>& drawn) {
    return SequenceLengths{drawn.second < 0 ? drawn.first : drawn.second, drawn.first};
  });
}

/// Expects a property of `times_hundred` hundred problems. A failure logs the problems that the last run of the
/// property saw, the one that failed at the end.
template <class Problem, class Property>
void expect_on(std::size_t times_hundred, const rc::Gen<Problem>& problems, const Property& property) {
  EXPECT_TRUE(rc::check(testing::UnitTest::GetInstance()->current_test_info()->name(), [&] {
    for (const Problem& problem : *rc::gen::container<std::vector<Problem>>(times_hundred, problems)) {
      RC_LOG() << problem << "\n";
      property(problem);
    }
  }));
}

/// sum of a x over two tensors of one shape.
template <class T>
Sum<T> product(const Tensor<T>& a, const Tensor<Sum<T>>& x) {
  Sum<T> sum;
  for (std::size_t n = 0; n < x.values.size(); ++n) sum += a.values[n] * x.values[n];
  return sum;
}

/// A tensor of the reference as one of the oracle, every number exactly.
template <class Number>
Tensor<Number> lift(const reference::Tensor& tensor) {
  Tensor<Number> lifted(tensor.tokens, tensor.heads, tensor.dim);
  for (std::int64_t token = 0; token < tensor.tokens; ++token)
    for (std::int64_t head = 0; head < tensor.heads; ++head)
      for (std::int64_t d = 0; d < tensor.dim; ++d)
        lifted(token, head, d) = Number(static_cast<Real>(tensor.at(token, head)[d]));
  return lifted;
}

/// The blocks of a selection, ascending.
inline Lists lift(const reference::Selection& selection) {
  Lists blocks(selection.tokens, selection.heads);
  for (std::int64_t token = 0; token < selection.tokens; ++token)
    for (std::int64_t head = 0; head < selection.heads; ++head) {
      for (const std::int64_t b : selection.row(token, head))
        if (b >= 0) blocks.row(token, head).push_back(b);
      std::sort(blocks.row(token, head).begin(), blocks.row(token, head).end());
    }
  return blocks;
}

/// Compares tensors with a tolerance, and prints the largest part of it that each tensor used.
class Comparison {
 public:
  explicit Comparison(Real tolerance) : tolerance_(tolerance) {}
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;
  ~Comparison() {
    std::cout << "largest part of the bound used:";
    for (const auto& [name, part] : largest_) std::cout << "  " << name << " " << static_cast<double>(part);
    std::cout << std::endl;
  }

  /// Whether |observed - expected| <= tolerance terms + slack; infinities must be equal, and NaN never passes.
  bool agrees(const std::string& name, Real observed, const Sum<Real>& expected, Real slack = 0) {
    const Real error = observed == expected.value ? 0 : std::abs(observed - expected.value);
    const Real bound = tolerance_ * expected.terms + slack;
    if (error > 0 && bound > 0) largest_[name] = std::max(largest_[name], error / bound);
    return error <= bound;
  }

  /// Empty, or the first coordinate where the tensors differ by more than the tolerance.
  std::string difference(const std::string& name, const reference::Tensor& observed,
                         const Tensor<Sum<Real>>& expected) {
    return difference(name, lift<Real>(observed), expected);
  }

  /// The same, and whether their shapes differ.
  std::string difference(const std::string& name, const Tensor<Real>& observed, const Tensor<Sum<Real>>& expected) {
    if (observed.tokens != expected.tokens || observed.heads != expected.heads || observed.dim != expected.dim)
      return name + ": shapes differ\n";
    for (std::int64_t token = 0; token < expected.tokens; ++token)
      for (std::int64_t head = 0; head < expected.heads; ++head)
        for (std::int64_t d = 0; d < expected.dim; ++d) {
          const Sum<Real>& e = expected(token, head, d);
          if (agrees(name, observed(token, head, d), e)) continue;
          std::ostringstream line;
          line << name << "[" << token << "," << head << "," << d << "] => observed " << observed(token, head, d)
               << ", expected " << e.value << ", terms " << e.terms << "\n";
          return line.str();
        }
    return "";
  }

 private:
  Real tolerance_;
  std::map<std::string, Real> largest_;
};

}  // namespace attnspec::oracle
