// NSA's gradients against numerical derivatives, and their laws.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "reference/selftest/nsa_module.hpp"

namespace attnspec::reference {
namespace {

double product(const Tensor& a, const Tensor& b) {
  return std::inner_product(a.values.begin(), a.values.end(), b.values.begin(), 0.0);
}

/// A function of whatever `value` is part of, differentiated numerically.
template <class Function>
double slope(double& value, const Function& function) {
  const double centre = value;
  value = centre + 1e-5;
  const double above = function();
  value = centre - 1e-5;
  const double below = function();
  value = centre;
  return (above - below) / 2e-5;
}

template <class Values>
void expect_slopes(const Module& module, Values& values, const Values& gradient, const char* name) {
  const auto loss = [&] { return product(module.forward().o, module.d_o); };
  const auto size = static_cast<std::size_t>(values.size());
  for (std::size_t n = 0; n < size; n += 1 + size / 40) {
    const double expected = gradient.data()[n];
    EXPECT_NEAR(slope(values.data()[n], loss), expected, 3e-8 * std::max(1.0, std::abs(expected))) << name << " " << n;
  }
}

void expect_gradients(Module module) {
  NsaGradients d = module.backward(module.forward());
  expect_slopes(module, module.q.values, d.dq.values, "dq");
  expect_slopes(module, module.gates.values, d.d_gates.values, "dgates");
  const KeyValueGradients* branches[] = {&d.compressed, &d.selected, &d.window};
  for (int b = 0; b < 3; ++b) {
    expect_slopes(module, module.k[b].values, branches[b]->dk.values, "dk");
    expect_slopes(module, module.v[b].values, branches[b]->dv.values, "dv");
  }
  for (auto [phi, d_phi] : {std::pair(&module.phi_k, &d.d_phi_k), std::pair(&module.phi_v, &d.d_phi_v)}) {
    auto values = arrays(*phi), gradients = arrays(*d_phi);
    ASSERT_EQ(values.size(), gradients.size());
    for (std::size_t n = 0; n < values.size(); ++n) {
      ASSERT_EQ(values[n].size(), gradients[n].size());
      expect_slopes(module, values[n], gradients[n], "dphi");
    }
  }
}

TEST(NsaGradient, IsTheSlopeForEveryKindOfPhi) {
  NsaProblem problem = small(packed({15, 3, 2}, {15, 3, 7}));
  for (const Activation kind : {Activation::silu, Activation::gelu, Activation::relu}) {
    problem.activation = kind;
    expect_gradients(Module(problem));
  }
  problem.shared_phi = true;
  for (const Phi phi : {Phi::mlp, Phi::linear, Phi::mean}) {
    problem.phi = phi;
    expect_gradients(Module(problem));
  }
}

TEST(NsaGradient, IsOfTheOutputsThatTheForwardGave) {
  const Module module(small(packed({15}, {15})));
  NsaOutputs outputs = module.forward();
  const NsaGradients given = module.backward(outputs);
  for (double& lse : outputs.window.lse.values) lse += std::log(2);  // halves every weight
  for (double& o : outputs.selected.o.values) o = 0;
  for (double& o : outputs.o.values) o = NAN;
  const NsaGradients changed = module.backward(outputs);
  for (std::size_t n = 0; n < 15 * 2 * 5; ++n)
    EXPECT_NEAR(changed.window.dv.values[n], given.window.dv.values[n] / 2, 1e-14);
  for (std::int64_t token = 0; token < 15; ++token) EXPECT_EQ(changed.d_gates.row(token, 3)[1], 0);
  EXPECT_EQ(changed.selected.dv.values, given.selected.dv.values);
  EXPECT_NE(changed.selected.dk.values, given.selected.dk.values);
  EXPECT_EQ(changed.compressed.dk.values, given.compressed.dk.values);
}

TEST(NsaGradient, OfSharedKeysAndValuesIsTheSumOverTheBranches) {
  Module module(small(packed({15}, {15})));
  for (int b = 1; b < 3; ++b) module.k[b] = module.k[0], module.v[b] = module.v[0];
  const NsaGradients d = module.backward(module.forward());
  const KeyValueGradients shared = shared_gradients(d);
  for (const std::size_t n : {0u, 7u, 89u}) {
    EXPECT_EQ(shared.dk.values[n], d.compressed.dk.values[n] + (d.selected.dk.values[n] + d.window.dk.values[n]));
    EXPECT_EQ(shared.dv.values[n], d.compressed.dv.values[n] + (d.selected.dv.values[n] + d.window.dv.values[n]));
  }
}

TEST(NsaGradient, OfAPositionEncodingThatShiftsAllKeysAlikeIsZero) {
  Module module(small(packed({15}, {15})));
  module.problem.phi = Phi::linear;
  module.phi_k = filled(zero_phi(module.problem, 3), "phi_k");
  module.phi_v = filled(zero_phi(module.problem, 5), "phi_v");
  const NsaGradients d = module.backward(module.forward());
  for (std::size_t g = 0; g < 2; ++g) {
    EXPECT_TRUE(d.d_phi_k[g].position.isZero(1e-13));
    EXPECT_FALSE(d.d_phi_v[g].position.isZero(1e-3));
  }
}

TEST(NsaGates, AreTheSigmoidOfALinearLayerAndItsSlopes) {
  GateLayer layer{Matrix::Zero(2, 6), Vector::Zero(6)};
  Tensor x = filled(Tensor(3, 1, 2), "x");
  EXPECT_EQ(gates(layer, x).row(1, 1), Vector::Constant(3, 0.5));
  layer.b = (Vector(6) << 0, std::log(3), -std::log(3), 0, 1, -900).finished();
  EXPECT_NEAR(gates(layer, x).row(0, 0)[1], 0.75, 1e-15);
  EXPECT_EQ(gates(layer, x).row(0, 1)[2], 0);
  layer.b[5] = 2;
  layer.w << 1, 2, 3, -1, 0, 1, 2, 1, -1, 0, 1, 2;
  const Tensor d_gates = filled(Tensor(3, 2, 3), "dgates");
  const GateLayerGradients d = gates_backward(layer, x, gates(layer, x), d_gates);
  const auto expect_slope = [&](double& value, double gradient) {
    EXPECT_NEAR(slope(value, [&] { return product(gates(layer, x), d_gates); }), gradient, 1e-9);
  };
  for (Eigen::Index n = 0; n < 12; ++n) expect_slope(layer.w.data()[n], d.layer.w.data()[n]);
  for (Eigen::Index n = 0; n < 6; ++n) expect_slope(layer.b[n], d.layer.b[n]);
  for (std::size_t n = 0; n < 6; ++n) expect_slope(x.values[n], d.x.values[n]);
}

}  // namespace
}  // namespace attnspec::reference
