// Small problems of NSA with random tensors, for its tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "reference/nsa/nsa.hpp"
#include "verify/cases/random.hpp"

namespace attnspec::reference {

inline AttentionProblem packed(const std::vector<std::int64_t>& q_lens, const std::vector<std::int64_t>& k_lens) {
  AttentionProblem problem{{0}, {0}, 4, 2, 3, 5, 0.6, true};
  for (const std::int64_t length : q_lens) problem.q_offsets.push_back(problem.q_offsets.back() + length);
  for (const std::int64_t length : k_lens) problem.k_offsets.push_back(problem.k_offsets.back() + length);
  return problem;
}

/// Small blocks that overlap: l = 4, d = 2, l' = 6.
inline NsaProblem small(const AttentionProblem& attention) {
  NsaProblem problem;
  problem.attention = attention;
  problem.compress_block = 4;
  problem.compress_stride = 2;
  problem.phi = Phi::mlp;
  problem.hidden = 3;
  problem.block = 6;
  problem.top_n = 2;
  problem.local_blocks = 1;
  problem.window = 5;
  validate(problem);
  return problem;
}

inline Tensor filled(Tensor tensor, const char* name) {
  const verify::Random random(1, name);
  for (std::size_t n = 0; n < tensor.values.size(); ++n) tensor.values[n] = random.normal(n);
  return tensor;
}

/// The matrices and vectors of phi's parameters, each as a flat array.
inline std::vector<Eigen::Map<Vector>> arrays(PhiHeads& phi) {
  std::vector<Eigen::Map<Vector>> result;
  for (PhiParameters& p : phi) {
    for (Matrix* matrix : {&p.position, &p.w, &p.w1, &p.w2}) result.emplace_back(matrix->data(), matrix->size());
    for (Vector* vector : {&p.b1, &p.b2}) result.emplace_back(vector->data(), vector->size());
  }
  return result;
}

inline PhiHeads filled(PhiHeads phi, const char* name) {
  const verify::Random random(1, name);
  std::uint64_t index = 0;
  for (auto& array : arrays(phi))
    for (double& value : array) value = random.normal(index++);
  return phi;
}

/// A problem and random tensors for it, with keys and values of its own for every branch.
struct Module {
  NsaProblem problem;
  Tensor q, k[3], v[3], gates, d_o;
  PhiHeads phi_k, phi_v;

  explicit Module(const NsaProblem& of) : problem(of) {
    const auto& [q_offsets, k_offsets, heads, kv_heads, dk, dv, scale, causal] = problem.attention;
    q = filled(Tensor(q_offsets.back(), heads, dk), "q");
    gates = filled(Tensor(q_offsets.back(), heads, 3), "gates");
    d_o = filled(Tensor(q_offsets.back(), heads, dv), "do");
    const char* names[][2] = {{"k_cmp", "v_cmp"}, {"k_slc", "v_slc"}, {"k_win", "v_win"}};
    for (int b = 0; b < 3; ++b) {
      k[b] = filled(Tensor(k_offsets.back(), kv_heads, dk), names[b][0]);
      v[b] = filled(Tensor(k_offsets.back(), kv_heads, dv), names[b][1]);
    }
    phi_k = filled(zero_phi(problem, dk), "phi_k");
    phi_v = filled(zero_phi(problem, dv), "phi_v");
  }

  NsaInputs inputs() const { return {q, {k[0], v[0]}, {k[1], v[1]}, {k[2], v[2]}, gates, phi_k, phi_v}; }
  NsaOutputs forward() const { return nsa(problem, inputs()); }
  NsaGradients backward(const NsaOutputs& outputs) const { return nsa_backward(problem, inputs(), d_o, outputs); }
};

}  // namespace attnspec::reference
