// NSA's specification against results computed by hand and what it collapses to, and what it rejects.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "reference/dense.hpp"
#include "reference/selftest/nsa_module.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void expect_equal(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.values.size(), b.values.size());
  for (std::size_t n = 0; n < a.values.size(); ++n) {
    if (std::isinf(b.values[n]))
      EXPECT_EQ(a.values[n], b.values[n]) << "number " << n;
    else
      EXPECT_NEAR(a.values[n], b.values[n], 1e-13) << "number " << n;
  }
}

void expect_equal(const AttentionOutputs& a, const AttentionOutputs& b) {
  expect_equal(a.o, b.o);
  expect_equal(a.lse, b.lse);
}

/// The rows begin .. end - 1 of every head.
Tensor cut(const Tensor& tensor, std::int64_t begin, std::int64_t end) {
  Tensor result(end - begin, tensor.heads, tensor.dim);
  for (std::int64_t token = begin; token < end; ++token)
    for (std::int64_t head = 0; head < tensor.heads; ++head) result.row(token - begin, head) = tensor.row(token, head);
  return result;
}

/// The queries and keys begin .. end - 1 of one packed module, alone.
Module cut(const Module& module, KeyRange queries, KeyRange keys) {
  Module result = module;
  result.problem.attention.q_offsets = {0, queries.end - queries.begin};
  result.problem.attention.k_offsets = {0, keys.end - keys.begin};
  for (Tensor* tensor : {&result.q, &result.gates, &result.d_o}) *tensor = cut(*tensor, queries.begin, queries.end);
  for (int b = 0; b < 3; ++b)
    for (Tensor* tensor : {&result.k[b], &result.v[b]}) *tensor = cut(*tensor, keys.begin, keys.end);
  return result;
}

std::string rejection(NsaProblem problem, std::int64_t NsaProblem::*field, std::int64_t value) {
  problem.*field = value;
  return message_of<InvalidProblem>([&] { validate(problem); });
}

TEST(NsaValidate, NamesFieldAndValue) {
  const NsaProblem good = small(packed({9}, {9}));
  EXPECT_EQ(rejection(good, &NsaProblem::window, 0), "window=0: must be at least 1");
  EXPECT_EQ(rejection(good, &NsaProblem::compress_block, 0), "compress_block=0: must be at least 1");
  EXPECT_EQ(rejection(good, &NsaProblem::compress_block, 8), "compress_block=8: must not exceed block=6");
  EXPECT_EQ(rejection(good, &NsaProblem::compress_stride, 4),
            "compress_stride=4: must divide compress_block=4 and block=6");
  EXPECT_EQ(rejection(good, &NsaProblem::initial_blocks, -1), "initial_blocks=-1: must not be negative");
  EXPECT_EQ(rejection(good, &NsaProblem::local_blocks, 0), "local_blocks=0: must be at least 1");
  EXPECT_EQ(rejection(good, &NsaProblem::top_n, 1), "top_n=1: must have room for initial_blocks=1 and local_blocks=1");
  EXPECT_EQ(rejection(good, &NsaProblem::initial_blocks, std::numeric_limits<std::int64_t>::max()),
            "top_n=2: must have room for initial_blocks=9223372036854775807 and local_blocks=1");
  NsaProblem everyone = good;
  everyone.attention.causal = false;
  EXPECT_EQ(rejection(everyone, &NsaProblem::window, 5), "causal=0: NSA is causal");
}

TEST(NsaCompression, CountsOnlyBlocksThatAreComplete) {
  NsaProblem problem = small(packed({9}, {9}));
  const std::int64_t rows[] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3};
  for (std::int64_t tokens = 0; tokens < 10; ++tokens) {
    EXPECT_EQ(num_compressed(problem, tokens), rows[tokens]) << tokens;
    EXPECT_EQ(num_visible_compressed(problem, tokens - 1), rows[tokens]) << tokens;
  }
  EXPECT_EQ(num_visible_compressed(problem, -5), 0);
  problem.attention = packed({9, 3, 0, 4}, {9, 3, 0, 4});
  EXPECT_EQ(compressed_offsets(problem), (std::vector<std::int64_t>{0, 3, 3, 3, 4}));
}

TEST(NsaCompression, ComputesEveryKindOfPhi) {
  NsaProblem problem = small({{0, 2}, {0, 2}, 1, 1, 1, 1, 1, true});
  problem.compress_block = 2;
  problem.hidden = 2;
  problem.activation = Activation::relu;
  const Matrix tokens = (Matrix(2, 1) << 1, 3).finished();
  const Rows x(tokens.data(), 2, 1);
  PhiParameters phi{(Matrix(2, 1) << 1, -1).finished(),       (Matrix(2, 1) << 10, 100).finished(),
                    (Matrix(2, 2) << 1, 2, 3, -4).finished(), (Vector(2) << 0.5, 0.5).finished(),
                    (Matrix(2, 1) << 10, 100).finished(),     Vector::Constant(1, 7)};
  EXPECT_EQ(compress_block(problem, phi, x).row[0], 7 + 10 * (2 + 6 + 0.5));  // the other hidden one is 4 - 8 + 1/2
  problem.phi = Phi::linear;
  EXPECT_EQ(compress_block(problem, phi, x).row[0], 10 * 2 + 100 * 2);
  problem.phi = Phi::mean;
  EXPECT_EQ(compress_block(problem, phi, x).row[0], 2);
}

TEST(NsaCompression, HasTheSlopesOfItsActivations) {
  for (const Activation kind : {Activation::relu, Activation::silu, Activation::gelu})
    for (const double x : {-800.0, -2.0, -0.3, 0.4, 3.0, 800.0})
      EXPECT_NEAR(activation_slope(kind, x), (activation(kind, x + 1e-5) - activation(kind, x - 1e-5)) / 2e-5, 1e-8)
          << x;
  EXPECT_EQ(activation_slope(Activation::relu, 0), 0);
  EXPECT_NEAR(activation(Activation::gelu, 1), 0.8413447460685429, 1e-16);
  EXPECT_NEAR(activation(Activation::silu, 1), 0.7310585786300049, 1e-16);
}

/// The example of docs/specification.md, which tells the public readings of equation 9 apart.
TEST(NsaImportance, WeighsBlocksByTheirOverlap) {
  NsaProblem problem;
  const double weights[][9] = {{2, 2, 2, 1, 0, 0, 0, 0, 0}, {0, 0, 0, 1, 2, 2, 2, 1, 0}};
  for (std::int64_t j = 0; j < 2; ++j)
    for (std::int64_t i = 0; i < 9; ++i) EXPECT_EQ(overlap_weight(problem, j, i), weights[j][i]) << j << " " << i;
  const Vector p_cmp = (Vector(7) << 0, 4, 0, 3, 0, 0, 1).finished() / 8;
  const Vector p_slc = block_weights(problem, p_cmp, 127);
  ASSERT_EQ(p_slc.size(), 2);
  EXPECT_EQ(p_slc[0], 11.0 / 8);
  EXPECT_EQ(p_slc[1], 5.0 / 8);
}

TEST(NsaImportance, SpreadsTheWeightOfEveryHead) {
  const Module module(small(packed({31}, {31})));
  const NsaProblem& problem = module.problem;
  const Tensor k = compress(problem, module.phi_k, module.k[0]);
  for (std::int64_t t = -2; t < 31; ++t) {
    const Matrix q = group_queries(problem, module.q, std::max<std::int64_t>(t, 0), 1);
    const ImportanceRow row = importance(problem, q, k.rows(0, k.tokens, 1), t);
    ASSERT_EQ(row.importance.size(), t < 0 ? 0 : t / 6 + 1);
    EXPECT_NEAR(row.importance.sum(), t < 3 ? 0 : 2 * 4 / 2, 1e-14) << t;  // G l / d
  }
}

TEST(NsaSelection, TakesForcedBlocksThenTheMostImportantThenTheLowest) {
  NsaProblem problem;
  problem.top_n = 5;
  const auto select = [&](std::initializer_list<double> scores) {
    return select_blocks(problem, Eigen::Map<const Vector>(scores.begin(), static_cast<Eigen::Index>(scores.size())));
  };
  using Blocks = std::vector<std::int32_t>;
  EXPECT_EQ(select({0, 1, 5, 5, 2, 5, 0, 0}), (Blocks{0, 2, 3, 6, 7}));
  EXPECT_EQ(select({9, 0, 0, 0, 0, 0, 9, 9}), (Blocks{0, 1, 2, 6, 7}));
  EXPECT_EQ(select({0, 0, 0, 0, 0, 0}), (Blocks{0, 1, 2, 4, 5}));
  EXPECT_EQ(select({0, 0, 0, 0, 0}), (Blocks{0, 1, 2, 3, 4}));
  EXPECT_EQ(select({0, 0}), (Blocks{0, 1}));
  EXPECT_EQ(select({0}), (Blocks{0}));
  EXPECT_EQ(select({}), (Blocks{}));
  problem.top_n = 3;
  EXPECT_EQ(select({0, 1, 5, 5, 2, 5, 0, 0}), (Blocks{0, 6, 7}));
  problem.initial_blocks = 0;
  EXPECT_EQ(select({0, 1, 4, 5, 2, 4, 0, 0}), (Blocks{3, 6, 7}));
  problem.local_blocks = 3;
  EXPECT_EQ(select({9, 9}), (Blocks{0, 1}));
}

TEST(NsaSelection, HasExactlyAsManyBlocksAsItMay) {
  const Module module(small(packed({31, 3}, {31, 3})));
  const Selection selection = module.forward().selection;
  ASSERT_EQ(selection.heads, 2);
  ASSERT_EQ(selection.slots, 2);
  EXPECT_NO_THROW(validate(module.problem.attention, 6, selection));
  for (std::int64_t token = 0; token < 34; ++token) {
    const std::int64_t t = token < 31 ? token : token - 31;
    for (std::int64_t g = 0; g < 2; ++g) {
      EXPECT_EQ(selection.row(token, g)[0], 0);
      EXPECT_EQ(selection.row(token, g)[1], t < 6 ? -1 : t / 6);
    }
  }
}

TEST(NsaWindow, HasExactlyItsKeys) {
  EXPECT_EQ(window_keys(7, 3).begin, 5);
  EXPECT_EQ(window_keys(7, 3).end, 8);
  EXPECT_EQ(window_keys(1, 3).begin, 0);
  for (const std::int64_t t : {-1, -9}) EXPECT_EQ(window_keys(t, 3).begin, window_keys(t, 3).end);
  Module module(small(packed({9}, {9})));
  module.problem.window = 1;
  const Tensor o = window(module.problem, {module.q, module.k[2], module.v[2]}).o;
  for (std::int64_t h = 0; h < 4; ++h) EXPECT_EQ(o.row(6, h), module.v[2].row(6, h / 2));
}

/// Collapses to dense attention, forward and backward.
struct NsaCollapse : testing::Test {
  Module module{small(packed({20, 3, 0, 2}, {20, 3, 2, 9}))};
  NsaProblem& problem = module.problem;
  const Tensor &k = module.k[0], &v = module.v[0];

  void expect_dense(const AttentionOutputs& outputs, const AttentionGradients& gradients) {
    const AttentionOutputs expected = dense(problem.attention, {module.q, k, v});
    const AttentionGradients d = dense_backward(problem.attention, {module.q, k, v}, module.d_o, expected);
    expect_equal(outputs, expected);
    expect_equal(gradients.dq, d.dq);
    expect_equal(gradients.dk, d.dk);
    expect_equal(gradients.dv, d.dv);
  }
};

TEST_F(NsaCollapse, AWindowOfTheWholeSequenceIsDense) {
  for (const std::int64_t w : {20L, std::numeric_limits<std::int64_t>::max()}) {
    problem.window = w;
    const AttentionOutputs outputs = window(problem, {module.q, k, v});
    expect_dense(outputs, window_backward(problem, {module.q, k, v}, module.d_o, outputs));
  }
}

TEST_F(NsaCollapse, AsManyBlocksAsThereAreAreDense) {
  problem.top_n = 4;
  const Selection selection = module.forward().selection;
  const AttentionOutputs outputs = selected(problem.attention, problem.block, {module.q, k, v}, selection);
  expect_dense(outputs,
               selected_backward(problem.attention, problem.block, {module.q, k, v}, selection, module.d_o, outputs));
}

TEST_F(NsaCollapse, BlocksOfOneTokenAreDense) {
  problem.phi = Phi::mean;
  problem.compress_block = problem.compress_stride = 1;
  const PhiHeads none = zero_phi(problem, 3);
  const Tensor k_rows = compress(problem, none, k), v_rows = compress(problem, none, v);
  const AttentionOutputs outputs = compressed(problem, {module.q, k_rows, v_rows});
  const AttentionGradients d = compressed_backward(problem, {module.q, k_rows, v_rows}, module.d_o, outputs);
  expect_dense(outputs, {d.dq, compress_backward(problem, none, k, d.dk).tokens,
                         compress_backward(problem, none, v, d.dv).tokens});
}

TEST(Nsa, WithOneGateOpenIsThatBranch) {
  Module module(small(packed({20, 3}, {20, 3})));
  for (int open = 0; open < 3; ++open) {
    for (std::int64_t token = 0; token < 23; ++token)
      for (std::int64_t h = 0; h < 4; ++h) module.gates.row(token, h) = Vector::Unit(3, open);
    const NsaOutputs outputs = module.forward();
    const Tensor* branches[] = {&outputs.compressed.o, &outputs.selected.o, &outputs.window.o};
    EXPECT_EQ(outputs.o.values, branches[open]->values);
    const NsaGradients gradients = module.backward(outputs);
    const Tensor* values[] = {&gradients.compressed.dv, &gradients.selected.dv, &gradients.window.dv};
    for (int branch = 0; branch < 3; ++branch)
      EXPECT_EQ(Eigen::Map<const Vector>(values[branch]->values.data(), 23 * 2 * 5).isZero(0), branch != open);
  }
}

TEST(Nsa, OfPackedSequencesIsThatOfEachAlone) {
  const std::vector<std::int64_t> q_lens{20, 3, 0, 5, 0, 7}, k_lens{20, 3, 0, 17, 4, 2};
  const Module all(small(packed(q_lens, k_lens)));
  const NsaOutputs together = all.forward();
  const NsaGradients gradients = all.backward(together);
  Tensor d_pe(2, 4, 3);
  for (const Sequence& s : sequences(all.problem.attention)) {
    const Module one = cut(all, {s.q_begin, s.q_end}, {s.k_begin, s.k_end});
    const NsaOutputs alone = one.forward();
    const NsaGradients d = one.backward(alone);
    const auto queries = [&](const Tensor& tensor) { return cut(tensor, s.q_begin, s.q_end); };
    const auto keys = [&](const Tensor& tensor) { return cut(tensor, s.k_begin, s.k_end); };
    expect_equal(alone.o, queries(together.o));
    for (const auto branch : {&NsaOutputs::compressed, &NsaOutputs::selected, &NsaOutputs::window})
      expect_equal((alone.*branch).lse, queries((together.*branch).lse));
    expect_equal(d.dq, queries(gradients.dq));
    expect_equal(d.d_gates, queries(gradients.d_gates));
    for (const auto branch : {&NsaGradients::compressed, &NsaGradients::selected, &NsaGradients::window}) {
      expect_equal((d.*branch).dk, keys((gradients.*branch).dk));
      expect_equal((d.*branch).dv, keys((gradients.*branch).dv));
    }
    for (std::int64_t g = 0; g < 2; ++g)
      for (std::int64_t x = 0; x < 4; ++x) d_pe.row(g, x) += d.d_phi_k[static_cast<std::size_t>(g)].position.row(x);
  }
  for (std::int64_t g = 0; g < 2; ++g)
    for (std::int64_t x = 0; x < 4; ++x)
      EXPECT_TRUE(d_pe.row(g, x).isApprox(gradients.d_phi_k[static_cast<std::size_t>(g)].position.row(x).transpose()));
}

TEST(Nsa, OfADecodeStepIsTheLastRowOfAPrefill) {
  const Module prefill(small(packed({29}, {29})));
  const Tensor o = prefill.forward().o;
  for (std::int64_t t = 0; t < 29; ++t)
    expect_equal(cut(prefill, {t, t + 1}, {0, t + 1}).forward().o, cut(o, t, t + 1));
}

TEST(Nsa, OfARowThatSeesNothingIsZero) {
  const Module module(small(packed({9}, {2})));  // rows 0 to 6 stand before the first key; no row of K~
  NsaOutputs outputs = module.forward();
  const NsaGradients gradients = module.backward(outputs);
  EXPECT_EQ(outputs.k_compressed.tokens, 0);
  for (std::int64_t token = 0; token < 9; ++token) {
    for (std::int64_t h = 0; h < 4; ++h) {
      EXPECT_EQ(outputs.compressed.lse.row(token, h)[0], -kInfinity);
      EXPECT_TRUE(outputs.compressed.o.row(token, h).isZero(0));
      EXPECT_EQ(gradients.d_gates.row(token, h)[0], 0);
      EXPECT_EQ(outputs.window.lse.row(token, h)[0] == -kInfinity, token < 7);
      EXPECT_EQ(outputs.selected.lse.row(token, h)[0] == -kInfinity, token < 7);
      EXPECT_EQ(outputs.o.row(token, h).isZero(0), token < 7);
      EXPECT_TRUE(token >= 7 || gradients.dq.row(token, h).isZero(0));
    }
    EXPECT_EQ(outputs.selection.row(token, 1)[0], token < 7 ? -1 : 0);
  }
  EXPECT_TRUE(Eigen::Map<const Vector>(gradients.compressed.dv.values.data(), 2 * 2 * 5).isZero(0));
}

}  // namespace
}  // namespace attnspec::reference
