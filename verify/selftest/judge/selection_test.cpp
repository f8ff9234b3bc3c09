// Which selections are admissible.

#include "verify/judge/selection.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "verify/cases/random.hpp"
#include "verify/judge/selections.hpp"

namespace attnspec::verify {
namespace {

using reference::Gate;
using reference::MobaProblem;
using reference::Vector;

/// Blocks of 10 tokens, top_k 3, a query at t = 55: own block 5, past blocks 0 .. 4.
struct SelectionOfOneRow : testing::Test {
  MobaProblem problem{{{0, 100}, {0, 100}, 1, 1, 1, 1, 1, true}, 10, 3, Gate::top_k};
  Vector scores = (Vector(10) << 1, 5, 4.9, 2, 4.8, 9, 9, 9, 9, 9).finished();
  Vector margins = Vector::Zero(10);

  SelectionRule rule() const { return selection_rule(problem, 55, 100, scores, margins); }
  std::string fault(const Blocks& blocks) const { return inadmissible(rule(), blocks); }
};

TEST_F(SelectionOfOneRow, IsAdmissibleInAnyOrderWithEmptySlotsAnywhere) {
  EXPECT_EQ(fault({1, 2, 5}), "");
  EXPECT_EQ(fault({5, -1, 2, -1, 1}), "");
}

TEST_F(SelectionOfOneRow, MustHaveTheBestBlocks) {
  EXPECT_EQ(fault({1, 4, 5}), "block 2 (score 4.9 +- 0) left out for block 4 (score 4.8 +- 0)");
}

TEST_F(SelectionOfOneRow, MayDifferWithinTheMargin) {
  margins.setConstant(0.06);
  EXPECT_EQ(fault({1, 4, 5}), "");
  EXPECT_EQ(fault({2, 4, 5}), "block 1 (score 5 +- 0.06) left out for block 4 (score 4.8 +- 0.06)");
  margins.setConstant(0.09);  // either margin twice would reach the other
  EXPECT_EQ(fault({2, 4, 5}), "block 1 (score 5 +- 0.09) left out for block 4 (score 4.8 +- 0.09)");
}

/// Margins that are asked for of some candidates alone decide as those of all.
TEST(RuleWithBounds, DecidesEverySelectionAsTheRuleWithAllMargins) {
  std::int64_t asked = 0, admissible = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    const Random random(seed, "scores");
    Vector scores(7), margins(7), bounds(7);
    for (Eigen::Index b = 0; b < 7; ++b) {
      scores[b] = static_cast<double>(random.below(40, static_cast<std::uint64_t>(b)));
      margins[b] = static_cast<double>(random.below(4, static_cast<std::uint64_t>(10 + b)));
      bounds[b] = margins[b] + static_cast<double>(random.below(9, static_cast<std::uint64_t>(20 + b)));
    }
    const Blocks forced = seed % 3 == 0 ? Blocks{6} : Blocks{};
    const SelectionRule all = rule_of(3, forced, scores, margins),
                        some = rule_of(3, forced, scores, bounds, [&](const std::vector<Eigen::Index>&candidates) {
                          asked += std::ssize(candidates);
                          return Vector(margins(candidates));
                        });
    for (std::int32_t a = 0; a < 7; ++a)
      for (std::int32_t b = a + 1; b < 7; ++b)
        for (std::int32_t c = b + 1; c < 7; ++c) {
          const Blocks row{a, b, c};
          admissible += inadmissible(all, row).empty();
          EXPECT_EQ(inadmissible(all, row).empty(), inadmissible(some, row).empty()) << seed;
        }
  }
  EXPECT_LT(asked, 300 * 7 * 2 / 3);
  EXPECT_GT(admissible, 300);
}

/// What a regime of exact scores promises, under any declared arithmetic.
TEST(MobaRule, HasMarginsUnlessScoresAreExact) {
  const MobaProblem problem{{{0, 60}, {0, 60}, 1, 1, 8, 8, 1, true}, 10, 3, Gate::top_k};
  reference::Tensor q(60, 1, 8), k = q;
  std::fill(q.values.begin(), q.values.end(), 0.5);
  std::fill(k.values.begin(), k.values.end(), 1.5);
  const auto arithmetic = reference::make_arithmetic(Format::bf16, {"rounded_means"});
  const auto largest_margin = [&](bool exact) {
    const RuleOfRow rule = moba_rule(arithmetic, problem, q, k, exact);
    const std::vector<double> margins = rule(sequences(problem.attention)[0], 55, 0).margins;
    return *std::max_element(margins.begin(), margins.end());
  };
  EXPECT_GT(largest_margin(false), 0);
  EXPECT_EQ(largest_margin(true), 0);
}

TEST_F(SelectionOfOneRow, MayTakeAnyOfExactTies) {
  scores.setConstant(1);
  EXPECT_EQ(fault({0, 3, 5}), "");
  EXPECT_EQ(fault({5, 2, 4}), "");
}

TEST_F(SelectionOfOneRow, MustHaveTheOwnBlockTheRightSizeAndNothingInvisible) {
  EXPECT_EQ(fault({1, 2, 4}), "forced block 5 is missing");
  EXPECT_EQ(fault({1, 5}), "2 blocks where 3 belong");
  EXPECT_EQ(fault({1, 2, 4, 5}), "4 blocks where 3 belong");
  EXPECT_EQ(fault({1, 5, 6}), "block 6 is not visible");
}

TEST_F(SelectionOfOneRow, OfEarlyRowsHoldsAllVisibleBlocks) {
  EXPECT_EQ(inadmissible(selection_rule(problem, 10, 100, scores, margins), Blocks{0, 1}), "");
  EXPECT_NE(inadmissible(selection_rule(problem, 10, 100, scores, margins), Blocks{1}), "");
  EXPECT_EQ(inadmissible(selection_rule(problem, -1, 100, scores, margins), Blocks{-1, -1}), "");
  EXPECT_NE(inadmissible(selection_rule(problem, -1, 100, scores, margins), Blocks{0}), "");
}

TEST_F(SelectionOfOneRow, IsFixedByTheWindowAndSinkGates) {
  problem.gate = Gate::window;
  EXPECT_EQ(fault({3, 4, 5}), "");
  EXPECT_NE(fault({1, 2, 5}), "");
  problem.gate = Gate::sink;
  EXPECT_EQ(fault({0, 4, 5}), "");
  EXPECT_NE(fault({3, 4, 5}), "");
}

TEST_F(SelectionOfOneRow, ForcesNothingWithoutCausality) {
  problem.attention.causal = false;
  problem.top_k = 1;
  scores[7] = 10;
  EXPECT_EQ(fault({7}), "");
  EXPECT_EQ(fault({5}), "block 7 (score 10 +- 0) left out for block 5 (score 9 +- 0)");
}

TEST_F(SelectionOfOneRow, HasItsAdmissibleSelectionsListed) {
  EXPECT_EQ(admissible_selections(rule(), 16), (std::vector<Blocks>{{5, 1, 2}}));
  margins.setConstant(0.06);
  EXPECT_EQ(admissible_selections(rule(), 16).size(), 2u);  // 1 with 2 or 4, by their margins
  margins.setConstant(0.2);
  EXPECT_EQ(admissible_selections(rule(), 16).size(), 3u);  // any two of 1, 2, 4
  scores.setZero();
  EXPECT_EQ(admissible_selections(rule(), 16).size(), 10u);
  EXPECT_EQ(admissible_selections(rule(), 10).size(), 10u);
  EXPECT_TRUE(admissible_selections(rule(), 9).empty());
  for (const Blocks& blocks : admissible_selections(rule(), 16)) EXPECT_EQ(fault(blocks), "");
  EXPECT_EQ(admissible_selections(selection_rule(problem, -1, 100, scores, margins), 16), std::vector<Blocks>{{}});
}

TEST_F(SelectionOfOneRow, IsAnyOfThoseThatTieWithoutAMargin) {
  scores[4] = scores[2];
  EXPECT_EQ(admissible_selections(rule(), 16), (std::vector<Blocks>{{5, 1, 2}, {5, 1, 4}}));
}

TEST(Malformed, NamesWhatIsNoSet) {
  EXPECT_EQ(malformed(Blocks{0, -1, 2}, 3), "");
  EXPECT_EQ(malformed(Blocks{0, 3}, 3), "slot holds 3, not a block of the sequence");
  EXPECT_EQ(malformed(Blocks{-2}, 3), "slot holds -2, not a block of the sequence");
  EXPECT_EQ(malformed(Blocks{1, -1, 1}, 3), "block 1 twice");
}

TEST(ImportanceRule, WantsForcedBlocksAndThenTheMostImportant) {
  reference::NsaProblem problem;
  problem.block = 64, problem.top_n = 4, problem.initial_blocks = 1, problem.local_blocks = 2;
  const Vector importance{{0, 0.3, 0.1, 0.3, 0.2, 0, 0}}, margins = Vector::Zero(7);  // at t = 400, in block 6
  const SelectionRule rule = importance_rule(problem, 400, importance, margins);
  EXPECT_EQ(rule.wanted, 4);
  EXPECT_EQ(rule.forced, (Blocks{0, 5, 6}));
  const auto is_right = [&](const SelectionRule& of, std::vector<std::int32_t> row) {
    return inadmissible(of, row).empty();
  };
  EXPECT_TRUE(is_right(rule, {0, 1, 5, 6}));
  EXPECT_TRUE(is_right(rule, {6, 3, 5, 0}));   // the other of a tie, in another order
  EXPECT_FALSE(is_right(rule, {0, 2, 5, 6}));  // less important
  EXPECT_FALSE(is_right(rule, {0, 1, 3, 6}));  // without a local block
  EXPECT_FALSE(is_right(rule, {0, 1, 3, 5, 6}));
  EXPECT_FALSE(is_right(rule, {0, 5, 6, -1}));
  const SelectionRule early = importance_rule(problem, 70, Vector::Zero(2), Vector::Zero(2));
  EXPECT_EQ(early.wanted, 2);
  EXPECT_TRUE(is_right(early, {1, -1, 0, -1}));
}

TEST(ImportanceRule, AdmitsAnyChoiceButNoOtherNumberWhereAllUnderflow) {
  reference::NsaProblem problem;
  problem.top_n = 4;
  const Vector importance{{0, 1e-60, 1e-50, 0, 1e-70, 32, 32}};
  const SelectionRule rule = importance_rule(problem, 400, importance, Vector::Constant(7, 1e-36));
  for (const std::int32_t b : {1, 2, 3, 4}) EXPECT_EQ(inadmissible(rule, std::vector<std::int32_t>{0, b, 5, 6}), "");
  EXPECT_NE(inadmissible(rule, std::vector<std::int32_t>{0, 5, 6, -1}), "");
}

}  // namespace
}  // namespace attnspec::verify
