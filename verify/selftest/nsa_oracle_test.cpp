// The gradients of the second oracle of NSA against derivatives that need no formula of their own.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "verify/selftest/nsa_problems.hpp"

namespace attnspec::oracle {
namespace {

/// x + step direction.
template <class T>
Tensor<T> displaced(const Tensor<Real>& x, const Tensor<Real>& direction, const T& step) {
  Tensor<T> result = cast<T>(x);
  for (std::size_t n = 0; n < result.values.size(); ++n) result.values[n] += step * T(direction.values[n]);
  return result;
}

/// The inputs with the one of index `moved` in `named` moved by a step in its direction.
template <class T>
NsaTensors<T> displaced(const NsaTensors<Real>& in, const NsaTensors<Real>& direction, std::size_t moved,
                        const T& step) {
  NsaTensors<T> result;
  for (std::size_t n = 0; n < named(in).size(); ++n)
    *named(result)[n].second = displaced(*named(in)[n].second, *named(direction)[n].second, n == moved ? step : T(0));
  return result;
}

template <class T>
GateLayer<T> displaced(const GateLayer<Real>& in, const GateLayer<Real>& direction, std::size_t moved, const T& step) {
  GateLayer<T> result;
  for (std::size_t n = 0; n < named_layer(in).size(); ++n)
    *named_layer(result)[n].second =
        displaced(*named_layer(in)[n].second, *named_layer(direction)[n].second, n == moved ? step : T(0));
  return result;
}

/// <do, o> over all rows and features, over given blocks: what the gradients are the derivatives of.
template <class T>
Sum<T> loss(const FrozenNsa& frozen, const NsaTensors<T>& at, const Lists& blocks) {
  return product(cast<T>(frozen.d_o), nsa(frozen.problem, at, compress(frozen.problem, at), blocks).o);
}

/// The derivative of the loss along the direction of the moved input.
Sum<Real> slope(const FrozenNsa& frozen, std::size_t moved) {
  return product(*named(frozen.direction)[moved].second, *named(frozen.gradients)[moved].second);
}

TEST(NsaOracle, ComplexStepDerivativesAreTheAnalyticGradients) {
  const Real step = 1e-100L;  // its square is below every rounding error, so that the step makes no error
  Comparison comparison(kExtendedTolerance);
  expect_on_small_nsa(2, [&](const SmallNsa& small) {
    const FrozenNsa frozen = freeze(small);
    for (std::size_t moved = 0; moved < named(frozen.in).size(); ++moved) {
      if (named(frozen.in)[moved].second->values.empty()) continue;
      const auto at = displaced(frozen.in, frozen.direction, moved, Complex(0, step));
      const Real derivative = loss(frozen, at, frozen.blocks).value.imag() / step;
      RC_ASSERT(comparison.agrees(named(frozen.in)[moved].first, derivative, slope(frozen, moved)));
    }
  });
}

TEST(NsaOracle, ComplexStepDerivativesOfTheGateLayerAreItsGradients) {
  const Real step = 1e-100L;
  Comparison comparison(kExtendedTolerance);
  expect_on_small_nsa(5, [&](const SmallNsa& small) {
    const GateLayer<Real> in = gate_layer(small), direction = gate_layer(small, "direction of ");
    const Tensor<Real> d_gates = nsa_inputs(small, "gradient of ").gates;
    const GateLayer<Sum<Real>> gradients = gate_backward(in, gate(in), d_gates);
    for (std::size_t moved = 0; moved < named_layer(in).size(); ++moved) {
      const auto at = displaced(in, direction, moved, Complex(0, step));
      const Real derivative = product(cast<Complex>(d_gates), gate(at)).value.imag() / step;
      const auto [name, gradient] = named_layer(gradients)[moved];
      RC_ASSERT(comparison.agrees(name, derivative, product(*named_layer(direction)[moved].second, *gradient)));
    }
  });
}

/// What makes NSA only piecewise smooth: the blocks of every row, and on which side of 0 the inputs of relu lie.
struct Decisions {
  std::vector<std::vector<std::int64_t>> blocks;
  std::vector<bool> signs;

  bool operator==(const Decisions&) const = default;
};

/// Appends the signs of the inputs of relu in the compression of x.
void append_signs(const NsaProblem& problem, const Tensor<Real>& x, const PhiParameters<Real>& phi,
                  std::vector<bool>& signs) {
  if (problem.phi != Phi::mlp || problem.activation != Activation::relu) return;
  for (const std::int64_t first_token : compression_blocks(problem))
    for (std::int64_t g = 0; g < x.heads; ++g) {
      const std::int64_t set = parameter_set(problem, g);
      for (const Sum<Real>& z : layer(encode(x, first_token, g, phi.position, set), phi.w1, phi.b1, set))
        signs.push_back(z.value > 0);
    }
}

Decisions decisions(const NsaProblem& problem, const NsaTensors<Real>& in, const Lists& blocks) {
  Decisions made{blocks.rows, {}};
  append_signs(problem, in.compressed.k, in.phi_k, made.signs);
  append_signs(problem, in.compressed.v, in.phi_v, made.signs);
  return made;
}

struct Derivative {
  Real value, error_bound;
  bool is_smooth;  // whether every decision is the same at the centre and at all points of the differences
};

/// The central differences (f(x) - f(-x)) / 2x of the loss f, every f with a selection of its own, at x = step / 2, and
/// at x = step to bound the error.
///
/// Where f is smooth the difference errs by a x^2 + b x^4 + .., so that the two differ by three times the error of the
/// nearer one or more; and by the rounding errors of both losses over 2x. A loss adds as many terms as o has elements,
/// each made by fewer than 300 operations (nsa_oracle.hpp).
Derivative central_difference(const FrozenNsa& frozen, std::size_t moved, Real step) {
  const Decisions centre = decisions(frozen.problem, frozen.in, frozen.blocks);
  Derivative derivative{0, 0, true};
  const auto loss_at = [&](Real distance) {
    const NsaTensors<Real> at = displaced(frozen.in, frozen.direction, moved, distance);
    const Lists blocks = nsa_blocks(frozen.problem, at.q, compress(frozen.problem, at).k);
    derivative.is_smooth = derivative.is_smooth && decisions(frozen.problem, at, blocks) == centre;
    return loss(frozen, at, blocks);
  };
  const Sum<Real> far = loss_at(step) - loss_at(-step), near = loss_at(step / 2) - loss_at(-step / 2);
  const Real roundoff = std::numeric_limits<Real>::epsilon() / 2;
  const Real num_operations = 300 + static_cast<Real>(frozen.d_o.values.size());
  derivative.value = near.value / step;
  derivative.error_bound =
      std::abs(near.value / step - far.value / (2 * step)) + num_operations * roundoff * near.terms / step;
  return derivative;
}

TEST(NsaOracle, CentralDifferencesOfTheUnfrozenFunctionAreTheGradients) {
  const Real step = 0x1p-19L;  // near the cube root of the roundoff, where both errors are of the same order
  std::int64_t num_directions = 0, num_smooth = 0;
  Comparison comparison(kExtendedTolerance);
  expect_on_small_nsa(1, [&](const SmallNsa& small) {
    const FrozenNsa frozen = freeze(small);
    for (std::size_t moved = 0; moved < named(frozen.in).size(); ++moved) {
      if (named(frozen.in)[moved].second->values.empty()) continue;
      ++num_directions;
      const Derivative derivative = central_difference(frozen, moved, step);
      if (!derivative.is_smooth) continue;
      ++num_smooth;
      const Sum<Real> expected(derivative.value, slope(frozen, moved).terms);
      RC_ASSERT(comparison.agrees(named(frozen.in)[moved].first, slope(frozen, moved).value, expected,
                                  derivative.error_bound));
    }
  });
  std::cout << num_smooth << " of " << num_directions << " directions keep every decision\n";
  EXPECT_GT(num_smooth, num_directions * 2 / 3);
}

}  // namespace
}  // namespace attnspec::oracle
