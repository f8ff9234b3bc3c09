// The gradients of the reference and of the second oracle against derivatives that need no formula of their own.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "reference/selftest/moba_problems.hpp"

namespace attnspec::oracle {
namespace {

constexpr std::size_t kQuery = 0, kKey = 1, kValue = 2;  // indices in `named`

/// <do, o(q, k, v)>, summed over all rows and features: what the gradients are the derivatives of.
template <class T>
Sum<T> loss(const AttentionProblem& problem, const AttentionTensors<T>& at, const Lists& keys,
            const Tensor<Real>& d_o) {
  return product(cast<T>(d_o), attend(problem, at.q, at.k, at.v, keys).o);
}

/// MoBA with the selection of the reference frozen, and both sets of gradients, each at the o and lse of its own
/// forward.
struct FrozenMoba {
  MobaProblem problem;
  AttentionTensors<Real> in, direction;
  Tensor<Real> d_o;
  Lists blocks, keys;
  AttentionTensors<Sum<Real>> oracle, reference;
};

FrozenMoba freeze(const SmallMoba& small) {
  const auto [run, blocks] = run_moba(small);
  const auto& [q, k, v] = run.in;
  const Lists keys = selected_keys(run.problem, small.block, blocks);
  const Outputs<Real> outputs = attend(run.problem, q, k, v, keys);
  const auto [dq, dk, dv] = attend_backward(run.problem, q, k, v, keys, run.d_o, outputs);
  return {moba_problem(small),
          run.in,
          attention_inputs(small, "direction of "),
          run.d_o,
          blocks,
          keys,
          {dq, dk, dv},
          {lift<Sum<Real>>(run.gradients.dq), lift<Sum<Real>>(run.gradients.dk), lift<Sum<Real>>(run.gradients.dv)}};
}

TEST(Oracle, ComplexStepDerivativesAreTheAnalyticGradients) {
  Comparison extended(kExtendedTolerance), in_double(kDoubleTolerance);
  expect_on_small_moba(3, [&](const SmallMoba& small) {
    const FrozenMoba frozen = freeze(small);
    const auto loss_at = [&](const AttentionTensors<Complex>& at) {
      return loss(frozen.problem.attention, at, frozen.keys, frozen.d_o);
    };
    for (std::size_t moved = 0; moved < named(frozen.in).size(); ++moved) {
      const char* name = named(frozen.in)[moved].first;
      const Real derivative = complex_step_slope(loss_at, frozen.in, frozen.direction, moved);
      const Sum<Real> analytic = slope(frozen.oracle, frozen.direction, moved);
      RC_ASSERT(extended.agrees(name, derivative, analytic));
      const Sum<Real> expected(derivative, analytic.terms);
      RC_ASSERT(in_double.agrees(name, slope(frozen.reference, frozen.direction, moved).value, expected));
    }
  });
}

/// What a unit step changes linear functions of the moved q or k by: gate_scores and score of these are the rates of
/// the scores of the inputs.
AttentionTensors<Real> rates(const FrozenMoba& frozen, std::size_t moved) {
  return {moved == kQuery ? frozen.direction.q : frozen.in.q, moved == kKey ? frozen.direction.k : frozen.in.k,
          frozen.in.v};
}

/// Whether every row selects the frozen blocks wherever the input moves within a step: the lead exceeds two moves of
/// the fastest candidate. Moving v moves no candidate.
bool selection_survives(const FrozenMoba& frozen, std::size_t moved, Real step) {
  const auto& [q, k, v] = frozen.in;
  const AttentionTensors<Real> rate = rates(frozen, moved);
  for (std::int64_t token = 0; token < q.tokens; ++token)
    for (std::int64_t h = 0; h < q.heads; ++h) {
      const std::int64_t candidates = num_candidates(frozen.problem, locate(frozen.problem.attention, token));
      const auto moves = gate_scores(frozen.problem, rate.q, rate.k, token, h);
      Real fastest = 0;
      for (std::int64_t b = 0; b < candidates && moved != kValue; ++b)
        fastest = std::max(fastest, std::abs(moves[static_cast<std::size_t>(b)].value));
      const auto scores = gate_scores(frozen.problem, q, k, token, h);
      if (!(lead(scores, candidates, frozen.blocks.row(token, h)) > 2 * step * fastest)) return false;
    }
  return true;
}

/// Bound on the third derivative of the loss along a direction.
///
/// Along it the scores of a row are s_j + x a_j, and the row adds sum_j P_j y_j to the loss, y_j = <do, v_j>. Its third
/// derivative is the joint cumulant of (y, a, a, a) under P: E[yaaa] - 3 E[ya] E[aa] of the centred numbers. Centred,
/// |y_j| <= 2 Y and |a_j| <= 2 A with Y and A the largest |y_j| and |a_j|, so that it is at most 64 Y A^3 at every x.
/// Along v the loss is linear.
Real third_derivative_bound(const FrozenMoba& frozen, std::size_t moved) {
  if (moved == kValue) return 0;
  const AttentionProblem& problem = frozen.problem.attention;
  const Tensor<Real>& v = frozen.in.v;
  const Tensor<Real>& d_o = frozen.d_o;
  const AttentionTensors<Real> rate = rates(frozen, moved);
  Real bound = 0;
  for (std::int64_t token = 0; token < d_o.tokens; ++token)
    for (std::int64_t h = 0; h < d_o.heads; ++h) {
      Real largest_y = 0, largest_a = 0;
      for (const std::int64_t key : frozen.keys.row(token, h)) {
        largest_y = std::max(largest_y, std::abs(dot<Real>(d_o, token, h, v, key, key_head(problem, h)).value));
        largest_a = std::max(largest_a, std::abs(score(problem, rate.q, rate.k, token, h, key).value));
      }
      bound += 64 * largest_y * largest_a * largest_a * largest_a;
    }
  return bound;
}

/// (f(x) - f(-x)) / 2x of the loss f at a distance x = step along a direction, every f with a selection of its own.
///
/// It errs by x^2 / 6 times the third derivative and by the rounding errors of both losses over 2x. A loss adds as many
/// terms as o has elements, each made by fewer than 200 operations (Sum).
Derivative central_difference(const FrozenMoba& frozen, std::size_t moved, Real step) {
  const MobaProblem& problem = frozen.problem;
  const auto loss_at = [&](Real distance) {
    const AttentionTensors<Real> at = displaced(frozen.in, frozen.direction, moved, distance);
    const Lists keys = selected_keys(problem.attention, problem.block, moba_blocks(problem, at.q, at.k));
    return loss(problem.attention, at, keys, frozen.d_o);
  };
  Derivative derivative = difference_quotient(loss_at, step, 200 + frozen.d_o.values.size());
  derivative.error_bound += third_derivative_bound(frozen, moved) * step * step / 6;
  return derivative;
}

TEST(Oracle, CentralDifferencesOfTheUnfrozenFunctionAreTheGradients) {
  const Real step = 0x1p-21L;  // near the cube root of the roundoff, where both errors are of the same order
  std::int64_t num_directions = 0, num_allowed = 0;
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(3, [&](const SmallMoba& small) {
    const FrozenMoba frozen = freeze(small);
    for (std::size_t moved = 0; moved < named(frozen.in).size(); ++moved) {
      ++num_directions;
      if (!selection_survives(frozen, moved, step)) continue;
      ++num_allowed;
      const Derivative derivative = central_difference(frozen, moved, step);
      const Sum<Real> expected(derivative.value, slope(frozen.oracle, frozen.direction, moved).terms);
      const Real observed = slope(frozen.reference, frozen.direction, moved).value;
      RC_ASSERT(comparison.agrees(named(frozen.in)[moved].first, observed, expected, derivative.error_bound));
    }
  });
  std::cout << num_allowed << " of " << num_directions << " directions keep the selection\n";
  EXPECT_GT(num_allowed, num_directions * 2 / 3);
}

}  // namespace
}  // namespace attnspec::oracle
