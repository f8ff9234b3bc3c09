#include <algorithm>
#include <cmath>
#include <iterator>

#include "reference/nsa/nsa.hpp"
#include "verify/golden/golden_file.hpp"

namespace attnspec::verify {

using reference::NsaProblem;
using reference::PhiHeads;
using reference::PhiParameters;
using reference::Tensor;

namespace {

NsaProblem nsa_problem(const GoldenFile& file) {
  const reference::MobaProblem blocks = file.problem("n");
  NsaProblem problem;
  problem.attention = blocks.attention;
  problem.block = blocks.block;
  problem.top_n = blocks.top_k;
  return problem;
}

/// One matrix of the parameters of every head, as a tensor [heads, rows, columns].
Tensor stack(const PhiHeads& phi, reference::Matrix PhiParameters::*matrix) {
  const auto heads = static_cast<std::int64_t>(phi.size());
  Tensor result(heads, (phi[0].*matrix).rows(), (phi[0].*matrix).cols());
  for (std::int64_t g = 0; g < heads; ++g)
    for (std::int64_t row = 0; row < result.heads; ++row)
      result.row(g, row) = (phi[static_cast<std::size_t>(g)].*matrix).row(row);
  return result;
}

void load_matrix(const GoldenFile& file, const char* name, reference::Matrix PhiParameters::*matrix, PhiHeads& phi) {
  const Tensor shape = stack(phi, matrix), recorded = file.load(name, shape.tokens, shape.heads, shape.dim);
  for (std::int64_t g = 0; g < shape.tokens; ++g)
    for (std::int64_t row = 0; row < shape.heads; ++row)
      (phi[static_cast<std::size_t>(g)].*matrix).row(row) = recorded.row(g, row);
}

/// One feature of every row, [tokens, heads, 1].
Tensor column(const Tensor& tensor, Eigen::Index feature) {
  Tensor result(tensor.tokens, tensor.heads, 1);
  for (std::int64_t token = 0; token < tensor.tokens; ++token)
    for (std::int64_t head = 0; head < tensor.heads; ++head)
      result.row(token, head)[0] = tensor.row(token, head)[feature];
  return result;
}

/// Linear phi with the absolute values of W.
PhiHeads absolute(PhiHeads phi) {
  for (PhiParameters& parameters : phi) parameters.w = parameters.w.cwiseAbs();
  return phi;
}

Tensor absolute(Tensor tensor) {
  for (double& value : tensor.values) value = std::abs(value);
  return tensor;
}

using Comparisons = std::vector<GoldenComparison>;

/// Position encodings shift all compressed keys alike, which no softmax sees: their gradient is 0, what is recorded is
/// rounding, and the unit of its difference is what cancels.
Comparisons compare_compressed(const GoldenFile& file, const NsaProblem& problem, const GoldenFile::Inputs& in) {
  PhiHeads phi_k = zero_phi(problem, problem.attention.dk), phi_v = zero_phi(problem, problem.attention.dv);
  load_matrix(file, "phi_k", &PhiParameters::w, phi_k);
  load_matrix(file, "pe", &PhiParameters::position, phi_k);
  load_matrix(file, "phi_v", &PhiParameters::w, phi_v);
  const Tensor k = compress(problem, phi_k, in.k), v = compress(problem, phi_v, in.v);
  const auto outputs = compressed(problem, {in.q, k, v});
  const auto gradients = compressed_backward(problem, {in.q, k, v}, in.d_o, outputs);
  const auto of_keys = compress_backward(problem, phi_k, in.k, gradients.dk);
  const auto of_values = compress_backward(problem, phi_v, in.v, gradients.dv);
  const auto terms = compress_backward(problem, absolute(phi_k), in.k, absolute(gradients.dk));
  Comparisons result{
      file.compare("k_cmp", k),
      file.compare("v_cmp", v),
      file.compare("o_cmp", outputs.o),
      file.compare(nsa_select(problem, in.q, k)),
      file.compare("compressed_dq", gradients.dq),
      file.compare("compressed_dk", of_keys.tokens),
      file.compare("compressed_dv", of_values.tokens),
      file.compare("compressed_dpe", stack(of_keys.phi, &PhiParameters::position),
                   stack(terms.phi, &PhiParameters::position)),
  };
  if (file.records("compressed_dphi_k")) {
    result.push_back(file.compare("compressed_dphi_k", stack(of_keys.phi, &PhiParameters::w)));
    result.push_back(file.compare("compressed_dphi_v", stack(of_values.phi, &PhiParameters::w)));
  }
  return result;
}

Comparisons compare_selected(const GoldenFile& file, const NsaProblem& problem, const GoldenFile::Inputs& in) {
  const auto& [q, k, v, d_o] = in;
  const auto selection = file.load_selection(q.tokens, problem.attention.kv_heads, problem.top_n);
  const auto outputs = selected(problem.attention, problem.block, {q, k, v}, selection);
  const auto gradients = selected_backward(problem.attention, problem.block, {q, k, v}, selection, d_o, outputs);
  return {file.compare("o_slc", outputs.o), file.compare("selected_dq", gradients.dq),
          file.compare("selected_dk", gradients.dk), file.compare("selected_dv", gradients.dv)};
}

}  // namespace

std::vector<GoldenComparison> compare_nsa(const GoldenFile& file) {
  NsaProblem problem = nsa_problem(file);
  problem.compress_block = file.number("l");
  problem.compress_stride = file.number("d");
  problem.initial_blocks = file.number("initial");
  problem.local_blocks = file.number("local");
  problem.phi = reference::Phi::linear;
  validate(problem);
  const GoldenFile::Inputs in = file.load_inputs(problem.attention);
  Comparisons comparisons = compare_compressed(file, problem, in);
  if (file.records("o_slc")) std::ranges::copy(compare_selected(file, problem, in), std::back_inserter(comparisons));
  return comparisons;
}

/// The compressed branch is not recorded: its gate is 0.
std::vector<GoldenComparison> compare_nsa_given(const GoldenFile& file) {
  NsaProblem problem = nsa_problem(file);
  problem.compress_block = problem.compress_stride = problem.block;
  problem.window = file.number("window");
  validate(problem);
  const reference::AttentionProblem& attention = problem.attention;
  const auto [q, k, v, d_o] = file.load_inputs(attention);
  const Tensor gate_slc = file.load("gate_slc", q.tokens, attention.heads, 1);
  const Tensor gate_win = file.load("gate_win", q.tokens, attention.heads, 1);
  Tensor gates(q.tokens, attention.heads, 3);
  for (std::int64_t token = 0; token < q.tokens; ++token)
    for (std::int64_t h = 0; h < attention.heads; ++h)
      gates.row(token, h) << 0, gate_slc.row(token, h)[0], gate_win.row(token, h)[0];

  const PhiHeads mean = zero_phi(problem, attention.dk);
  const reference::NsaInputs in{q, {k, v}, {k, v}, {k, v}, gates, mean, mean};
  reference::NsaOutputs outputs = nsa(problem, in);
  outputs.selection = file.load_selection(q.tokens, attention.kv_heads, problem.top_n);
  outputs.selected = selected(attention, problem.block, {q, k, v}, outputs.selection);
  outputs.o = combine(gates, outputs.compressed.o, outputs.selected.o, outputs.window.o);
  const reference::NsaGradients gradients = nsa_backward(problem, in, d_o, outputs);
  const auto [dk, dv] = shared_gradients(gradients);
  return {file.compare("o", outputs.o),
          file.compare("dq", gradients.dq),
          file.compare("dk", dk),
          file.compare("dv", dv),
          file.compare("dgate_slc", column(gradients.d_gates, 1)),
          file.compare("dgate_win", column(gradients.d_gates, 2))};
}

}  // namespace attnspec::verify
