// MSA's selection against the second oracle, on cases worked out by hand, and where public code differs.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "reference/moba/moba.hpp"
#include "reference/selftest/msa_oracle.hpp"
#include "reference/selftest/selector_problems.hpp"

namespace attnspec::oracle {
namespace {

using Blocks = std::vector<std::int64_t>;
using reference::msa_select;
using reference::Selection;

constexpr std::int64_t kMaxMsaBlock = 20;

MsaProblem msa_problem(const SmallSelector& small) {
  return {attention_problem(small), small.index_features, small.block, small.top_k};
}

struct MsaInputs {
  Tensor<Real> qi, ki;

  explicit MsaInputs(const SmallSelector& small) {
    const AttentionProblem attention = attention_problem(small);
    qi = draw(attention.q_offsets.back(), attention.kv_heads, small.index_features, small, "qi");
    ki = draw(attention.k_offsets.back(), 1, small.index_features, small, "ki");
  }
};

TEST(Msa, ScoresBlocksAsTheOracleDoes) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_selectors(5, kMaxMsaBlock, [&](const SmallSelector& small) {
    const MsaProblem problem = msa_problem(small);
    const MsaInputs in(small);
    const reference::Tensor qi = lower(in.qi), ki = lower(in.ki);
    for (std::int64_t token = 0; token < qi.tokens; ++token)
      for (std::int64_t g = 0; g < qi.heads; ++g) {
        const Place place = locate(problem.attention, token);
        const auto keys = ki.rows(place.first_key, place.first_key + std::max<std::int64_t>(0, place.t + 1), 0);
        const auto observed = reference::block_maxima(reference::index_scores(qi.row(token, g), keys), problem.block);
        RC_ASSERT(comparison.difference("S", observed, msa_block_scores(problem, in.qi, in.ki, token, g)) == "");
      }
  });
}

TEST(Msa, SelectsTheBlocksTheOracleSelects) {
  DecisionCounts counts;
  expect_on_small_selectors(20, kMaxMsaBlock, [&](const SmallSelector& small) {
    const MsaProblem problem = msa_problem(small);
    const MsaInputs in(small);
    reference::validate(problem);
    const Selection selection = msa_select(problem, lower(in.qi), lower(in.ki));
    reference::validate(problem.attention, problem.block, selection);
    RC_ASSERT(is_canonical(selection));
    const Lists observed = lift(selection), expected = msa_blocks(problem, in.qi, in.ki);
    for (std::int64_t token = 0; token < selection.tokens; ++token)
      for (std::int64_t g = 0; g < selection.heads; ++g) {
        const auto scores = msa_block_scores(problem, in.qi, in.ki, token, g);
        const std::int64_t past = std::max<std::int64_t>(0, static_cast<std::int64_t>(scores.size()) - 1);
        const Decision decision = decide(scores, past, expected.row(token, g), small.is_dyadic);
        counts.add(decision);
        RC_ASSERT(observed.row(token, g).size() == expected.row(token, g).size());
        if (!scores.empty()) RC_ASSERT(observed.row(token, g).back() == past);
        RC_ASSERT(!decision.is_decided || observed.row(token, g) == expected.row(token, g));
      }
  });
  counts.expect_enough();
}

TEST(Msa, GoesOnWithAttentionOverItsBlocks) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_selectors(3, kMaxMsaBlock, [&](const SmallSelector& small) {
    const MsaProblem problem = msa_problem(small);
    const MsaInputs in(small);
    const AttentionProblem& attention = problem.attention;
    const auto q = draw(attention.q_offsets.back(), attention.heads, small.dk, small, "q");
    const auto k = draw(attention.k_offsets.back(), attention.kv_heads, small.dk, small, "k");
    const auto v = draw(attention.k_offsets.back(), attention.kv_heads, small.dv, small, "v");
    const Selection selection = msa_select(problem, lower(in.qi), lower(in.ki));
    const auto observed = reference::selected(attention, problem.block, {lower(q), lower(k), lower(v)}, selection);
    const Lists keys = selected_keys(attention, problem.block, lift(selection));
    RC_ASSERT(difference(comparison, "", observed, attend(attention, q, k, v, keys)) == "");
  });
}

/// The worked example of docs/specification.md: one index feature, so that ki_j are the scores of a query of 1.
TEST(Msa, HasTheSelectionComputedByHand) {
  const MsaProblem problem{one_sequence(6), 1, 2, 2};
  const auto qi = tensor(6, 1, 1, {1, 1, 1, 1, 1, 0}), ki = tensor(6, 1, 1, {4, -9, 3, 3, 0, 0});
  const auto maxima = reference::block_maxima(reference::index_scores(qi.row(4, 0), ki.rows(0, 5, 0)), 2);
  EXPECT_EQ(maxima, (reference::Vector(3) << 4, 3, 0).finished());
  EXPECT_EQ(msa_select(problem, qi, ki).blocks, (std::vector<std::int32_t>{0, -1, 0, -1, 0, 1, 0, 1, 0, 2, 0, 2}));
}

/// The blocks that one query of 1 at the last of some keys selects, with one index feature.
Blocks last_row(std::int64_t block, std::int64_t top_k, const std::vector<Real>& keys) {
  const auto tokens = static_cast<std::int64_t>(keys.size());
  MsaProblem problem{one_sequence(tokens), 1, block, top_k};
  problem.attention.q_offsets = {0, 1};
  return selected_of(msa_select(problem, tensor(1, 1, 1, {1}), tensor(tokens, 1, 1, keys)), 0);
}

TEST(Msa, CountsTheOwnBlockWhateverItIsWorth) {
  const std::vector<Real> keys{1e30L, 1e30L, 3e30L, 1, 2e30L, 1, -1e38L};
  EXPECT_EQ(last_row(2, 1, keys), (Blocks{3}));
  EXPECT_EQ(last_row(2, 2, keys), (Blocks{1, 3})) << "by value the own block, at 1e29, would lose";
  EXPECT_EQ(last_row(2, 3, keys), (Blocks{1, 2, 3}));
  EXPECT_EQ(last_row(2, 4, keys), (Blocks{0, 1, 2, 3}));
  EXPECT_EQ(last_row(2, 1000, keys), (Blocks{0, 1, 2, 3}));
}

TEST(Msa, ComparesNegativeScoresToo) {
  EXPECT_EQ(last_row(1, 2, {-3, -2, -1, 5}), (Blocks{2, 3})) << "with a ReLU all tie, and block 0 wins";
  EXPECT_EQ(last_row(2, 2, {-3, 4, 3, 3, 0}), (Blocks{0, 2})) << "sums are 1 and 6, sums of ReLUs 4 and 6";
}

TEST(Msa, TakesTheMaximumOfProductsAndNotTheProductOfMaxima) {
  MsaProblem problem{one_sequence(5), 2, 2, 2};
  problem.attention.q_offsets = {0, 1};
  const auto qi = tensor(1, 1, 2, {1, 1});
  const auto ki = tensor(5, 1, 2, {9, -9, -9, 9, 4, 4, 0, 0, 0, 0});  // element-wise maxima (9, 9) and (4, 4)
  EXPECT_EQ(selected_of(msa_select(problem, qi, ki), 0), (Blocks{1, 2}));
}

TEST(Msa, GivesEveryKvHeadAListOfItsOwn) {
  MsaProblem problem{one_sequence(5, 4, 2), 2, 2, 2};
  problem.attention.q_offsets = {0, 1};
  const auto qi = tensor(1, 2, 2, {1, 0, 0, 1});
  const auto ki = tensor(5, 1, 2, {1, 0, 0, 0, 0, 0, 0, 5, 0, 0});
  const Selection selection = msa_select(problem, qi, ki);
  EXPECT_EQ(selected_of(selection, 0, 0), (Blocks{0, 2})) << "the maximum over heads is that of block 1";
  EXPECT_EQ(selected_of(selection, 0, 1), (Blocks{1, 2}));
}

TEST(Msa, TellsScoresApartThatSixteenBitsDoNot) {
  EXPECT_EQ(last_row(1, 2, {1000, 1000.01L, 0}), (Blocks{1, 2}));
  EXPECT_EQ(last_row(1, 2, {7e4L, 8e4L, 0}), (Blocks{1, 2})) << "both beyond fp16";
}

TEST(Msa, BreaksTiesByTheLowerIndexAndListsBlocksAscending) {
  EXPECT_EQ(last_row(1, 3, {0, 5, 5, 5, 0}), (Blocks{1, 2, 4}));
  EXPECT_EQ(last_row(1, 3, {1, 0, 9, 2, 0}), (Blocks{2, 3, 4}));
}

TEST(Msa, SelectsInPrefillWhatItSelectsWhileDecoding) {
  const std::vector<Real> keys{1, 7, 2, 9, 3, 8, 4, 5, 0};
  const MsaProblem problem{one_sequence(9), 1, 2, 3};
  const Selection prefill = msa_select(problem, tensor(9, 1, 1, std::vector<Real>(9, 1)), tensor(9, 1, 1, keys));
  for (std::size_t t = 0; t < keys.size(); ++t)
    EXPECT_EQ(selected_of(prefill, static_cast<std::int64_t>(t)),
              last_row(2, 3, {keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(t) + 1}))
        << t;
  EXPECT_EQ(selected_of(prefill, 8), (Blocks{1, 2, 4}));
}

TEST(Msa, CountsBlocksFromTheFirstTokenOfEverySequence) {
  MsaProblem problem{one_sequence(0), 1, 2, 2};
  problem.attention.q_offsets = {0, 1, 1, 4};  // three queries before two keys: the first of them at t = -1
  problem.attention.k_offsets = {0, 5, 5, 7};
  const Selection selection =
      msa_select(problem, tensor(4, 1, 1, {1, 1, 1, 1}), tensor(7, 1, 1, {0, 0, 1, 0, 0, 9, 9}));
  EXPECT_EQ(selection.blocks, (std::vector<std::int32_t>{1, 2, -1, -1, 0, -1, 0, -1}));
}

TEST(Msa, HasOneSlotWhereThereAreNoKeys) {
  MsaProblem problem{one_sequence(0), 1, 2, 2};
  problem.attention.q_offsets = {0, 2};
  const Selection selection = msa_select(problem, tensor(2, 1, 1, {1, 1}), tensor(0, 1, 1, {}));
  EXPECT_EQ(selection.blocks, (std::vector<std::int32_t>{-1, -1}));
}

TEST(Msa, SelectsAsMobaWhereABlockIsOneToken) {
  expect_on_small_selectors(3, 1, [](SmallSelector small) {
    small.kv_heads = small.group = 1;
    small.dk = small.index_features;
    const MsaProblem problem = msa_problem(small);
    const reference::MobaProblem moba{problem.attention, 1, small.top_k, reference::Gate::top_k};
    const MsaInputs in(small);
    const auto qi = lower(in.qi), ki = lower(in.ki);
    RC_ASSERT(msa_select(problem, qi, ki).blocks == reference::moba_select(moba, qi, ki).blocks);
  });
}

TEST(Msa, IgnoresWhatAllKeysShareAndThePositiveScaleOfAQuery) {
  expect_on_small_selectors(3, kMaxMsaBlock, [](SmallSelector small) {
    small.is_dyadic = true;  // so that sums are exact
    const MsaProblem problem = msa_problem(small);
    const MsaInputs in(small);
    MsaInputs moved = in;
    for (Real& x : moved.ki.values) x += 2.5L;
    for (Real& x : moved.qi.values) x *= 3;
    RC_ASSERT(msa_select(problem, lower(in.qi), lower(in.ki)).blocks ==
              msa_select(problem, lower(moved.qi), lower(moved.ki)).blocks);
  });
}

TEST(Msa, RejectsProblemsNamingFieldAndValue) {
  const MsaProblem good{one_sequence(4), 1, 1, 1};
  EXPECT_EQ(rejection(good), "");
  MsaProblem bad = good;
  bad.index_features = 0;
  EXPECT_EQ(rejection(bad), "index_features=0: must be at least 1");
  bad = good;
  bad.block = -1;
  EXPECT_EQ(rejection(bad), "block=-1: must be at least 1");
  bad = good;
  bad.top_k = 0;
  EXPECT_EQ(rejection(bad), "top_k=0: must be at least 1");
  bad = good;
  bad.attention.causal = false;
  EXPECT_EQ(rejection(bad), "causal=0: MSA is causal");
  bad = good;
  bad.attention.heads = 0;
  EXPECT_EQ(rejection(bad), "heads=0: must be at least 1");
}

}  // namespace
}  // namespace attnspec::oracle
