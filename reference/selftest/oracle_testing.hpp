// What the tests of the oracles share: tolerances, problems by the hundred with tensors of doubles, conversions to and
// from the reference, comparisons, and derivatives.
//
// RapidCheck draws sizes and parameters; the tensors are a function of the seed it draws. A bound is a number times the
// terms of the expected value (Sum), and each test prints the largest part of its bound that was used.
#pragma once

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "reference/selected.hpp"
#include "reference/selftest/oracle.hpp"
#include "verify/cases/random.hpp"

namespace attnspec::oracle {

using Real = long double;
using Complex = std::complex<long double>;

constexpr Real kDoubleTolerance = 1e-13L;    // of the terms, for results computed in double
constexpr Real kExtendedTolerance = 1e-15L;  // of the terms, for results computed in long double

struct SequenceLengths {
  std::int64_t queries, keys;
};

/// The sizes of attention, and what its tensors are a function of.
struct SmallAttention {
  std::vector<SequenceLengths> sequences;
  std::int64_t kv_heads = 1, group = 1, dk = 1, dv = 1;
  double relative_scale = 1;  // the softmax scale in units of dk^-1/2
  bool is_dyadic = false;     // inputs on a grid of halves, where scores tie exactly
  std::uint64_t seed = 0;
};

inline std::ostream& operator<<(std::ostream& out, const SmallAttention& small) {
  out << "sequences";
  for (const SequenceLengths& lengths : small.sequences) out << " " << lengths.queries << ":" << lengths.keys;
  return out << " kv_heads " << small.kv_heads << " group " << small.group << " dk " << small.dk << " dv " << small.dv
             << " relative_scale " << small.relative_scale << " dyadic " << small.is_dyadic << " seed " << small.seed;
}

inline AttentionProblem attention_problem(const SmallAttention& small) {
  AttentionProblem problem;
  for (const SequenceLengths& lengths : small.sequences) {
    problem.q_offsets.push_back(problem.q_offsets.back() + lengths.queries);
    problem.k_offsets.push_back(problem.k_offsets.back() + lengths.keys);
  }
  problem.heads = small.kv_heads * small.group;
  problem.kv_heads = small.kv_heads;
  problem.dk = small.dk;
  problem.dv = small.dv;
  problem.scale = small.relative_scale / std::sqrt(static_cast<double>(small.dk));
  return problem;
}

/// 1 to max_sequences sequences of 0 to max_keys keys, three in four of them with as many queries.
inline rc::Gen<std::vector<SequenceLengths>> sequence_lengths(std::size_t max_sequences, std::int64_t max_keys) {
  const auto count = rc::gen::resize(rc::kNominalSize, rc::gen::inRange<std::int64_t>(0, max_keys + 1));
  const auto surplus_or_own = rc::gen::weightedOneOf<std::int64_t>({{3, rc::gen::just<std::int64_t>(-1)}, {1, count}});
  const auto lengths =
      rc::gen::map(rc::gen::pair(count, surplus_or_own), [](const std::pair<std::int64_t, std::int64_t>& drawn) {
        return SequenceLengths{drawn.second < 0 ? drawn.first : drawn.second, drawn.first};
      });
  return rc::gen::mapcat(rc::gen::inRange<std::size_t>(1, max_sequences + 1), [lengths](std::size_t num_sequences) {
    return rc::gen::container<std::vector<SequenceLengths>>(num_sequences, lengths);
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

/// Normal numbers, or a half of -2 .. 2: a function of the seed and the tensor's name.
inline Tensor<Real> draw(std::int64_t tokens, std::int64_t heads, std::int64_t dim, const SmallAttention& small,
                         const std::string& name) {
  const verify::Random random(small.seed, name);
  Tensor<Real> tensor(tokens, heads, dim);
  for (std::size_t n = 0; n < tensor.values.size(); ++n)
    tensor.values[n] = small.is_dyadic ? static_cast<Real>(random.below(5, n) - 2) / 2 : Real(random.normal(n));
  return tensor;
}

/// do of a problem.
inline Tensor<Real> output_gradient(const SmallAttention& small) {
  const AttentionProblem problem = attention_problem(small);
  return draw(problem.q_offsets.back(), problem.heads, small.dv, small, "do");
}

/// A tensor as one of another kind of number, every number exactly.
template <class Number>
Tensor<Number> cast(const Tensor<Real>& tensor) {
  Tensor<Number> result(tensor.tokens, tensor.heads, tensor.dim);
  for (std::size_t n = 0; n < tensor.values.size(); ++n) result.values[n] = Number(tensor.values[n]);
  return result;
}

/// A tensor of the oracle as one of the reference; its numbers are doubles.
inline reference::Tensor lower(const Tensor<Real>& tensor) {
  reference::Tensor lowered(tensor.tokens, tensor.heads, tensor.dim);
  for (std::int64_t token = 0; token < tensor.tokens; ++token)
    for (std::int64_t head = 0; head < tensor.heads; ++head)
      for (std::int64_t d = 0; d < tensor.dim; ++d)
        lowered.at(token, head)[d] = static_cast<double>(tensor(token, head, d));
  return lowered;
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

inline Outputs<Real> lift(const reference::AttentionOutputs& outputs) {
  return {lift<Sum<Real>>(outputs.o), lift<Sum<Real>>(outputs.lse)};
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

  /// The same of one row.
  std::string difference(const std::string& name, const reference::Vector& observed,
                         const std::vector<Sum<Real>>& expected) {
    Tensor<Real> observed_row(1, 1, observed.size());
    std::copy(observed.begin(), observed.end(), observed_row.values.begin());
    Tensor<Sum<Real>> expected_row(1, 1, static_cast<std::int64_t>(expected.size()));
    expected_row.values = expected;
    return difference(name, observed_row, expected_row);
  }

 private:
  Real tolerance_;
  std::map<std::string, Real> largest_;
};

inline std::string difference(Comparison& comparison, const std::string& suffix,
                              const reference::AttentionOutputs& observed, const Outputs<Real>& expected) {
  return comparison.difference("o" + suffix, observed.o, expected.o) +
         comparison.difference("lse" + suffix, observed.lse, expected.lse);
}

/// sum of a x over two tensors of one shape.
template <class T>
Sum<T> product(const Tensor<T>& a, const Tensor<Sum<T>>& x) {
  Sum<T> sum;
  for (std::size_t n = 0; n < x.values.size(); ++n) sum += a.values[n] * x.values[n];
  return sum;
}

/// Tensors of which the one of index `moved` in `named` is moved by a step in its direction.
template <class T, template <class> class Tensors>
Tensors<T> displaced(const Tensors<Real>& in, const Tensors<Real>& direction, std::size_t moved, const T& step) {
  Tensors<T> result;
  for (std::size_t n = 0; n < named(in).size(); ++n) *named(result)[n].second = cast<T>(*named(in)[n].second);
  std::vector<T>& values = named(result)[moved].second->values;
  for (std::size_t n = 0; n < values.size(); ++n) values[n] += step * T(named(direction)[moved].second->values[n]);
  return result;
}

/// The derivative along the direction of the moved tensor, from the gradients.
template <template <class> class Tensors>
Sum<Real> slope(const Tensors<Sum<Real>>& gradients, const Tensors<Real>& direction, std::size_t moved) {
  return product(*named(direction)[moved].second, *named(gradients)[moved].second);
}

/// The same from the loss, a function of the tensors, by a complex step.
template <template <class> class Tensors, class Loss>
Real complex_step_slope(const Loss& loss, const Tensors<Real>& in, const Tensors<Real>& direction, std::size_t moved) {
  const Real step = 1e-100L;  // its square is below every rounding error, so that the step makes no error
  return loss(displaced(in, direction, moved, Complex(0, step))).value.imag() / step;
}

struct Derivative {
  Real value, error_bound;
};

/// (f(x) - f(-x)) / 2x of a function f, and a bound on the rounding errors of both values over 2x. num_operations: of
/// those that make one value, as many as an error can count.
template <class Function>
Derivative difference_quotient(const Function& f, Real x, std::size_t num_operations) {
  const Sum<Real> change = f(x) - f(-x);
  const Real roundoff = std::numeric_limits<Real>::epsilon() / 2;
  return {change.value / (2 * x), static_cast<Real>(num_operations) * roundoff * change.terms / (2 * x)};
}

}  // namespace attnspec::oracle
