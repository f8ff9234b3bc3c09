// Small problems of dense attention, attention over given blocks and MoBA for the tests of their oracle, and the
// reference's runs of them.
#pragma once

#include <array>
#include <string>
#include <utility>

#include "reference/dense.hpp"
#include "reference/moba/moba.hpp"
#include "reference/selftest/oracle_testing.hpp"

namespace attnspec::oracle {

using reference::Selection;

constexpr std::int64_t kMaxKeys = 40;  // in a sequence, and so the most blocks

struct SmallMoba : SmallAttention {
  std::int64_t block = 1, top_k = 1;
  Gate gate = Gate::top_k;
  bool causal = true;
};

inline std::ostream& operator<<(std::ostream& out, const SmallMoba& small) {
  return out << static_cast<const SmallAttention&>(small) << " block " << small.block << " top_k " << small.top_k
             << " gate " << static_cast<int>(small.gate) << " causal " << small.causal;
}

inline MobaProblem moba_problem(const SmallMoba& small) {
  MobaProblem problem{attention_problem(small), small.block, small.top_k, small.gate};
  problem.attention.causal = small.causal;
  return problem;
}

/// Problems that `validate` accepts: gates other than top_k are causal, and a sink gate has room for two blocks.
inline rc::Gen<SmallMoba> small_moba_problems() {
  using rc::gen::inRange;
  using rc::gen::set;
  using rc::gen::weightedElement;
  const auto any = rc::gen::build<SmallMoba>(
      set(&SmallMoba::sequences, sequence_lengths(4, kMaxKeys)), set(&SmallMoba::kv_heads, inRange<std::int64_t>(1, 4)),
      set(&SmallMoba::group, inRange<std::int64_t>(1, 7)), set(&SmallMoba::dk, inRange<std::int64_t>(1, 10)),
      set(&SmallMoba::dv, inRange<std::int64_t>(1, 10)), set(&SmallMoba::block, inRange<std::int64_t>(1, 21)),
      set(&SmallMoba::top_k, inRange<std::int64_t>(1, 9)),
      set(&SmallMoba::gate, weightedElement<Gate>({{3, Gate::top_k}, {1, Gate::window}, {1, Gate::sink}})),
      set(&SmallMoba::causal, weightedElement<bool>({{3, true}, {1, false}})),
      set(&SmallMoba::relative_scale, weightedElement<double>({{3, 1.0}, {1, 0.0}, {1, -1.0}, {1, 2.5}})),
      set(&SmallMoba::is_dyadic, weightedElement<bool>({{3, false}, {1, true}})),
      set(&SmallMoba::seed, rc::gen::arbitrary<std::uint64_t>()));
  return rc::gen::map(any, [](SmallMoba small) {
    while (small.kv_heads * small.group > 6) --small.kv_heads;
    if (!small.causal) small.gate = Gate::top_k;
    if (small.gate == Gate::sink) small.top_k = std::max<std::int64_t>(small.top_k, 2);
    return small;
  });
}

/// Expects a property of `times_hundred` hundred small problems.
template <class Property>
void expect_on_small_moba(std::size_t times_hundred, const Property& property) {
  expect_on(times_hundred, small_moba_problems(), property);
}

/// What attention reads; or the gradients of it.
template <class Number>
struct AttentionTensors {
  Tensor<Number> q, k, v;
};

/// Every tensor with the name of its gradient. Tensors: an AttentionTensors, const or not.
template <class Tensors>
requires requires(Tensors& in) { in.v; }
auto named(Tensors& in) {
  using Entry = std::pair<const char*, decltype(&in.q)>;
  return std::array<Entry, 3>{{{"dq", &in.q}, {"dk", &in.k}, {"dv", &in.v}}};
}

/// The inputs of a problem, or directions in which to move them.
inline AttentionTensors<Real> attention_inputs(const SmallAttention& small, const std::string& purpose = "") {
  const AttentionProblem problem = attention_problem(small);
  const std::int64_t queries = problem.q_offsets.back(), keys = problem.k_offsets.back();
  return {draw(queries, problem.heads, small.dk, small, purpose + "q"),
          draw(keys, problem.kv_heads, small.dk, small, purpose + "k"),
          draw(keys, problem.kv_heads, small.dv, small, purpose + "v")};
}

/// The inputs and do of a problem as the reference takes them.
struct LoweredAttention {
  reference::Tensor q, k, v, d_o;

  explicit LoweredAttention(const SmallAttention& small) : d_o(lower(output_gradient(small))) {
    const AttentionTensors<Real> in = attention_inputs(small);
    q = lower(in.q), k = lower(in.k), v = lower(in.v);
  }
};

/// Attention as the reference computes it, forward and backward.
struct ReferenceRun {
  AttentionProblem problem;
  AttentionTensors<Real> in;
  Tensor<Real> d_o;
  reference::AttentionOutputs outputs;
  reference::AttentionGradients gradients;
};

inline ReferenceRun run_dense(const SmallMoba& small) {
  const AttentionProblem problem = moba_problem(small).attention;
  const LoweredAttention in(small);
  const auto outputs = reference::dense(problem, {in.q, in.k, in.v});
  return {problem, attention_inputs(small), output_gradient(small), outputs,
          reference::dense_backward(problem, {in.q, in.k, in.v}, in.d_o, outputs)};
}

inline ReferenceRun run_selected(const SmallMoba& small, const Selection& selection) {
  const AttentionProblem problem = moba_problem(small).attention;
  const LoweredAttention in(small);
  const auto outputs = reference::selected(problem, small.block, {in.q, in.k, in.v}, selection);
  return {problem, attention_inputs(small), output_gradient(small), outputs,
          reference::selected_backward(problem, small.block, {in.q, in.k, in.v}, selection, in.d_o, outputs)};
}

/// MoBA on the selection the reference makes.
struct MobaRun {
  ReferenceRun attention;
  Lists blocks;
};

inline MobaRun run_moba(const SmallMoba& small) {
  const MobaProblem problem = moba_problem(small);
  const LoweredAttention in(small);
  const auto [selection, outputs] = reference::moba(problem, {in.q, in.k, in.v});
  return {
      {problem.attention, attention_inputs(small), output_gradient(small), outputs,
       reference::selected_backward(problem.attention, small.block, {in.q, in.k, in.v}, selection, in.d_o, outputs)},
      lift(selection)};
}

/// Empty, or where outputs or gradients of the reference differ from the oracle's over the given keys. The gradients
/// are those of the o and lse that the reference's backward was given.
inline std::string difference(Comparison& comparison, const ReferenceRun& run, const Lists& keys) {
  const auto& [q, k, v] = run.in;
  const Gradients<Real> gradients = attend_backward(run.problem, q, k, v, keys, run.d_o, lift(run.outputs));
  return difference(comparison, "", run.outputs, attend(run.problem, q, k, v, keys)) +
         comparison.difference("dq", run.gradients.dq, gradients.dq) +
         comparison.difference("dk", run.gradients.dk, gradients.dk) +
         comparison.difference("dv", run.gradients.dv, gradients.dv);
}

/// The blocks a gate compares, 0 .. n - 1: the past ones, or all where not causal. The fixed gates compare none.
inline std::int64_t num_candidates(const MobaProblem& problem, const Place& place) {
  if (problem.gate != Gate::top_k) return 0;
  if (!problem.attention.causal) return (place.num_keys + problem.block - 1) / problem.block;
  return std::max<std::int64_t>(place.t, 0) / problem.block;
}

/// How far the lowest selected candidate's score lies above the highest of the others; +infinity where there was
/// nothing to select.
inline Real lead(const std::vector<Sum<Real>>& scores, std::int64_t candidates,
                 const std::vector<std::int64_t>& selected) {
  Real lowest_selected = std::numeric_limits<Real>::infinity(), highest_other = -lowest_selected;
  for (std::int64_t b = 0; b < candidates; ++b) {
    const Real score = scores[static_cast<std::size_t>(b)].value;
    if (std::find(selected.begin(), selected.end(), b) != selected.end())
      lowest_selected = std::min(lowest_selected, score);
    else
      highest_other = std::max(highest_other, score);
  }
  return lowest_selected - highest_other;
}

}  // namespace attnspec::oracle
