// QSA's selection against the second oracle, on cases worked out by hand, and where public code differs.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "reference/nsa/nsa_compression.hpp"
#include "reference/selftest/qsa_oracle.hpp"
#include "reference/selftest/selector_problems.hpp"

namespace attnspec::oracle {
namespace {

using Blocks = std::vector<std::int64_t>;
using reference::qsa_select;
using reference::Selection;

constexpr std::int64_t kMaxQsaBlock = 6;

QsaProblem qsa_problem(const SmallSelector& small) {
  return {attention_problem(small), small.index_heads, small.index_features, small.block, small.top_k};
}

struct QsaInputs {
  Tensor<Real> qi, kbar;

  explicit QsaInputs(const SmallSelector& small) {
    const QsaProblem problem = qsa_problem(small);
    qi = draw(problem.attention.q_offsets.back(), small.index_heads, small.index_features, small, "qi");
    const std::int64_t rows = qsa_rows_before(problem, small.sequences.size());
    kbar = draw(rows, 1, small.index_features, small, "kbar");
  }
};

Selection select(const QsaProblem& problem, const QsaInputs& in) {
  return qsa_select(problem, lower(in.qi), lower(in.kbar));
}

TEST(Qsa, ScoresBlocksAsTheOracleDoes) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_selectors(5, kMaxQsaBlock, [&](const SmallSelector& small) {
    const QsaProblem problem = qsa_problem(small);
    const QsaInputs in(small);
    const reference::Tensor qi = lower(in.qi), kbar = lower(in.kbar);
    const std::vector<std::int64_t> offsets = reference::index_key_offsets(problem);
    RC_ASSERT(offsets.back() == kbar.tokens);
    for (std::size_t s = 0; s < small.sequences.size(); ++s)
      for (std::int64_t token = problem.attention.q_offsets[s]; token < problem.attention.q_offsets[s + 1]; ++token) {
        const auto expected = qsa_block_scores(problem, in.qi, in.kbar, token);
        const auto visible = static_cast<std::int64_t>(expected.size());
        RC_ASSERT(reference::num_complete_blocks(problem, locate(problem.attention, token).t + 1) == visible);
        const auto keys = kbar.rows(offsets[s], offsets[s] + visible, 0);
        const auto observed = reference::block_scores(reference::index_queries(qi, token), keys);
        RC_ASSERT(comparison.difference("S", observed, expected) == "");
      }
  });
}

TEST(Qsa, SelectsTheKeysTheOracleSelects) {
  DecisionCounts counts;
  expect_on_small_selectors(20, kMaxQsaBlock, [&](const SmallSelector& small) {
    const QsaProblem problem = qsa_problem(small);
    const QsaInputs in(small);
    reference::validate(problem);
    const Selection one = select(problem, in), selection = for_kv_heads(problem.attention, one);
    reference::validate(problem.attention, problem.block, selection);
    RC_ASSERT(is_canonical(one));
    const Lists keys = selected_keys(problem.attention, problem.block, lift(selection));
    for (std::int64_t token = 0; token < selection.tokens; ++token) {
      const Place place = locate(problem.attention, token);
      const auto scores = qsa_block_scores(problem, in.qi, in.kbar, token);
      const auto best = qsa_best(problem, scores);
      const Decision decision = decide(scores, static_cast<std::int64_t>(scores.size()), best, small.is_dyadic);
      counts.add(decision);
      Blocks expected = qsa_keys_of(problem, scores, place.t);
      for (std::int64_t& key : expected) key += place.first_key;
      for (std::int64_t h = 0; h < problem.attention.heads; ++h) {
        RC_ASSERT(keys.row(token, h).size() == expected.size());
        RC_ASSERT(!decision.is_decided || keys.row(token, h) == expected);
      }
    }
  });
  counts.expect_enough();
}

TEST(Qsa, GoesOnWithAttentionOverItsKeys) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_selectors(3, kMaxQsaBlock, [&](const SmallSelector& small) {
    const QsaProblem problem = qsa_problem(small);
    const AttentionProblem& attention = problem.attention;
    const auto q = draw(attention.q_offsets.back(), attention.heads, small.dk, small, "q");
    const auto k = draw(attention.k_offsets.back(), attention.kv_heads, small.dk, small, "k");
    const auto v = draw(attention.k_offsets.back(), attention.kv_heads, small.dv, small, "v");
    const Selection selection = for_kv_heads(attention, select(problem, QsaInputs(small)));
    const auto observed = reference::selected(attention, problem.block, {lower(q), lower(k), lower(v)}, selection);
    const Lists keys = selected_keys(attention, problem.block, lift(selection));
    RC_ASSERT(difference(comparison, "", observed, attend(attention, q, k, v, keys)) == "");
  });
}

/// The selection of one sequence whose queries are 1, with one index head and feature.
Selection rows_of(std::int64_t tokens, std::int64_t block, std::int64_t top_k, const std::vector<Real>& kbar) {
  const QsaProblem problem{one_sequence(tokens), 1, 1, block, top_k};
  return qsa_select(problem, tensor(tokens, 1, 1, std::vector<Real>(static_cast<std::size_t>(tokens), 1)),
                    tensor(static_cast<std::int64_t>(kbar.size()), 1, 1, kbar));
}

/// The worked example of docs/specification.md.
TEST(Qsa, HasTheSelectionComputedByHand) {
  EXPECT_EQ(rows_of(7, 2, 1, {3, 1, 5}).blocks,
            (std::vector<std::int32_t>{0, -1, 0, -1, 0, 1, 0, -1, 0, 2, 2, -1, 2, 3}));
}

TEST(Qsa, LetsTheCompleteOwnBlockLoseAndKeepsTheIncompleteOne) {
  const Selection selection = rows_of(12, 4, 1, {2, 1, 3});
  EXPECT_EQ(selected_of(selection, 6), (Blocks{0, 1})) << "the tail is beside the budget";
  EXPECT_EQ(selected_of(selection, 7), (Blocks{0})) << "a forced own block would be 1";
  EXPECT_EQ(selected_of(selection, 8), (Blocks{0, 2}));
  EXPECT_EQ(selected_of(selection, 10), (Blocks{0, 2})) << "incomplete, block 2 has no score yet";
  EXPECT_EQ(selected_of(selection, 11), (Blocks{2}));
}

TEST(Qsa, SeesABlockFromItsLastTokenOn) {
  const Selection selection = rows_of(5, 4, 3, {0});
  for (std::int64_t t = 0; t < 4; ++t) EXPECT_EQ(selected_of(selection, t), (Blocks{0})) << t;
  EXPECT_EQ(selected_of(selection, 4), (Blocks{0, 1}));
  const QsaProblem problem{one_sequence(8), 1, 1, 4, 1};
  const auto seen = [&](std::int64_t t) { return reference::num_complete_blocks(problem, t + 1); };
  EXPECT_EQ((Blocks{seen(-5), seen(-1), seen(2), seen(3), seen(6), seen(7)}), (Blocks{0, 0, 0, 1, 1, 2}));
}

TEST(Qsa, BreaksTiesByTheLowerIndex) {
  EXPECT_EQ(selected_of(rows_of(9, 2, 2, {1, 4, 4, 4}), 8), (Blocks{1, 2, 4}));
  EXPECT_EQ(selected_of(rows_of(9, 2, 2, {-1, -4, -2, -3}), 8), (Blocks{0, 1, 4})) << "all scores are 0";
}

TEST(Qsa, SumsPositivePartsOfEveryHead) {
  QsaProblem problem{one_sequence(6), 2, 1, 2, 1};
  problem.attention.q_offsets = {0, 1};
  const auto selection = qsa_select(problem, tensor(1, 2, 1, {2, -1}), tensor(3, 1, 1, {1, -3, 1}));
  EXPECT_EQ(selected_of(selection, 0), (Blocks{1})) << "scores 2, 3, 2; without ReLU 1, -3, 1";
}

TEST(Qsa, NeverFillsARowWithBlocksThatAreNotVisible) {
  EXPECT_EQ(rows_of(4, 2, 9, {1, 9}).blocks, (std::vector<std::int32_t>{0, -1, 0, -1, 0, 1, 0, 1}))
      << "no more slots than the sequence has blocks";
}

TEST(Qsa, CountsBlocksFromTheFirstTokenOfEverySequence) {
  QsaProblem problem{one_sequence(0, 4, 2), 1, 1, 2, 1};
  problem.attention.q_offsets = {0, 1, 1, 5};  // four queries before three keys: the first of them at t = -1
  problem.attention.k_offsets = {0, 5, 5, 8};
  EXPECT_EQ(reference::index_key_offsets(problem), (Blocks{0, 2, 2, 3}));
  const auto selection = qsa_select(problem, tensor(5, 1, 1, {1, 1, 1, 1, 1}), tensor(3, 1, 1, {1, 2, 9}));
  EXPECT_EQ(selection.blocks, (std::vector<std::int32_t>{1, 2, -1, -1, 0, -1, 0, -1, 0, 1})) << "one row for all heads";
}

TEST(Qsa, HasOneSlotWhereThereAreNoKeys) {
  QsaProblem problem{one_sequence(0), 1, 1, 2, 3};
  problem.attention.q_offsets = {0, 2};
  const auto selection = qsa_select(problem, tensor(2, 1, 1, {1, 1}), tensor(0, 1, 1, {}));
  EXPECT_EQ(selection.blocks, (std::vector<std::int32_t>{-1, -1}));
}

TEST(Qsa, IsDsaWhereABlockIsOneTokenAndWeightsAreOne) {
  expect_on_small_selectors(3, 1, [](const SmallSelector& small) {
    const QsaProblem problem = qsa_problem(small);
    const reference::DsaProblem dsa{problem.attention, small.index_heads, small.index_features, small.top_k};
    const QsaInputs in(small);
    Tensor<Real> ones(in.qi.tokens, 1, in.qi.heads);
    std::fill(ones.values.begin(), ones.values.end(), Real(1));
    const Lists observed = lift(select(problem, in));
    RC_ASSERT(observed.rows == lift(reference::dsa_select(dsa, lower(in.qi), lower(ones), lower(in.kbar))).rows);
  });
}

/// kbar of a model without norm and rotation: nsa_compress with mean and l = d = r has the same rows and visibility.
TEST(Qsa, HasTheRowsOfMeansOverAdjacentBlocks) {
  expect_on_small_selectors(3, kMaxQsaBlock, [](const SmallSelector& small) {
    const QsaProblem problem = qsa_problem(small);
    reference::NsaProblem nsa;
    nsa.attention = problem.attention;
    nsa.compress_block = nsa.compress_stride = nsa.block = small.block;
    RC_ASSERT(reference::index_key_offsets(problem) == reference::compressed_offsets(nsa));
    for (std::int64_t t = -3; t < kMaxSelectorKeys; ++t)
      RC_ASSERT(reference::num_complete_blocks(problem, t + 1) == reference::num_visible_compressed(nsa, t));
  });
}

TEST(Qsa, RejectsProblemsNamingFieldAndValue) {
  const QsaProblem good{one_sequence(4), 1, 1, 1, 1};
  EXPECT_EQ(rejection(good), "");
  QsaProblem bad = good;
  bad.index_heads = 0;
  EXPECT_EQ(rejection(bad), "index_heads=0: must be at least 1");
  bad = good;
  bad.index_features = 0;
  EXPECT_EQ(rejection(bad), "index_features=0: must be at least 1");
  bad = good;
  bad.block = -4;
  EXPECT_EQ(rejection(bad), "block=-4: must be at least 1");
  bad = good;
  bad.top_k = 0;
  EXPECT_EQ(rejection(bad), "top_k=0: must be at least 1");
  bad = good;
  bad.attention.causal = false;
  EXPECT_EQ(rejection(bad), "causal=0: QSA is causal");
  bad = good;
  bad.attention.dv = 0;
  EXPECT_EQ(rejection(bad), "dv=0: must be at least 1");
}

}  // namespace
}  // namespace attnspec::oracle
