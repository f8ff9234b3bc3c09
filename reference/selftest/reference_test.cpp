// The specification against results computed by hand, and what it rejects.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "reference/dense.hpp"
#include "reference/moba/moba.hpp"
#include "reference/softmax.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::reference {
namespace {

/// The message of the InvalidProblem that the problem is rejected with; empty when it is accepted.
template <class... Problem>
std::string rejection(const Problem&... problem) {
  return message_of<InvalidProblem>([&] { validate(problem...); });
}

AttentionProblem one_sequence(std::int64_t tokens) { return {{0, tokens}, {0, tokens}, 1, 1, 1, 1, 1, true}; }

Tensor column(const std::vector<double>& values) {
  Tensor tensor(static_cast<std::int64_t>(values.size()), 1, 1);
  tensor.values = values;
  return tensor;
}

TEST(Softmax, OfAnEmptyRowHasLseMinusInfinity) {
  const Softmax result = softmax(Vector());
  EXPECT_EQ(result.weights.size(), 0);
  EXPECT_EQ(result.lse, -std::numeric_limits<double>::infinity());
}

TEST(Softmax, DoesNotOverflow) {
  const Softmax result = softmax(Vector::Constant(4, 1e4));
  EXPECT_EQ(result.weights[0], 0.25);
  EXPECT_DOUBLE_EQ(result.lse, 1e4 + std::log(4));
}

/// The worked example of docs/specification.md: scale ln 2 makes every weight a power of two.
struct WorkedExample : testing::Test {
  MobaProblem problem{one_sequence(6), 2, 2, Gate::top_k};
  Tensor q = column({2, 0, 1, 1, -1, 1}), k = column({2, 0, 1, 3, 0, 1}), v = column({1, 2, 3, 4, 5, 6});
  double ln2 = std::log(2);

  WorkedExample() { problem.attention.scale = ln2; }
};

TEST_F(WorkedExample, HasTheMeansScoresAndSelectionComputedByHand) {
  const Matrix pooled = pool_keys(k.rows(0, 6, 0), 2);
  EXPECT_EQ(pooled(0, 0), 1);
  EXPECT_EQ(pooled(1, 0), 2);
  EXPECT_EQ(pooled(2, 0), 0.5);
  EXPECT_EQ(gate_scores(q.row(4, 0), Rows(pooled.data(), 3, 1))[1], -2);
  EXPECT_EQ(moba_select(problem, q, k).blocks, (std::vector<std::int32_t>{0, -1, 0, -1, 0, 1, 0, 1, 0, 2, 1, 2}));
}

TEST_F(WorkedExample, HasTheOutputsComputedByHand) {
  const AttentionOutputs outputs = moba(problem, {q, k, v}).attention;
  const double o[] = {1, 1.5, 12.0 / 7, 44.0 / 15, 29.0 / 9, 55.0 / 13};
  const double lse[] = {4 * ln2, ln2, std::log(7), std::log(15), std::log(9.0 / 4), std::log(13)};
  for (std::size_t t = 0; t < 6; ++t) {
    EXPECT_NEAR(outputs.o.values[t], o[t], 1e-15 * 6) << "t = " << t;
    EXPECT_NEAR(outputs.lse.values[t], lse[t], 1e-15 * 4) << "t = " << t;
  }
}

TEST_F(WorkedExample, HasTheGradientsComputedByHand) {
  const MobaOutputs forward = moba(problem, {q, k, v});
  const AttentionGradients gradients = selected_backward(problem.attention, 2, {q, k, v}, forward.selection,
                                                         column({0, 0, 0, 0, 0, 1}), forward.attention);
  const double dk[] = {0, 0, -32, -24, 10, 46}, dv[] = {0, 0, 2, 8, 1, 2};
  for (std::size_t j = 0; j < 6; ++j) {
    EXPECT_NEAR(gradients.dk.values[j], ln2 * dk[j] / 169, 1e-14) << "j = " << j;
    EXPECT_NEAR(gradients.dv.values[j], dv[j] / 13, 1e-14) << "j = " << j;
    EXPECT_NEAR(gradients.dq.values[j], j == 5 ? -58 * ln2 / 169 : 0, 1e-14) << "t = " << j;
  }
}

TEST(SelectBlocks, CountsTheOwnBlockAndBreaksTiesByTheLowerIndex) {
  MobaProblem problem{one_sequence(100), 10, 3, Gate::top_k};
  const Vector scores = (Vector(6) << 1, 5, 5, 2, 5, 9).finished();
  EXPECT_EQ(select_blocks(problem, scores, 55, 10), (std::vector<std::int32_t>{1, 2, 5}));
  EXPECT_EQ(select_blocks(problem, scores, 49, 10), (std::vector<std::int32_t>{1, 2, 4}));  // last token of block 4
  EXPECT_EQ(select_blocks(problem, scores, 50, 10), (std::vector<std::int32_t>{1, 2, 5}));  // first token of block 5
  EXPECT_EQ(select_blocks(problem, scores, 9, 10), (std::vector<std::int32_t>{0}));
  EXPECT_TRUE(select_blocks(problem, scores, -1, 10).empty());
  problem.top_k = 1;
  EXPECT_EQ(select_blocks(problem, scores, 55, 10), (std::vector<std::int32_t>{5}));
  problem.top_k = 1000000;
  EXPECT_EQ(select_blocks(problem, scores, 55, 10), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}));
}

TEST(SelectBlocks, HasTheWindowAndSinkGates) {
  MobaProblem problem{one_sequence(100), 10, 3, Gate::window};
  EXPECT_EQ(select_blocks(problem, Vector(), 75, 10), (std::vector<std::int32_t>{5, 6, 7}));
  EXPECT_EQ(select_blocks(problem, Vector(), 15, 10), (std::vector<std::int32_t>{0, 1}));
  problem.gate = Gate::sink;
  EXPECT_EQ(select_blocks(problem, Vector(), 75, 10), (std::vector<std::int32_t>{0, 6, 7}));
  EXPECT_EQ(select_blocks(problem, Vector(), 15, 10), (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(select_blocks(problem, Vector(), 5, 10), (std::vector<std::int32_t>{0}));
  problem.top_k = 2;
  EXPECT_EQ(select_blocks(problem, Vector(), 75, 10), (std::vector<std::int32_t>{0, 7}));
}

TEST(SelectBlocks, ForcesNoBlockWithoutCausality) {
  MobaProblem problem{one_sequence(30), 10, 1, Gate::top_k};
  problem.attention.causal = false;
  EXPECT_EQ(select_blocks(problem, (Vector(3) << 1, 3, 2).finished(), 0, 3), (std::vector<std::int32_t>{1}));
}

TEST(VisibleKeys, SkipEmptySlotsFutureBlocksAndLaterTokens) {
  const std::int32_t blocks[] = {-1, 2, 0, 3, -1};
  const auto visible = visible_keys(blocks, causal_reach(25, 34, true), 34, 10);
  ASSERT_EQ(visible.size(), 2u);
  EXPECT_EQ(visible[0].begin, 20);
  EXPECT_EQ(visible[0].end, 26);
  EXPECT_EQ(visible[1].end, 10);
  EXPECT_EQ(visible_keys(blocks, causal_reach(25, 34, false), 34, 10)[2].end, 34);
}

TEST(Validate, NamesFieldAndValue) {
  AttentionProblem good = one_sequence(4);
  EXPECT_EQ(rejection(good), "");
  AttentionProblem bad = good;
  bad.q_offsets = {0, 5, 3};
  bad.k_offsets = {0, 4, 4};
  EXPECT_EQ(rejection(bad), "q_offsets[2]=3: offsets must not decrease, and the one before is 5");
  bad = good;
  bad.k_offsets = {1, 4};
  EXPECT_EQ(rejection(bad), "k_offsets[0]=1: must be 0");
  bad.k_offsets = {};
  EXPECT_EQ(rejection(bad), "k_offsets=[]: needs num_sequences + 1 entries, the first of them 0");
  bad.k_offsets = {0, 1, 2};
  EXPECT_EQ(rejection(bad), "k_offsets=3 entries: must have as many as q_offsets, 2");
  bad = good;
  bad.heads = 3, bad.kv_heads = 2;
  EXPECT_EQ(rejection(bad), "heads=3: must be a multiple of kv_heads=2");
  bad = good;
  bad.kv_heads = 0;
  EXPECT_EQ(rejection(bad), "kv_heads=0: must be at least 1");
  bad = good;
  bad.dv = -1;
  EXPECT_EQ(rejection(bad), "dv=-1: must be at least 1");
  bad = good;
  bad.scale = std::numeric_limits<double>::infinity();
  EXPECT_EQ(rejection(bad), "scale=inf: must be a finite number of fp32, in which kernels compute");
  EXPECT_EQ(rejection(MobaProblem{good, 0, 1, Gate::top_k}), "block=0: must be at least 1");
  EXPECT_EQ(rejection(MobaProblem{good, 1, 0, Gate::top_k}), "top_k=0: must be at least 1");
  EXPECT_EQ(rejection(MobaProblem{good, 1, 1, Gate::sink}),
            "top_k=1: the sink gate needs at least 2, for the first block and the query's own");
  good.causal = false;
  EXPECT_NE(rejection(MobaProblem{good, 1, 1, Gate::window}), "");
}

TEST(Validate, RejectsSelectionsThatAreNoSets) {
  const AttentionProblem problem = one_sequence(4);
  Selection selection(4, 1, 2);
  EXPECT_EQ(rejection(problem, 2, selection), "");
  selection.row(3, 0)[0] = 1, selection.row(3, 0)[1] = 1;
  EXPECT_EQ(rejection(problem, 2, selection), "selection[token=3,head=0]=1: is listed twice");
  selection.row(3, 0)[1] = 2;
  EXPECT_EQ(rejection(problem, 2, selection), "selection[token=3,head=0]=2: is neither -1 nor a block of the sequence");
  EXPECT_NE(rejection(problem, 2, Selection(4, 2, 1)), "");
  EXPECT_NE(rejection(problem, 2, Selection(3, 1, 1)), "");
}

}  // namespace
}  // namespace attnspec::reference
