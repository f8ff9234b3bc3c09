// The reference against the second oracle, and the oracle against derivatives that need no formula of their own.
//
// RapidCheck draws sizes and parameters; the tensors are a function of the seed it draws. A bound is a number times the
// terms of the expected value (Sum), and each test prints the largest part of its bound that was used.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <bit>
#include <iostream>
#include <string>
#include <utility>

#include "reference/dense.hpp"
#include "reference/moba.hpp"
#include "reference/selected.hpp"
#include "verify/random.hpp"
#include "verify/selftest/oracle_testing.hpp"

namespace attnspec::oracle {
namespace {

using reference::AttentionGradients;
using reference::AttentionOutputs;
using reference::Selection;
using verify::Random;

constexpr std::int64_t kMostKeys = 40;  // in a sequence, and so the most blocks

struct SmallProblem {
  std::vector<SequenceLengths> sequences;
  std::int64_t kv_heads = 1, group = 1, dk = 1, dv = 1, block = 1, top_k = 1;
  Gate gate = Gate::top_k;
  bool causal = true;
  double relative_scale = 1;  // the softmax scale in units of dk^-1/2
  bool is_dyadic = false;     // inputs on a grid of halves, where scores tie exactly
  std::uint64_t seed = 0;
};

std::ostream& operator<<(std::ostream& out, const SmallProblem& small) {
  out << "sequences";
  for (const SequenceLengths& lengths : small.sequences) out << " " << lengths.queries << ":" << lengths.keys;
  return out << " kv_heads " << small.kv_heads << " group " << small.group << " dk " << small.dk << " dv " << small.dv
             << " block " << small.block << " top_k " << small.top_k << " gate " << static_cast<int>(small.gate)
             << " causal " << small.causal << " relative_scale " << small.relative_scale << " dyadic "
             << small.is_dyadic << " seed " << small.seed;
}

MobaProblem moba_problem(const SmallProblem& small) {
  AttentionProblem attention;
  for (const SequenceLengths& lengths : small.sequences) {
    attention.q_offsets.push_back(attention.q_offsets.back() + lengths.queries);
    attention.k_offsets.push_back(attention.k_offsets.back() + lengths.keys);
  }
  attention.heads = small.kv_heads * small.group;
  attention.kv_heads = small.kv_heads;
  attention.dk = small.dk;
  attention.dv = small.dv;
  attention.scale = small.relative_scale / std::sqrt(static_cast<double>(small.dk));
  attention.causal = small.causal;
  return {attention, small.block, small.top_k, small.gate};
}

/// Problems that `validate` accepts: gates other than top_k are causal, and a sink gate has room for two blocks.
rc::Gen<SmallProblem> small_problems() {
  using rc::gen::inRange;
  using rc::gen::set;
  using rc::gen::weightedElement;
  const auto sequences = rc::gen::mapcat(inRange<std::size_t>(1, 5), [](std::size_t count) {
    return rc::gen::container<std::vector<SequenceLengths>>(count, sequence_lengths(kMostKeys));
  });
  const auto any = rc::gen::build<SmallProblem>(
      set(&SmallProblem::sequences, sequences), set(&SmallProblem::kv_heads, inRange<std::int64_t>(1, 4)),
      set(&SmallProblem::group, inRange<std::int64_t>(1, 7)), set(&SmallProblem::dk, inRange<std::int64_t>(1, 10)),
      set(&SmallProblem::dv, inRange<std::int64_t>(1, 10)), set(&SmallProblem::block, inRange<std::int64_t>(1, 21)),
      set(&SmallProblem::top_k, inRange<std::int64_t>(1, 9)),
      set(&SmallProblem::gate, weightedElement<Gate>({{3, Gate::top_k}, {1, Gate::window}, {1, Gate::sink}})),
      set(&SmallProblem::causal, weightedElement<bool>({{3, true}, {1, false}})),
      set(&SmallProblem::relative_scale, weightedElement<double>({{3, 1.0}, {1, 0.0}, {1, -1.0}, {1, 2.5}})),
      set(&SmallProblem::is_dyadic, weightedElement<bool>({{3, false}, {1, true}})),
      set(&SmallProblem::seed, rc::gen::arbitrary<std::uint64_t>()));
  return rc::gen::map(any, [](SmallProblem small) {
    while (small.kv_heads * small.group > 6) --small.kv_heads;
    if (!small.causal) small.gate = Gate::top_k;
    if (small.gate == Gate::sink) small.top_k = std::max<std::int64_t>(small.top_k, 2);
    return small;
  });
}

/// Expects a property of `times_hundred` hundred small problems.
template <class Property>
void expect_on_small_problems(std::size_t times_hundred, const Property& property) {
  expect_on(times_hundred, small_problems(), property);
}

struct Inputs {
  reference::Tensor q, k, v, d_o;
};

/// Normal numbers, or a half of -2 .. 2: a function of the seed and the tensor's name.
reference::Tensor draw(std::int64_t tokens, std::int64_t heads, std::int64_t dim, const SmallProblem& small,
                       const std::string& name) {
  const Random random(small.seed, name);
  reference::Tensor tensor(tokens, heads, dim);
  std::uint64_t n = 0;
  for (std::int64_t token = 0; token < tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      for (std::int64_t d = 0; d < dim; ++d, ++n)
        tensor.at(token, head)[d] =
            small.is_dyadic ? static_cast<double>(random.below(5, n) - 2) / 2 : random.normal(n);
  return tensor;
}

/// q, k, v and do of a problem, or directions in which to move q, k and v.
Inputs inputs(const SmallProblem& small, const std::string& purpose = "") {
  const AttentionProblem problem = moba_problem(small).attention;
  const std::int64_t queries = problem.q_offsets.back(), keys = problem.k_offsets.back();
  return {draw(queries, problem.heads, small.dk, small, purpose + "q"),
          draw(keys, problem.kv_heads, small.dk, small, purpose + "k"),
          draw(keys, problem.kv_heads, small.dv, small, purpose + "v"),
          draw(queries, problem.heads, small.dv, small, purpose + "do")};
}

/// Attention as the reference computes it, forward and backward.
struct ReferenceRun {
  AttentionProblem problem;
  Inputs in;
  AttentionOutputs outputs;
  AttentionGradients gradients;
};

ReferenceRun run_dense(const SmallProblem& small) {
  const AttentionProblem problem = moba_problem(small).attention;
  const Inputs in = inputs(small);
  const AttentionOutputs outputs = reference::dense(problem, in.q, in.k, in.v);
  return {problem, in, outputs, reference::dense_backward(problem, in.q, in.k, in.v, in.d_o, outputs)};
}

ReferenceRun run_selected(const SmallProblem& small, const Selection& selection) {
  const AttentionProblem problem = moba_problem(small).attention;
  const Inputs in = inputs(small);
  const AttentionOutputs outputs = reference::selected(problem, small.block, in.q, in.k, in.v, selection);
  return {problem, in, outputs, selected_backward(problem, small.block, in.q, in.k, in.v, selection, in.d_o, outputs)};
}

/// MoBA on the selection the reference makes.
struct MobaRun {
  ReferenceRun attention;
  Lists blocks;
};

MobaRun run_moba(const SmallProblem& small) {
  const MobaProblem problem = moba_problem(small);
  const Inputs in = inputs(small);
  const auto [selection, outputs] = reference::moba(problem, in.q, in.k, in.v);
  return {{problem.attention, in, outputs,
           selected_backward(problem.attention, small.block, in.q, in.k, in.v, selection, in.d_o, outputs)},
          lift(selection)};
}

/// Empty, or where outputs or gradients of the reference differ from the oracle's over the given keys. The gradients
/// are those of the o and lse that the reference's backward was given.
std::string difference(Comparison& comparison, const ReferenceRun& run, const Lists& keys) {
  const auto q = lift<Real>(run.in.q), k = lift<Real>(run.in.k), v = lift<Real>(run.in.v);
  const Outputs<Real> expected = attend(run.problem, q, k, v, keys);
  const Outputs<Real> given{lift<Sum<Real>>(run.outputs.o), lift<Sum<Real>>(run.outputs.lse)};
  const Gradients<Real> gradients = attend_backward(run.problem, q, k, v, keys, lift<Real>(run.in.d_o), given);
  return comparison.difference("o", run.outputs.o, expected.o) +
         comparison.difference("lse", run.outputs.lse, expected.lse) +
         comparison.difference("dq", run.gradients.dq, gradients.dq) +
         comparison.difference("dk", run.gradients.dk, gradients.dk) +
         comparison.difference("dv", run.gradients.dv, gradients.dv);
}

/// The blocks a gate compares, 0 .. n - 1: the past ones, or all where not causal. The fixed gates compare none.
std::int64_t num_candidates(const MobaProblem& problem, const Place& place) {
  if (problem.gate != Gate::top_k) return 0;
  if (!problem.attention.causal) return (place.num_keys + problem.block - 1) / problem.block;
  return std::max<std::int64_t>(place.t, 0) / problem.block;
}

/// How far the lowest chosen candidate's score lies above the highest of the others; +infinity where there was nothing
/// to choose.
Real lead(const std::vector<Sum<Real>>& scores, std::int64_t candidates, const std::vector<std::int64_t>& chosen) {
  Real lowest_chosen = std::numeric_limits<Real>::infinity(), highest_other = -lowest_chosen;
  for (std::int64_t b = 0; b < candidates; ++b) {
    const Real score = scores[static_cast<std::size_t>(b)].value;
    if (std::find(chosen.begin(), chosen.end(), b) != chosen.end())
      lowest_chosen = std::min(lowest_chosen, score);
    else
      highest_other = std::max(highest_other, score);
  }
  return lowest_chosen - highest_other;
}

/// Whether a double computes the gate scores of a row without any error: halves, and means over powers of two.
bool has_exact_scores(const SmallProblem& small, const Place& place) {
  const std::int64_t last_tokens = small.causal ? 0 : place.num_keys % small.block;
  return small.is_dyadic && std::has_single_bit(static_cast<std::uint64_t>(small.block)) &&
         (last_tokens == 0 || std::has_single_bit(static_cast<std::uint64_t>(last_tokens)));
}

/// Whether scores in double order the candidates as exact ones do: no error, or a lead well above it.
bool is_decided(const SmallProblem& small, const MobaProblem& problem, const Place& place,
                const std::vector<Sum<Real>>& scores, const std::vector<std::int64_t>& chosen) {
  const std::int64_t candidates = num_candidates(problem, place);
  Real terms = 0;
  for (std::int64_t b = 0; b < candidates; ++b) terms = std::max(terms, scores[static_cast<std::size_t>(b)].terms);
  return has_exact_scores(small, place) || lead(scores, candidates, chosen) > 1e-12L * terms;
}

/// The reference's gate scores of one row, against mean keys that it pools anew.
reference::Vector reference_scores(const MobaProblem& problem, const Inputs& in, std::int64_t token, std::int64_t h) {
  const auto [t, first_key, num_keys] = locate(problem.attention, token);
  const reference::Matrix means =
      reference::pool_keys(in.k.rows(first_key, first_key + num_keys, key_head(problem.attention, h)), problem.block);
  reference::Tensor pooled(means.rows(), 1, means.cols());
  for (std::int64_t b = 0; b < pooled.tokens; ++b) pooled.row(b, 0) = means.row(b);
  return reference::gate_scores(in.q.row(token, h), pooled.rows(0, pooled.tokens, 0));
}

TEST(Oracle, ScoresBlocksAsTheReferenceDoes) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(5, [&](const SmallProblem& small) {
    const MobaProblem problem = moba_problem(small);
    const Inputs in = inputs(small);
    const auto q = lift<Real>(in.q), k = lift<Real>(in.k);
    for (std::int64_t token = 0; token < q.tokens; ++token)
      for (std::int64_t h = 0; h < q.heads; ++h) {
        const reference::Vector observed = reference_scores(problem, in, token, h);
        const auto expected = gate_scores(problem, q, k, token, h);
        RC_ASSERT(observed.size() == static_cast<Eigen::Index>(expected.size()));
        for (std::size_t b = 0; b < expected.size(); ++b)
          RC_ASSERT(comparison.agrees("s", observed[static_cast<Eigen::Index>(b)], expected[b]));
      }
  });
}

TEST(Oracle, SelectsTheBlocksTheReferenceSelects) {
  std::int64_t num_rows = 0, num_undecided = 0, num_ties = 0;
  expect_on_small_problems(20, [&](const SmallProblem& small) {
    const MobaProblem problem = moba_problem(small);
    const Inputs in = inputs(small);
    const auto q = lift<Real>(in.q), k = lift<Real>(in.k);
    const Lists observed = lift(reference::moba_select(problem, in.q, in.k)), expected = moba_blocks(problem, q, k);
    for (std::int64_t token = 0; token < q.tokens; ++token)
      for (std::int64_t h = 0; h < q.heads; ++h) {
        const Place place = locate(problem.attention, token);
        const auto scores = gate_scores(problem, q, k, token, h);
        const auto& chosen = expected.row(token, h);
        const bool row_is_decided = is_decided(small, problem, place, scores, chosen);
        ++num_rows;
        num_undecided += !row_is_decided;
        num_ties += row_is_decided && lead(scores, num_candidates(problem, place), chosen) == 0;
        RC_ASSERT(!row_is_decided || observed.row(token, h) == chosen);
      }
  });
  std::cout << num_rows << " rows, " << num_undecided << " undecided, " << num_ties << " decided by the tie rule\n";
  EXPECT_LT(num_undecided, num_rows / 20);
  EXPECT_GT(num_ties, num_rows / 1000);
}

TEST(Oracle, AgreesWithTheReferenceOnRandomSmallProblems) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(20, [&](const SmallProblem& small) {
    const auto [run, blocks] = run_moba(small);
    RC_ASSERT(difference(comparison, run, selected_keys(run.problem, small.block, blocks)) == "");
  });
}

/// Every block of a row's sequence with probability 1/2, future ones too, the last block in the first slot; per query
/// head or, for odd seeds, shared by the heads of a group.
Selection random_selection(const SmallProblem& small) {
  const AttentionProblem problem = moba_problem(small).attention;
  const std::int64_t heads = small.seed % 2 == 0 ? problem.heads : problem.kv_heads, slots = kMostKeys;
  const Random random(small.seed, "selection");
  Selection selection(problem.q_offsets.back(), heads, slots);
  for (std::int64_t token = 0; token < selection.tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      for (std::int64_t b = 0; b * small.block < locate(problem, token).num_keys; ++b)
        if (random.below(2, static_cast<std::uint64_t>((token * heads + head) * slots + b)) == 0)
          selection.row(token, head)[static_cast<std::size_t>(slots - 1 - b)] = static_cast<std::int32_t>(b);
  return selection;
}

TEST(Oracle, AgreesWithTheReferenceOnGivenSelections) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(5, [&](const SmallProblem& small) {
    const Selection selection = random_selection(small);
    const ReferenceRun run = run_selected(small, selection);
    RC_ASSERT(difference(comparison, run, selected_keys(run.problem, small.block, lift(selection))) == "");
  });
}

TEST(Oracle, AgreesWithTheReferenceOnDenseAttention) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(5, [&](const SmallProblem& small) {
    const ReferenceRun run = run_dense(small);
    RC_ASSERT(difference(comparison, run, dense_keys(run.problem)) == "");
  });
}

/// The input that a derivative moves, and the name of the gradient along it.
enum class Moved { q, k, v };
constexpr std::pair<Moved, const char*> kMovedInputs[] = {{Moved::q, "dq"}, {Moved::k, "dk"}, {Moved::v, "dv"}};

template <class T>
struct Point {
  Tensor<T> q, k, v;
};

/// x + step direction.
template <class T>
Tensor<T> displaced(const reference::Tensor& x, const reference::Tensor& direction, const T& step) {
  Tensor<T> result = lift<T>(x);
  const Tensor<T> along = lift<T>(direction);
  for (std::size_t n = 0; n < result.values.size(); ++n) result.values[n] += step * along.values[n];
  return result;
}

/// The inputs with one of them moved by a step in its direction.
template <class T>
Point<T> displaced(const Inputs& in, const Inputs& direction, Moved moved, const T& step) {
  return {displaced(in.q, direction.q, moved == Moved::q ? step : T(0)),
          displaced(in.k, direction.k, moved == Moved::k ? step : T(0)),
          displaced(in.v, direction.v, moved == Moved::v ? step : T(0))};
}

/// <do, o(q, k, v)>, summed over all rows and features: what the gradients are the derivatives of.
template <class T>
Sum<T> loss(const AttentionProblem& problem, const Point<T>& at, const Lists& keys, const reference::Tensor& d_o) {
  return product(lift<T>(d_o), attend(problem, at.q, at.k, at.v, keys).o);
}

/// The derivative of the loss along the direction of the moved input.
Sum<Real> slope(const Gradients<Real>& gradients, const Inputs& direction, Moved moved) {
  switch (moved) {
    case Moved::q: return product(lift<Real>(direction.q), gradients.dq);
    case Moved::k: return product(lift<Real>(direction.k), gradients.dk);
    default: return product(lift<Real>(direction.v), gradients.dv);
  }
}

/// MoBA with the selection of the reference frozen, and both sets of gradients, each at the o and lse of its own
/// forward.
struct FrozenMoba {
  MobaProblem problem;
  Inputs in, direction;
  Lists blocks, keys;
  Gradients<Real> oracle, reference;
};

FrozenMoba freeze(const SmallProblem& small) {
  const auto [run, blocks] = run_moba(small);
  const Lists keys = selected_keys(run.problem, small.block, blocks);
  const auto q = lift<Real>(run.in.q), k = lift<Real>(run.in.k), v = lift<Real>(run.in.v);
  const Outputs<Real> outputs = attend(run.problem, q, k, v, keys);
  return {moba_problem(small),
          run.in,
          inputs(small, "direction of "),
          blocks,
          keys,
          attend_backward(run.problem, q, k, v, keys, lift<Real>(run.in.d_o), outputs),
          {lift<Sum<Real>>(run.gradients.dq), lift<Sum<Real>>(run.gradients.dk), lift<Sum<Real>>(run.gradients.dv)}};
}

TEST(Oracle, ComplexStepDerivativesAreTheAnalyticGradients) {
  const Real step = 1e-100L;  // its square is below every rounding error, so that the step makes no error
  Comparison extended(kExtendedTolerance), in_double(kDoubleTolerance);
  expect_on_small_problems(3, [&](const SmallProblem& small) {
    const FrozenMoba frozen = freeze(small);
    for (const auto& [moved, name] : kMovedInputs) {
      const auto at = displaced(frozen.in, frozen.direction, moved, Complex(0, step));
      const Real derivative = loss(frozen.problem.attention, at, frozen.keys, frozen.in.d_o).value.imag() / step;
      const Sum<Real> analytic = slope(frozen.oracle, frozen.direction, moved);
      RC_ASSERT(extended.agrees(name, derivative, analytic));
      const Sum<Real> expected(derivative, analytic.terms);
      RC_ASSERT(in_double.agrees(name, slope(frozen.reference, frozen.direction, moved).value, expected));
    }
  });
}

/// What a unit step changes linear functions of the moved q or k by: gate_scores and score of these are the rates of
/// the scores of the inputs.
Point<Real> rates(const FrozenMoba& frozen, Moved moved) {
  return {lift<Real>(moved == Moved::q ? frozen.direction.q : frozen.in.q),
          lift<Real>(moved == Moved::k ? frozen.direction.k : frozen.in.k), lift<Real>(frozen.in.v)};
}

/// Whether every row selects the frozen blocks wherever the input moves within a step: the lead exceeds two moves of
/// the fastest candidate. Moving v moves no candidate.
bool selection_survives(const FrozenMoba& frozen, Moved moved, Real step) {
  const auto q = lift<Real>(frozen.in.q), k = lift<Real>(frozen.in.k);
  const Point<Real> rate = rates(frozen, moved);
  for (std::int64_t token = 0; token < q.tokens; ++token)
    for (std::int64_t h = 0; h < q.heads; ++h) {
      const std::int64_t candidates = num_candidates(frozen.problem, locate(frozen.problem.attention, token));
      const auto moves = gate_scores(frozen.problem, rate.q, rate.k, token, h);
      Real fastest = 0;
      for (std::int64_t b = 0; b < candidates && moved != Moved::v; ++b)
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
Real third_derivative_bound(const FrozenMoba& frozen, Moved moved) {
  if (moved == Moved::v) return 0;
  const AttentionProblem& problem = frozen.problem.attention;
  const auto v = lift<Real>(frozen.in.v), d_o = lift<Real>(frozen.in.d_o);
  const Point<Real> rate = rates(frozen, moved);
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

struct Derivative {
  Real value, error_bound;
};

/// (f(x) - f(-x)) / 2x of the loss f at a distance x = step along a direction, every f with a selection of its own.
///
/// It errs by x^2 / 6 times the third derivative and by the rounding errors of both losses over 2x. A loss adds as many
/// terms as o has elements, each made by fewer than 200 operations (Sum).
Derivative central_difference(const FrozenMoba& frozen, Moved moved, Real step) {
  const MobaProblem& problem = frozen.problem;
  const auto loss_at = [&](Real distance) {
    const Point<Real> at = displaced(frozen.in, frozen.direction, moved, distance);
    const Lists keys = selected_keys(problem.attention, problem.block, moba_blocks(problem, at.q, at.k));
    return loss(problem.attention, at, keys, frozen.in.d_o);
  };
  const Sum<Real> change = loss_at(step) - loss_at(-step);
  const Real roundoff = std::numeric_limits<Real>::epsilon() / 2;
  const Real num_operations = 200 + static_cast<Real>(frozen.in.d_o.values.size());
  return {change.value / (2 * step), third_derivative_bound(frozen, moved) * step * step / 6 +
                                         num_operations * roundoff * change.terms / (2 * step)};
}

TEST(Oracle, CentralDifferencesOfTheUnfrozenFunctionAreTheGradients) {
  const Real step = 0x1p-21L;  // near the cube root of the roundoff, where both errors are of the same order
  std::int64_t num_directions = 0, num_allowed = 0;
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(3, [&](const SmallProblem& small) {
    const FrozenMoba frozen = freeze(small);
    for (const auto& [moved, name] : kMovedInputs) {
      ++num_directions;
      if (!selection_survives(frozen, moved, step)) continue;
      ++num_allowed;
      const Derivative derivative = central_difference(frozen, moved, step);
      const Sum<Real> expected(derivative.value, slope(frozen.oracle, frozen.direction, moved).terms);
      const Real observed = slope(frozen.reference, frozen.direction, moved).value;
      RC_ASSERT(comparison.agrees(name, observed, expected, derivative.error_bound));
    }
  });
  std::cout << num_allowed << " of " << num_directions << " directions keep the selection\n";
  EXPECT_GT(num_allowed, num_directions * 2 / 3);
}

TEST(Oracle, MobaOfAsManyBlocksAsTheSequenceHasIsDense) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(1, [&](SmallProblem small) {
    small.top_k = kMostKeys + 2;
    const ReferenceRun run = run_moba(small).attention;
    RC_ASSERT(difference(comparison, run, dense_keys(run.problem)) == "");
  });
}

TEST(Oracle, AttentionOverEveryVisibleBlockIsDense) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(1, [&](const SmallProblem& small) {
    const AttentionProblem problem = moba_problem(small).attention;
    Selection all(problem.q_offsets.back(), problem.kv_heads, kMostKeys);
    for (std::int64_t token = 0; token < all.tokens; ++token) {
      const Place place = locate(problem, token);
      const std::int64_t num_visible = small.causal ? place.t + 1 : place.num_keys;
      for (std::int64_t g = 0; g < all.heads; ++g)
        for (std::int64_t b = 0; b * small.block < num_visible; ++b)
          all.row(token, g)[static_cast<std::size_t>(b)] = static_cast<std::int32_t>(b);
    }
    RC_ASSERT(difference(comparison, run_selected(small, all), dense_keys(problem)) == "");
  });
}

TEST(Oracle, MobaWithABlockLongerThanTheSequenceIsDense) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(1, [&](SmallProblem small) {
    small.block = kMostKeys + 1;
    const ReferenceRun run = run_moba(small).attention;
    RC_ASSERT(difference(comparison, run, dense_keys(run.problem)) == "");
  });
}

/// Every sequence of a problem, with as many queries as keys, cut into sequences of one block each.
AttentionProblem cut_at_blocks(const SmallProblem& small) {
  SmallProblem cut = small;
  cut.sequences.clear();
  for (const SequenceLengths& lengths : small.sequences)
    for (std::int64_t begin = 0; begin < lengths.keys; begin += small.block) {
      const std::int64_t tokens = std::min(small.block, lengths.keys - begin);
      cut.sequences.push_back({tokens, tokens});
    }
  return moba_problem(cut).attention;
}

TEST(Oracle, MobaOfOneBlockIsBlockDiagonal) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_problems(1, [&](SmallProblem small) {
    small.top_k = 1;
    small.gate = small.gate == Gate::sink ? Gate::window : small.gate;
    small.causal = true;
    for (SequenceLengths& lengths : small.sequences) lengths.queries = lengths.keys;
    RC_ASSERT(difference(comparison, run_moba(small).attention, dense_keys(cut_at_blocks(small))) == "");
  });
}

/// A causal MoBA problem with two heads over one and short blocks, for cases worked out by hand.
SmallProblem worked_problem(const std::vector<SequenceLengths>& sequences, std::int64_t top_k) {
  SmallProblem small;
  small.sequences = sequences;
  small.group = 2;
  small.dk = 3;
  small.dv = 2;
  small.block = 4;
  small.top_k = top_k;
  return small;
}

/// Whether a row of every tensor is 0.
template <class... Tensors>
bool is_zero(std::int64_t token, std::int64_t head, const Tensors&... tensors) {
  return (tensors.row(token, head).isZero(0) && ...);
}

TEST(Oracle, RowsBeforeTheFirstKeyAreEmpty) {
  const SmallProblem small = worked_problem({{9, 6}, {2, 0}}, 2);
  const auto [run, blocks] = run_moba(small);
  const Lists expected = moba_blocks(moba_problem(small), lift<Real>(run.in.q), lift<Real>(run.in.k));
  for (std::int64_t token = 0; token < 11; ++token)
    for (std::int64_t h = 0; h < 2; ++h) {
      const bool is_empty = token < 3 || token >= 9;  // three queries more than keys, and two without any
      EXPECT_EQ(*run.outputs.lse.at(token, h) == -std::numeric_limits<double>::infinity(), is_empty) << token;
      EXPECT_EQ(is_zero(token, h, run.outputs.o, run.gradients.dq), is_empty) << token;
      EXPECT_EQ(blocks.row(token, h).empty(), is_empty) << token;
      EXPECT_EQ(expected.row(token, h), blocks.row(token, h)) << token;
    }
  Comparison comparison(kDoubleTolerance);
  EXPECT_EQ(difference(comparison, run, selected_keys(run.problem, small.block, expected)), "");
}

TEST(Oracle, EmptySequencesContributeNothing) {
  const SmallProblem with = worked_problem({{0, 0}, {9, 9}, {0, 0}, {5, 5}, {0, 0}}, 2);
  const SmallProblem without = worked_problem({{9, 9}, {5, 5}}, 2);
  const auto [run, blocks] = run_moba(with);
  const MobaProblem problem = moba_problem(without);
  const Lists expected = moba_blocks(problem, lift<Real>(run.in.q), lift<Real>(run.in.k));
  EXPECT_EQ(blocks.rows, expected.rows);
  EXPECT_EQ(dense_keys(run.problem).rows, dense_keys(problem.attention).rows);
  Comparison comparison(kDoubleTolerance);
  EXPECT_EQ(difference(comparison, run, selected_keys(problem.attention, problem.block, expected)), "");
}

TEST(Oracle, AKeyThatNoQuerySeesHasNoGradient) {
  const SmallProblem small = worked_problem({{3, 10}}, 1);  // queries at 7, 8 and 9 see the keys 4 to 9
  const auto [run, blocks] = run_moba(small);
  for (std::int64_t key = 0; key < 10; ++key)
    EXPECT_EQ(is_zero(key, 0, run.gradients.dk, run.gradients.dv), key < 4) << key;
  Comparison comparison(kDoubleTolerance);
  EXPECT_EQ(difference(comparison, run, selected_keys(run.problem, small.block, blocks)), "");
}

/// I(t) of a gate on one sequence of eleven tokens in blocks of two, where block b has the gate score score_of[b].
std::vector<std::int64_t> selected_at(Gate gate, std::int64_t top_k, bool causal, std::int64_t t,
                                      const std::vector<Real>& score_of) {
  SmallProblem small = worked_problem({{11, 11}}, top_k);
  small.block = 2;
  small.gate = gate;
  small.causal = causal;
  return select_blocks(moba_problem(small), std::vector<Sum<Real>>(score_of.begin(), score_of.end()), t);
}

TEST(Oracle, SelectsByHand) {
  using Blocks = std::vector<std::int64_t>;
  const std::vector<Real> scores{1, 3, 2, 3, 9, 9};
  EXPECT_EQ(selected_at(Gate::top_k, 1, true, 9, scores), (Blocks{4}));
  EXPECT_EQ(selected_at(Gate::top_k, 2, true, 9, scores), (Blocks{1, 4})) << "ties go to the lower index";
  EXPECT_EQ(selected_at(Gate::top_k, 3, true, 8, scores), (Blocks{1, 3, 4})) << "the own block counts";
  EXPECT_EQ(selected_at(Gate::top_k, 9, true, 5, scores), (Blocks{0, 1, 2})) << "fewer blocks than top_k";
  EXPECT_EQ(selected_at(Gate::top_k, 3, true, -1, scores), Blocks{}) << "before the first key";
  EXPECT_EQ(selected_at(Gate::top_k, 2, false, 0, scores), (Blocks{4, 5})) << "nothing is forced";
  EXPECT_EQ(selected_at(Gate::window, 2, true, 9, scores), (Blocks{3, 4}));
  EXPECT_EQ(selected_at(Gate::window, 9, true, 3, scores), (Blocks{0, 1}));
  EXPECT_EQ(selected_at(Gate::sink, 3, true, 9, scores), (Blocks{0, 3, 4}));
  EXPECT_EQ(selected_at(Gate::sink, 2, true, 9, scores), (Blocks{0, 4}));
  EXPECT_EQ(selected_at(Gate::sink, 2, true, 1, scores), (Blocks{0})) << "the first block is the own one";
}

}  // namespace
}  // namespace attnspec::oracle
