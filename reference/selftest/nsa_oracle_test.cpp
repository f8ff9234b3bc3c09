// The gradients of the second oracle of NSA against derivatives that need no formula of their own.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "reference/selftest/nsa_problems.hpp"

namespace attnspec::oracle {
namespace {

/// <do, o> over all rows and features, over given blocks: what the gradients are the derivatives of.
template <class T>
Sum<T> loss(const FrozenNsa& frozen, const NsaTensors<T>& at, const Lists& blocks) {
  return product(cast<T>(frozen.d_o), nsa(frozen.problem, at, compress(frozen.problem, at), blocks).o);
}

TEST(NsaOracle, ComplexStepDerivativesAreTheAnalyticGradients) {
  Comparison comparison(kExtendedTolerance);
  expect_on_small_nsa(2, [&](const SmallNsa& small) {
    const FrozenNsa frozen = freeze(small);
    const auto loss_at = [&](const NsaTensors<Complex>& at) { return loss(frozen, at, frozen.blocks); };
    for (std::size_t moved = 0; moved < named(frozen.in).size(); ++moved) {
      if (named(frozen.in)[moved].second->values.empty()) continue;
      const Real derivative = complex_step_slope(loss_at, frozen.in, frozen.direction, moved);
      const Sum<Real> analytic = slope(frozen.gradients, frozen.direction, moved);
      RC_ASSERT(comparison.agrees(named(frozen.in)[moved].first, derivative, analytic));
    }
  });
}

TEST(NsaOracle, ComplexStepDerivativesOfTheGateLayerAreItsGradients) {
  Comparison comparison(kExtendedTolerance);
  expect_on_small_nsa(5, [&](const SmallNsa& small) {
    const GateLayer<Real> in = gate_layer(small), direction = gate_layer(small, "direction of ");
    const Tensor<Real> d_gates = nsa_inputs(small, "gradient of ").gates;
    const GateLayer<Sum<Real>> gradients = gate_backward(in, gate(in), d_gates);
    const auto loss_at = [&](const GateLayer<Complex>& at) { return product(cast<Complex>(d_gates), gate(at)); };
    for (std::size_t moved = 0; moved < named(in).size(); ++moved) {
      const Real derivative = complex_step_slope(loss_at, in, direction, moved);
      RC_ASSERT(comparison.agrees(named(in)[moved].first, derivative, slope(gradients, direction, moved)));
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

struct Difference {
  Derivative derivative;
  bool is_smooth;  // whether every decision is the same at the centre and at all points of the differences
};

/// The central differences (f(x) - f(-x)) / 2x of the loss f, every f with a selection of its own, at x = step / 2, and
/// at x = step to bound the error.
///
/// Where f is smooth the difference errs by a x^2 + b x^4 + .., so that the two differ by three times the error of the
/// nearer one or more; and by the rounding errors of both losses over 2x. A loss adds as many terms as o has elements,
/// each made by fewer than 300 operations (nsa_oracle.hpp).
Difference central_difference(const FrozenNsa& frozen, std::size_t moved, Real step) {
  const Decisions centre = decisions(frozen.problem, frozen.in, frozen.blocks);
  bool is_smooth = true;
  const auto loss_at = [&](Real distance) {
    const NsaTensors<Real> at = displaced(frozen.in, frozen.direction, moved, distance);
    const Lists blocks = nsa_blocks(frozen.problem, at.q, compress(frozen.problem, at).k);
    is_smooth = is_smooth && decisions(frozen.problem, at, blocks) == centre;
    return loss(frozen, at, blocks);
  };
  const std::size_t num_operations = 300 + frozen.d_o.values.size();
  const Derivative far = difference_quotient(loss_at, step, num_operations);
  const Derivative near = difference_quotient(loss_at, step / 2, num_operations);
  return {{near.value, std::abs(near.value - far.value) + near.error_bound}, is_smooth};
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
      const auto [derivative, is_smooth] = central_difference(frozen, moved, step);
      if (!is_smooth) continue;
      ++num_smooth;
      const Sum<Real> analytic = slope(frozen.gradients, frozen.direction, moved);
      const Sum<Real> expected(derivative.value, analytic.terms);
      RC_ASSERT(comparison.agrees(named(frozen.in)[moved].first, analytic.value, expected, derivative.error_bound));
    }
  });
  std::cout << num_smooth << " of " << num_directions << " directions keep every decision\n";
  EXPECT_GT(num_smooth, num_directions * 2 / 3);
}

}  // namespace
}  // namespace attnspec::oracle
