// Small problems of NSA for the tests of its oracle.
#pragma once

#include <array>
#include <string>
#include <utility>

#include "reference/selftest/nsa_oracle_backward.hpp"
#include "reference/selftest/oracle_testing.hpp"

namespace attnspec::oracle {

constexpr std::int64_t kMaxNsaKeys = 20;  // in a sequence, and so the most blocks
constexpr std::int64_t kMaxCompressBlock = 6;
constexpr std::int64_t kMaxGateFeatures = 5;

struct SmallNsa : SmallAttention {
  std::int64_t compress_stride = 1, compress_strides = 1, more_strides = 0;  // l and l' - l in units of d
  Phi phi = Phi::mean;
  Activation activation = Activation::silu;
  std::int64_t hidden = 1;
  bool shared_phi = false;
  std::int64_t initial_blocks = 1, local_blocks = 1, free_blocks = 0;  // top_n is their sum
  std::int64_t window = 1;
};

inline std::ostream& operator<<(std::ostream& out, const SmallNsa& small) {
  return out << static_cast<const SmallAttention&>(small) << " compress_stride " << small.compress_stride
             << " compress_strides " << small.compress_strides << " more_strides " << small.more_strides << " phi "
             << static_cast<int>(small.phi) << " activation " << static_cast<int>(small.activation) << " hidden "
             << small.hidden << " shared_phi " << small.shared_phi << " initial_blocks " << small.initial_blocks
             << " local_blocks " << small.local_blocks << " free_blocks " << small.free_blocks << " window "
             << small.window;
}

inline NsaProblem nsa_problem(const SmallNsa& small) {
  NsaProblem problem;
  problem.attention = attention_problem(small);
  problem.compress_stride = small.compress_stride;
  problem.compress_block = small.compress_stride * small.compress_strides;
  problem.phi = small.phi;
  problem.activation = small.activation;
  problem.hidden = small.hidden;
  problem.shared_phi = small.shared_phi;
  problem.block = problem.compress_block + small.compress_stride * small.more_strides;
  problem.top_n = small.initial_blocks + small.local_blocks + small.free_blocks;
  problem.initial_blocks = small.initial_blocks;
  problem.local_blocks = small.local_blocks;
  problem.window = small.window;
  return problem;
}

/// Problems that `validate` accepts, with l <= kMaxCompressBlock, and sizes small enough for the roundings counted in
/// nsa_oracle.hpp: with three sequences of 20 keys, three kv heads of three query heads, and 4 features everywhere, at
/// most 650.
inline rc::Gen<SmallNsa> small_nsa_problems() {
  using rc::gen::inRange;
  using rc::gen::set;
  using rc::gen::weightedElement;
  const auto any = rc::gen::build<SmallNsa>(
      set(&SmallNsa::sequences, sequence_lengths(3, kMaxNsaKeys)),
      set(&SmallNsa::kv_heads, inRange<std::int64_t>(1, 4)), set(&SmallNsa::group, inRange<std::int64_t>(1, 4)),
      set(&SmallNsa::dk, inRange<std::int64_t>(1, 5)), set(&SmallNsa::dv, inRange<std::int64_t>(1, 5)),
      set(&SmallNsa::compress_stride, weightedElement<std::int64_t>({{4, 1}, {3, 2}, {2, 3}, {1, 4}, {1, 5}, {1, 6}})),
      set(&SmallNsa::compress_strides, weightedElement<std::int64_t>({{3, 1}, {3, 2}, {2, 3}, {1, 4}})),
      set(&SmallNsa::more_strides, weightedElement<std::int64_t>({{4, 0}, {2, 1}, {1, 2}, {1, 3}})),
      set(&SmallNsa::phi, weightedElement<Phi>({{1, Phi::mean}, {1, Phi::linear}, {3, Phi::mlp}})),
      set(&SmallNsa::activation, rc::gen::element(Activation::relu, Activation::silu, Activation::gelu)),
      set(&SmallNsa::hidden, inRange<std::int64_t>(1, 5)), set(&SmallNsa::shared_phi, rc::gen::arbitrary<bool>()),
      set(&SmallNsa::initial_blocks, weightedElement<std::int64_t>({{3, 0}, {3, 1}, {1, 2}})),
      set(&SmallNsa::local_blocks, weightedElement<std::int64_t>({{4, 1}, {2, 2}, {1, 3}})),
      set(&SmallNsa::free_blocks, weightedElement<std::int64_t>({{1, 0}, {3, 1}, {2, 2}, {1, 3}})),
      set(&SmallNsa::window, rc::gen::weightedOneOf<std::int64_t>({{1, rc::gen::just<std::int64_t>(1)},
                                                                   {4, inRange<std::int64_t>(1, kMaxNsaKeys + 3)}})),
      set(&SmallNsa::relative_scale, weightedElement<double>({{5, 1.0}, {1, 0.0}, {1, -1.0}, {1, 2.5}})),
      set(&SmallNsa::is_dyadic, weightedElement<bool>({{4, false}, {1, true}})),
      set(&SmallNsa::seed, rc::gen::arbitrary<std::uint64_t>()));
  return rc::gen::map(rc::gen::resize(rc::kNominalSize, any), [](SmallNsa small) {
    while (small.compress_stride * small.compress_strides > kMaxCompressBlock) --small.compress_strides;
    return small;
  });
}

/// Expects a property of `times_hundred` hundred small problems of NSA.
template <class Property>
void expect_on_small_nsa(std::size_t times_hundred, const Property& property) {
  expect_on(times_hundred, small_nsa_problems(), property);
}

/// The parameters of phi for rows of `dim` features; those the problem's phi does not have are empty.
inline PhiParameters<Real> draw_phi(const SmallNsa& small, std::int64_t dim, const std::string& name) {
  const NsaProblem problem = nsa_problem(small);
  const std::int64_t sets = problem.shared_phi ? 1 : problem.attention.kv_heads, l = problem.compress_block;
  PhiParameters<Real> phi;
  if (problem.phi == Phi::mean) return phi;
  phi.position = draw(l, sets, dim, small, name + "position");
  phi.w1 = draw(l * dim, sets, problem.phi == Phi::linear ? dim : problem.hidden, small, name + "w1");
  if (problem.phi == Phi::linear) return phi;
  phi.b1 = draw(1, sets, problem.hidden, small, name + "b1");
  phi.w2 = draw(problem.hidden, sets, dim, small, name + "w2");
  phi.b2 = draw(1, sets, dim, small, name + "b2");
  return phi;
}

/// The inputs of a problem, or directions in which to move them.
inline NsaTensors<Real> nsa_inputs(const SmallNsa& small, const std::string& purpose = "") {
  const AttentionProblem problem = attention_problem(small);
  const std::int64_t queries = problem.q_offsets.back(), keys = problem.k_offsets.back();
  const auto key_values = [&](const std::string& branch) {
    return KeyValues<Real>{draw(keys, problem.kv_heads, small.dk, small, purpose + branch + "k"),
                           draw(keys, problem.kv_heads, small.dv, small, purpose + branch + "v")};
  };
  return {draw(queries, problem.heads, small.dk, small, purpose + "q"),
          key_values("compressed "),
          key_values("selected "),
          key_values("window "),
          draw(queries, problem.heads, 3, small, purpose + "gates"),
          draw_phi(small, small.dk, purpose + "phi_k "),
          draw_phi(small, small.dv, purpose + "phi_v ")};
}

inline GateLayer<Real> gate_layer(const SmallNsa& small, const std::string& purpose = "") {
  const AttentionProblem problem = attention_problem(small);
  const std::int64_t features = 1 + static_cast<std::int64_t>(small.seed % kMaxGateFeatures);
  return {draw(problem.q_offsets.back(), 1, features, small, purpose + "x"),
          draw(features, problem.heads, 3, small, purpose + "w"), draw(1, problem.heads, 3, small, purpose + "b")};
}

/// Every tensor with the name of its gradient. Tensors: an NsaTensors, const or not.
template <class Tensors>
requires requires(Tensors& in) { in.gates; }
auto named(Tensors& in) {
  using Entry = std::pair<const char*, decltype(&in.q)>;
  return std::array<Entry, 18>{{{"dq", &in.q},
                                {"dk_cmp", &in.compressed.k},
                                {"dv_cmp", &in.compressed.v},
                                {"dk_slc", &in.selected.k},
                                {"dv_slc", &in.selected.v},
                                {"dk_win", &in.window.k},
                                {"dv_win", &in.window.v},
                                {"dgates", &in.gates},
                                {"dposition_k", &in.phi_k.position},
                                {"dw1_k", &in.phi_k.w1},
                                {"db1_k", &in.phi_k.b1},
                                {"dw2_k", &in.phi_k.w2},
                                {"db2_k", &in.phi_k.b2},
                                {"dposition_v", &in.phi_v.position},
                                {"dw1_v", &in.phi_v.w1},
                                {"db1_v", &in.phi_v.b1},
                                {"dw2_v", &in.phi_v.w2},
                                {"db2_v", &in.phi_v.b2}}};
}

/// The same of a GateLayer.
template <class Layer>
requires requires(Layer& layer) { layer.w; }
auto named(Layer& layer) {
  using Entry = std::pair<const char*, decltype(&layer.x)>;
  return std::array<Entry, 3>{{{"dx", &layer.x}, {"dw", &layer.w}, {"db", &layer.b}}};
}

/// NSA with its selection frozen, and all gradients at its own outputs.
struct FrozenNsa {
  NsaProblem problem;
  NsaTensors<Real> in, direction;
  Tensor<Real> d_o;
  KeyValues<Sum<Real>> rows;
  Lists blocks;
  NsaOutputs<Real> outputs;
  NsaTensors<Sum<Real>> gradients;
};

inline FrozenNsa freeze(const SmallNsa& small) {
  const NsaProblem problem = nsa_problem(small);
  const NsaTensors<Real> in = nsa_inputs(small);
  const Tensor<Real> d_o = output_gradient(small);
  const KeyValues<Sum<Real>> rows = compress(problem, in);
  const Lists blocks = nsa_blocks(problem, in.q, rows.k);
  const NsaOutputs<Real> outputs = nsa(problem, in, rows, blocks);
  return {problem,
          in,
          nsa_inputs(small, "direction of "),
          d_o,
          rows,
          blocks,
          outputs,
          nsa_backward(problem, in, rows, blocks, outputs, d_o)};
}

}  // namespace attnspec::oracle
