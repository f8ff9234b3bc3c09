// The reference of NSA against the second oracle: every output and every gradient, of every stage on what it was given,
// and of all stages together.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <string>

#include "reference/nsa/nsa.hpp"
#include "reference/selftest/nsa_problems.hpp"

namespace attnspec::oracle {
namespace {

/// One set of a parameter as a matrix, [rows, columns]; empty where phi does not have it.
reference::Matrix matrix(const Tensor<Real>& parameter, std::int64_t set) {
  reference::Matrix result(parameter.tokens, parameter.dim);
  for (std::int64_t row = 0; row < parameter.tokens; ++row)
    for (std::int64_t column = 0; column < parameter.dim; ++column)
      result(row, column) = static_cast<double>(parameter(row, set, column));
  return result;
}

reference::PhiHeads lower(const NsaProblem& problem, const PhiParameters<Real>& phi) {
  const bool is_linear = problem.phi == Phi::linear;
  reference::PhiHeads heads(static_cast<std::size_t>(problem.shared_phi ? 1 : problem.attention.kv_heads));
  for (std::size_t set = 0; set < heads.size(); ++set) {
    const auto of_set = [&](const Tensor<Real>& parameter) {
      return matrix(parameter, static_cast<std::int64_t>(set));
    };
    heads[set].position = of_set(phi.position);
    (is_linear ? heads[set].w : heads[set].w1) = of_set(phi.w1);
    heads[set].b1 = of_set(phi.b1).reshaped();
    heads[set].w2 = of_set(phi.w2);
    heads[set].b2 = of_set(phi.b2).reshaped();
  }
  return heads;
}

/// The sets of a parameter, matrices [rows, columns], as a tensor of the shape of another.
template <class Parameter>
Tensor<Real> join(const reference::PhiHeads& heads, const Parameter& parameter, const Tensor<Real>& like) {
  Tensor<Real> joined(like.tokens, like.heads, like.dim);
  for (std::size_t set = 0; set < heads.size(); ++set) {
    const reference::Matrix part = parameter(heads[set]);
    EXPECT_EQ(part.rows(), like.tokens);
    EXPECT_EQ(part.cols(), like.dim);
    for (std::int64_t row = 0; row < part.rows(); ++row)
      for (std::int64_t column = 0; column < part.cols(); ++column)
        joined(row, static_cast<std::int64_t>(set), column) = part(row, column);
  }
  return joined;
}

/// Empty, or where gradients of phi differ from the oracle's; like: the parameters.
std::string difference(Comparison& comparison, const std::string& suffix, const NsaProblem& problem,
                       const reference::PhiHeads& observed, const PhiParameters<Sum<Real>>& expected,
                       const PhiParameters<Real>& like) {
  using Heads = reference::PhiParameters;
  using reference::Matrix;
  const bool is_linear = problem.phi == Phi::linear, is_mlp = problem.phi == Phi::mlp;
  const auto w1 = [&](const Heads& phi) { return is_linear ? phi.w : phi.w1; };
  std::string found;
  if (is_linear || is_mlp) {
    const auto position = join(
        observed, [](const Heads& phi) { return phi.position; }, like.position);
    found += comparison.difference("dposition" + suffix, position, expected.position);
    found += comparison.difference("dw1" + suffix, join(observed, w1, like.w1), expected.w1);
  }
  if (is_mlp) {
    const auto b1 = join(
        observed, [](const Heads& phi) -> Matrix { return phi.b1.transpose(); }, like.b1);
    const auto w2 = join(
        observed, [](const Heads& phi) { return phi.w2; }, like.w2);
    const auto b2 = join(
        observed, [](const Heads& phi) -> Matrix { return phi.b2.transpose(); }, like.b2);
    found += comparison.difference("db1" + suffix, b1, expected.b1);
    found += comparison.difference("dw2" + suffix, w2, expected.w2);
    found += comparison.difference("db2" + suffix, b2, expected.b2);
  }
  return found;
}

/// The inputs of the reference.
struct LoweredInputs {
  reference::Tensor q, k_compressed, v_compressed, k_selected, v_selected, k_window, v_window, gates;
  reference::PhiHeads phi_k, phi_v;

  LoweredInputs(const NsaProblem& problem, const NsaTensors<Real>& in)
      : q(lower(in.q)),
        k_compressed(lower(in.compressed.k)),
        v_compressed(lower(in.compressed.v)),
        k_selected(lower(in.selected.k)),
        v_selected(lower(in.selected.v)),
        k_window(lower(in.window.k)),
        v_window(lower(in.window.v)),
        gates(lower(in.gates)),
        phi_k(lower(problem, in.phi_k)),
        phi_v(lower(problem, in.phi_v)) {}

  reference::NsaInputs view() const {
    return {q, {k_compressed, v_compressed}, {k_selected, v_selected}, {k_window, v_window}, gates, phi_k, phi_v};
  }
};

TEST(NsaAgreement, OfCompression) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_nsa(10, [&](const SmallNsa& small) {
    const NsaProblem problem = nsa_problem(small);
    reference::validate(problem);
    const NsaTensors<Real> in = nsa_inputs(small);
    const std::pair<const Tensor<Real>*, const PhiParameters<Real>*> sides[] = {{&in.compressed.k, &in.phi_k},
                                                                                {&in.compressed.v, &in.phi_v}};
    for (const auto& [x, phi] : sides) {
      const reference::PhiHeads heads = lower(problem, *phi);
      const Tensor<Sum<Real>> rows = compress(problem, *x, *phi);
      RC_ASSERT(comparison.difference("row", reference::compress(problem, heads, lower(*x)), rows) == "");
      const Tensor<Real> d_rows = draw(rows.tokens, rows.heads, rows.dim, small, "gradient of rows");
      const auto observed = reference::compress_backward(problem, heads, lower(*x), lower(d_rows));
      const auto expected = compress_backward(problem, *x, *phi, cast<Sum<Real>>(d_rows));
      RC_ASSERT(comparison.difference("dx", observed.tokens, expected.x) == "");
      RC_ASSERT(difference(comparison, "", problem, observed.phi, expected.phi, *phi) == "");
    }
  });
}

/// K~ of the reference, which the importances are functions of.
reference::Tensor compressed_rows(const NsaProblem& problem, const NsaTensors<Real>& in) {
  return reference::compress(problem, lower(problem, in.phi_k), lower(in.compressed.k));
}

TEST(NsaAgreement, OfImportances) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_nsa(10, [&](const SmallNsa& small) {
    const NsaProblem problem = nsa_problem(small);
    const NsaTensors<Real> in = nsa_inputs(small);
    const reference::Tensor q = lower(in.q), rows = compressed_rows(problem, in);
    const std::vector<std::int64_t> offsets = reference::compressed_offsets(problem);
    for (const reference::Sequence& sequence : reference::sequences(problem.attention))
      for (std::int64_t token = sequence.q_begin; token < sequence.q_end; ++token)
        for (std::int64_t g = 0; g < small.kv_heads; ++g) {
          const auto s = static_cast<std::size_t>(sequence.index);
          const reference::Vector observed =
              reference::importance(problem, reference::group_queries(problem, q, token, g),
                                    rows.rows(offsets[s], offsets[s + 1], g), sequence.position(token))
                  .importance;
          const auto expected = importance(problem, in.q, lift<Sum<Real>>(rows), token, g);
          RC_ASSERT(comparison.difference("importance", observed, expected) == "");
        }
  });
}

/// Whether blocks are those of a row: as many as there must be, each once, every forced one, and no other whose
/// importance lies below that of one left out by more than a double can err.
bool is_admissible(const NsaProblem& problem, const std::vector<std::int64_t>& blocks,
                   const std::vector<Sum<Real>>& importances) {
  const std::int64_t num_blocks = static_cast<std::int64_t>(importances.size());
  std::vector<bool> is_selected(importances.size());
  for (const std::int64_t j : blocks) {
    if (j >= num_blocks || is_selected[static_cast<std::size_t>(j)]) return false;
    is_selected[static_cast<std::size_t>(j)] = true;
  }
  if (static_cast<std::int64_t>(blocks.size()) != std::min(problem.top_n, num_blocks)) return false;
  Real lowest_selected = std::numeric_limits<Real>::infinity(), highest_other = -lowest_selected;
  for (std::int64_t j = 0; j < num_blocks; ++j) {
    const auto n = static_cast<std::size_t>(j);
    const Real error = kDoubleTolerance * importances[n].terms;
    if (must_take(problem, j, num_blocks - 1)) {
      if (!is_selected[n]) return false;
    } else if (is_selected[n]) {
      lowest_selected = std::min(lowest_selected, importances[n].value + error);
    } else {
      highest_other = std::max(highest_other, importances[n].value - error);
    }
  }
  return lowest_selected >= highest_other;
}

TEST(NsaAgreement, OfSelections) {
  std::int64_t num_rows = 0, num_equal = 0, num_selections = 0;
  expect_on_small_nsa(20, [&](const SmallNsa& small) {
    const NsaProblem problem = nsa_problem(small);
    const NsaTensors<Real> in = nsa_inputs(small);
    const reference::Tensor rows = compressed_rows(problem, in);
    const Lists observed = lift(reference::nsa_select(problem, lower(in.q), rows));
    const Tensor<Sum<Real>> k = lift<Sum<Real>>(rows);
    for (std::int64_t token = 0; token < in.q.tokens; ++token)
      for (std::int64_t g = 0; g < small.kv_heads; ++g) {
        const auto importances = importance(problem, in.q, k, token, g);
        const auto expected = select_blocks(problem, importances);
        RC_ASSERT(is_admissible(problem, expected, importances));
        RC_ASSERT(is_admissible(problem, observed.row(token, g), importances));
        ++num_rows;
        num_equal += observed.row(token, g) == expected;
        num_selections += static_cast<std::int64_t>(importances.size()) > problem.top_n && small.free_blocks > 0;
      }
  });
  std::cout << num_rows << " rows, " << num_selections << " select, " << num_rows - num_equal
            << " differ within the error of a double\n";
  EXPECT_GT(num_selections, num_rows / 50);
  EXPECT_LT(num_rows - num_equal, num_rows / 50);
}

TEST(NsaAgreement, OfSelectionsFromGivenImportances) {
  expect_on_small_nsa(20, [](const SmallNsa& small) {
    const NsaProblem problem = nsa_problem(small);
    const verify::Random random(small.seed, "importances");
    const std::int64_t num_blocks = random.below(20, 0), most = 1 + random.below(5, 1);  // many ties
    reference::Vector importances(num_blocks);
    std::vector<Sum<Real>> same;
    for (std::int64_t j = 0; j < num_blocks; ++j) {
      importances[j] = static_cast<double>(random.below(most, static_cast<std::uint64_t>(2 + j)));
      same.push_back(static_cast<Real>(importances[j]));
    }
    const std::vector<std::int32_t> observed = reference::select_blocks(problem, importances);
    RC_ASSERT(std::vector<std::int64_t>(observed.begin(), observed.end()) == select_blocks(problem, same));
  });
}

/// NSA as the reference computes it, forward and backward.
struct ReferenceNsa {
  NsaProblem problem;
  NsaTensors<Real> in;
  Tensor<Real> d_o;
  reference::NsaOutputs outputs;
  reference::NsaGradients gradients;
};

ReferenceNsa run(const SmallNsa& small) {
  const NsaProblem problem = nsa_problem(small);
  const NsaTensors<Real> in = nsa_inputs(small);
  const Tensor<Real> d_o = output_gradient(small);
  const LoweredInputs lowered(problem, in);
  const reference::NsaOutputs outputs = reference::nsa(problem, lowered.view());
  return {problem, in, d_o, outputs, reference::nsa_backward(problem, lowered.view(), lower(d_o), outputs)};
}

/// Empty, or where the outputs differ from the oracle's on the reference's selection and on given compressed rows.
std::string outputs_difference(Comparison& comparison, const ReferenceNsa& run, const KeyValues<Sum<Real>>& rows) {
  const NsaOutputs<Real> expected = nsa(run.problem, run.in, rows, lift(run.outputs.selection));
  return comparison.difference("k~", run.outputs.k_compressed, rows.k) +
         comparison.difference("v~", run.outputs.v_compressed, rows.v) +
         difference(comparison, "_cmp", run.outputs.compressed, expected.compressed) +
         difference(comparison, "_slc", run.outputs.selected, expected.selected) +
         difference(comparison, "_win", run.outputs.window, expected.window) +
         comparison.difference("o", run.outputs.o, expected.o);
}

/// Empty, or where the gradients differ from the oracle's at given compressed rows and outputs.
std::string gradients_difference(Comparison& comparison, const ReferenceNsa& run, const KeyValues<Sum<Real>>& rows,
                                 const NsaOutputs<Real>& outputs) {
  const reference::NsaGradients& observed = run.gradients;
  const Gradients<Real> compressed =
      attend_backward(run.problem.attention, run.in.q, rows.k, rows.v, compressed_keys(run.problem),
                      branch_gradient(run.in.gates, 0, run.d_o), outputs.compressed);
  const NsaTensors<Sum<Real>> expected =
      nsa_backward(run.problem, run.in, rows, lift(run.outputs.selection), outputs, run.d_o);
  return comparison.difference("dk~", observed.dk_compressed, compressed.dk) +
         comparison.difference("dv~", observed.dv_compressed, compressed.dv) +
         comparison.difference("dq", observed.dq, expected.q) +
         comparison.difference("dk_cmp", observed.compressed.dk, expected.compressed.k) +
         comparison.difference("dv_cmp", observed.compressed.dv, expected.compressed.v) +
         comparison.difference("dk_slc", observed.selected.dk, expected.selected.k) +
         comparison.difference("dv_slc", observed.selected.dv, expected.selected.v) +
         comparison.difference("dk_win", observed.window.dk, expected.window.k) +
         comparison.difference("dv_win", observed.window.dv, expected.window.v) +
         comparison.difference("dk_shared", reference::shared_gradients(observed).dk,
                               add(expected.compressed.k, expected.selected.k, expected.window.k)) +
         comparison.difference("dv_shared", reference::shared_gradients(observed).dv,
                               add(expected.compressed.v, expected.selected.v, expected.window.v)) +
         comparison.difference("dgates", observed.d_gates, expected.gates) +
         difference(comparison, "_k", run.problem, observed.d_phi_k, expected.phi_k, run.in.phi_k) +
         difference(comparison, "_v", run.problem, observed.d_phi_v, expected.phi_v, run.in.phi_v);
}

TEST(NsaAgreement, OfEveryStageOnWhatItWasGiven) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_nsa(20, [&](const SmallNsa& small) {
    const ReferenceNsa reference = run(small);
    const KeyValues<Sum<Real>> rows{lift<Sum<Real>>(reference.outputs.k_compressed),
                                    lift<Sum<Real>>(reference.outputs.v_compressed)};
    const NsaOutputs<Real> given{lift(reference.outputs.compressed), lift(reference.outputs.selected),
                                 lift(reference.outputs.window), lift<Sum<Real>>(reference.outputs.o)};
    RC_ASSERT(outputs_difference(comparison, reference, rows) == "");
    RC_ASSERT(gradients_difference(comparison, reference, rows, given) == "");
  });
}

TEST(NsaAgreement, OfAllStagesTogether) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_nsa(20, [&](const SmallNsa& small) {
    const ReferenceNsa reference = run(small);
    const KeyValues<Sum<Real>> rows = compress(reference.problem, reference.in);
    const NsaOutputs<Real> outputs = nsa(reference.problem, reference.in, rows, lift(reference.outputs.selection));
    RC_ASSERT(outputs_difference(comparison, reference, rows) == "");
    RC_ASSERT(gradients_difference(comparison, reference, rows, outputs) == "");
  });
}

TEST(NsaAgreement, OfTheGateLayer) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_nsa(10, [&](const SmallNsa& small) {
    const GateLayer<Real> in = gate_layer(small);
    const std::int64_t features = in.x.dim, columns = 3 * in.w.heads;
    reference::GateLayer layer{reference::Matrix(features, columns), reference::Vector(columns)};
    for (std::int64_t column = 0; column < columns; ++column) {
      layer.b[column] = static_cast<double>(in.b(0, column / 3, column % 3));
      for (std::int64_t e = 0; e < features; ++e)
        layer.w(e, column) = static_cast<double>(in.w(e, column / 3, column % 3));
    }
    const reference::Tensor observed = reference::gates(layer, lower(in.x));
    RC_ASSERT(comparison.difference("gates", observed, gate(in)) == "");

    const Tensor<Real> d_gates = nsa_inputs(small, "gradient of ").gates;
    const auto gradients = reference::gates_backward(layer, lower(in.x), observed, lower(d_gates));
    const GateLayer<Sum<Real>> expected = gate_backward(in, lift<Sum<Real>>(observed), d_gates);
    RC_ASSERT(comparison.difference("dx", gradients.x, expected.x) == "");
    for (std::int64_t column = 0; column < columns; ++column) {
      RC_ASSERT(comparison.agrees("db", gradients.layer.b[column], expected.b(0, column / 3, column % 3)));
      for (std::int64_t e = 0; e < features; ++e)
        RC_ASSERT(comparison.agrees("dw", gradients.layer.w(e, column), expected.w(e, column / 3, column % 3)));
    }
  });
}

}  // namespace
}  // namespace attnspec::oracle
