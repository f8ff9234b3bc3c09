// DSA's selection against the second oracle, on cases worked out by hand, and where public code differs.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "reference/selftest/dsa_oracle.hpp"
#include "reference/selftest/selector_problems.hpp"

namespace attnspec::oracle {
namespace {

using reference::dsa_select;
using reference::Selection;
using Tokens = std::vector<std::int64_t>;

DsaProblem dsa_problem(const SmallSelector& small) {
  return {attention_problem(small), small.index_heads, small.index_features, small.top_k};
}

struct DsaInputs {
  Tensor<Real> qi, w, ki;

  explicit DsaInputs(const SmallSelector& small) {
    const AttentionProblem attention = attention_problem(small);
    const std::int64_t queries = attention.q_offsets.back();
    qi = draw(queries, small.index_heads, small.index_features, small, "qi");
    w = draw(queries, 1, small.index_heads, small, "w");
    ki = draw(attention.k_offsets.back(), 1, small.index_features, small, "ki");
  }
};

Selection select(const DsaProblem& problem, const DsaInputs& in) {
  return dsa_select(problem, lower(in.qi), lower(in.w), lower(in.ki));
}

TEST(Dsa, ScoresTokensAsTheOracleDoes) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_selectors(5, 1, [&](const SmallSelector& small) {
    const DsaProblem problem = dsa_problem(small);
    const DsaInputs in(small);
    const reference::Tensor qi = lower(in.qi), w = lower(in.w), ki = lower(in.ki);
    for (std::int64_t token = 0; token < qi.tokens; ++token) {
      const Place place = locate(problem.attention, token);
      const auto keys = ki.rows(place.first_key, place.first_key + std::max<std::int64_t>(0, place.t + 1), 0);
      const auto observed = reference::index_scores(reference::index_queries(qi, token), w.row(token, 0), keys);
      RC_ASSERT(comparison.difference("I", observed, dsa_token_scores(problem, in.qi, in.w, in.ki, token)) == "");
    }
  });
}

TEST(Dsa, SelectsTheTokensTheOracleSelects) {
  DecisionCounts counts;
  expect_on_small_selectors(20, 1, [&](const SmallSelector& small) {
    const DsaProblem problem = dsa_problem(small);
    const DsaInputs in(small);
    reference::validate(problem);
    const Selection selection = select(problem, in);
    reference::validate(problem.attention, 1, for_kv_heads(problem.attention, selection));
    RC_ASSERT(is_canonical(selection));
    const Lists observed = lift(selection), expected = dsa_tokens(problem, in.qi, in.w, in.ki);
    for (std::int64_t token = 0; token < selection.tokens; ++token) {
      const auto scores = dsa_token_scores(problem, in.qi, in.w, in.ki, token);
      const Decision decision =
          decide(scores, static_cast<std::int64_t>(scores.size()), expected.row(token, 0), small.is_dyadic);
      counts.add(decision);
      RC_ASSERT(observed.row(token, 0).size() == expected.row(token, 0).size());
      RC_ASSERT(!decision.is_decided || observed.row(token, 0) == expected.row(token, 0));
    }
  });
  counts.expect_enough();
}

TEST(Dsa, GoesOnWithAttentionOverItsTokens) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_selectors(3, 1, [&](const SmallSelector& small) {
    const DsaProblem problem = dsa_problem(small);
    const AttentionProblem& attention = problem.attention;
    const auto q = draw(attention.q_offsets.back(), attention.heads, small.dk, small, "q");
    const auto k = draw(attention.k_offsets.back(), attention.kv_heads, small.dk, small, "k");
    const auto v = draw(attention.k_offsets.back(), attention.kv_heads, small.dv, small, "v");
    const Selection selection = for_kv_heads(attention, select(problem, DsaInputs(small)));
    const auto observed = reference::selected(attention, 1, {lower(q), lower(k), lower(v)}, selection);
    Lists keys(attention.q_offsets.back(), attention.heads);  // the tokens themselves
    for (std::int64_t token = 0; token < selection.tokens; ++token)
      for (std::int64_t h = 0; h < attention.heads; ++h)
        for (const std::int64_t j : selected_of(selection, token))
          keys.row(token, h).push_back(locate(attention, token).first_key + j);
    RC_ASSERT(difference(comparison, "", observed, attend(attention, q, k, v, keys)) == "");
  });
}

/// What one query at the last of some keys selects, with one index feature: qi and w have a number for each head.
Tokens last_row(std::int64_t top_k, const std::vector<Real>& qi, const std::vector<Real>& w,
                const std::vector<Real>& keys) {
  const auto heads = static_cast<std::int64_t>(qi.size()), tokens = static_cast<std::int64_t>(keys.size());
  DsaProblem problem{one_sequence(tokens), heads, 1, top_k};
  problem.attention.q_offsets = {0, 1};
  return selected_of(dsa_select(problem, tensor(1, heads, 1, qi), tensor(1, 1, heads, w), tensor(tokens, 1, 1, keys)),
                     0);
}

/// The worked example of docs/specification.md.
TEST(Dsa, HasTheSelectionComputedByHand) {
  const std::vector<Real> keys{1, -1, 2, 0};
  const DsaProblem problem{one_sequence(4), 2, 1, 2};
  const auto qi = tensor(4, 2, 1, {1, -1, 1, -1, 1, -1, 1, -1});
  const auto w = tensor(4, 1, 2, {1, 2, 1, 2, 1, 2, -1, -2}), ki = tensor(4, 1, 1, keys);
  const auto scores = [&](std::int64_t token) {
    return reference::index_scores(reference::index_queries(qi, token), w.row(token, 0), ki.rows(0, 4, 0));
  };
  EXPECT_EQ(scores(0), (reference::Vector(4) << 1, 2, 2, 0).finished());
  EXPECT_EQ(scores(3), (reference::Vector(4) << -1, -2, -2, 0).finished());
  EXPECT_EQ(dsa_select(problem, qi, w, ki).blocks, (std::vector<std::int32_t>{0, -1, 0, 1, 1, 2, 0, 3}));
  EXPECT_EQ(last_row(2, {1, -1}, {1, 2}, keys), (Tokens{1, 2})) << "without ReLU the scores are -1 1 -2 0";
}

TEST(Dsa, ForcesNoTokenNotEvenTheQuerysOwn) {
  EXPECT_EQ(last_row(2, {1}, {1}, {5, 4, 3, 2}), (Tokens{0, 1}));
  EXPECT_EQ(last_row(1, {1}, {1}, {5, 4, 3, 2}), (Tokens{0}));
  EXPECT_EQ(last_row(1, {1}, {-1}, {1, 4, 3, 2}), (Tokens{0})) << "a negative weight turns the order";
}

TEST(Dsa, TiesWhereNoHeadIsPositive) {
  EXPECT_EQ(last_row(2, {1}, {1}, {-1, -2, -3, -4}), (Tokens{0, 1})) << "all scores are 0";
  EXPECT_EQ(last_row(3, {1}, {1}, {-1, -2, 1, -4}), (Tokens{0, 1, 2}));
  EXPECT_EQ(last_row(2, {1}, {-1}, {3, -2, 1, -4}), (Tokens{1, 3})) << "0 is more than what a negative weight makes";
}

TEST(Dsa, RectifiesEveryHeadAndNotTheSum) {
  EXPECT_EQ(last_row(1, {1, -1}, {1, 1}, {-3, 2, 1}), (Tokens{0})) << "the sums before ReLU are all 0";
  EXPECT_EQ(last_row(1, {1, -1}, {1, -1}, {-3, 2, 1}), (Tokens{1})) << "scores -3, 2, 1";
}

TEST(Dsa, DoesNotDependOnScales) {
  expect_on_small_selectors(3, 1, [](SmallSelector small) {
    small.is_dyadic = true;  // so that sums are exact
    const DsaProblem problem = dsa_problem(small);
    const DsaInputs in(small);
    DsaInputs scaled = in;
    for (Real& x : scaled.qi.values) x *= 8;  // inside the ReLU
    for (Real& x : scaled.w.values) x *= 3;   // outside
    RC_ASSERT(select(problem, in).blocks == select(problem, scaled).blocks);
  });
}

TEST(Dsa, DoesNotDependOnTheOrderOfHeads) {
  expect_on_small_selectors(3, 1, [](SmallSelector small) {
    small.is_dyadic = true;
    const DsaProblem problem = dsa_problem(small);
    const DsaInputs in(small);
    DsaInputs turned = in;
    for (std::int64_t token = 0; token < in.qi.tokens; ++token)
      for (std::int64_t h = 0; h < in.qi.heads; ++h) {
        turned.w(token, 0, h) = in.w(token, 0, in.qi.heads - 1 - h);
        for (std::int64_t d = 0; d < in.qi.dim; ++d) turned.qi(token, h, d) = in.qi(token, in.qi.heads - 1 - h, d);
      }
    RC_ASSERT(select(problem, in).blocks == select(problem, turned).blocks);
  });
}

TEST(Dsa, KeepsItsTokensWhenKGrows) {
  expect_on_small_selectors(3, 1, [](const SmallSelector& small) {
    DsaProblem problem = dsa_problem(small);
    const DsaInputs in(small);
    const Lists few = lift(select(problem, in));
    ++problem.top_k;
    const Lists more = lift(select(problem, in));
    for (std::size_t row = 0; row < few.rows.size(); ++row)
      RC_ASSERT(
          std::includes(more.rows[row].begin(), more.rows[row].end(), few.rows[row].begin(), few.rows[row].end()));
  });
}

TEST(Dsa, SelectsAllVisibleTokensOnceWhereTheyAreFewerThanK) {
  EXPECT_EQ(last_row(2048, {1}, {1}, {-1, 3, 2}), (Tokens{0, 1, 2}));
  const DsaProblem problem{one_sequence(3), 1, 1, 8};
  const auto ones = tensor(3, 1, 1, {1, 1, 1});
  EXPECT_EQ(dsa_select(problem, ones, ones, tensor(3, 1, 1, {0, 0, 9})).blocks,
            (std::vector<std::int32_t>{0, -1, -1, 0, 1, -1, 0, 1, 2}))
      << "no token of the future, and three slots for three keys";
}

TEST(Dsa, TellsScoresApartThatCoarseBinsDoNot) {
  EXPECT_EQ(last_row(1, {1}, {1}, {1000, 1000.001L, 0}), (Tokens{1}));
  EXPECT_EQ(last_row(2, {1}, {1}, {1, 1 + 0x1p-40L, 1 - 0x1p-40L, 1 + 0x1p-41L}), (Tokens{1, 3}));
}

TEST(Dsa, CountsTokensFromTheFirstOfEverySequence) {
  DsaProblem problem{one_sequence(0, 4, 2), 1, 1, 2};
  problem.attention.q_offsets = {0, 1, 1, 4};  // three queries before two keys: the first of them at t = -1
  problem.attention.k_offsets = {0, 3, 3, 5};
  const auto ones = tensor(4, 1, 1, {1, 1, 1, 1});
  const Selection selection = dsa_select(problem, ones, ones, tensor(5, 1, 1, {0, 2, 1, 9, 9}));
  EXPECT_EQ(selection.heads, 1) << "which all heads share";
  EXPECT_EQ(selection.blocks, (std::vector<std::int32_t>{1, 2, -1, -1, 0, -1, 0, 1}));
}

TEST(Dsa, HasOneSlotWhereThereAreNoKeys) {
  DsaProblem problem{one_sequence(0), 1, 1, 2};
  problem.attention.q_offsets = {0, 2};
  const auto ones = tensor(2, 1, 1, {1, 1});
  EXPECT_EQ(dsa_select(problem, ones, ones, tensor(0, 1, 1, {})).blocks, (std::vector<std::int32_t>{-1, -1}));
}

TEST(Dsa, SelectsInPrefillWhatItSelectsWhileDecoding) {
  expect_on_small_selectors(2, 1, [](SmallSelector small) {
    small.sequences = {{12, 12}};
    const DsaProblem problem = dsa_problem(small);
    const DsaInputs in(small);
    const Selection prefill = select(problem, in);
    for (std::int64_t t = 0; t < 12; ++t) {
      DsaProblem step = problem;
      step.attention.q_offsets = {0, 1};
      step.attention.k_offsets = {0, t + 1};
      DsaInputs last = in;
      last.qi.values = {&in.qi(t, 0, 0), &in.qi(t, 0, 0) + in.qi.heads * in.qi.dim};
      last.w.values = {&in.w(t, 0, 0), &in.w(t, 0, 0) + in.w.dim};
      last.qi.tokens = last.w.tokens = 1;
      last.ki.values.resize(static_cast<std::size_t>((t + 1) * in.ki.dim));
      last.ki.tokens = t + 1;
      RC_ASSERT(selected_of(select(step, last), 0) == selected_of(prefill, t));
    }
  });
}

TEST(Dsa, RejectsProblemsNamingFieldAndValue) {
  const DsaProblem good{one_sequence(4), 1, 1, 1};
  EXPECT_EQ(rejection(good), "");
  DsaProblem bad = good;
  bad.index_heads = 0;
  EXPECT_EQ(rejection(bad), "index_heads=0: must be at least 1");
  bad = good;
  bad.index_features = -2;
  EXPECT_EQ(rejection(bad), "index_features=-2: must be at least 1");
  bad = good;
  bad.top_k = 0;
  EXPECT_EQ(rejection(bad), "top_k=0: must be at least 1");
  bad = good;
  bad.attention.causal = false;
  EXPECT_EQ(rejection(bad), "causal=0: DSA is causal");
  bad = good;
  bad.attention.dk = 0;
  EXPECT_EQ(rejection(bad), "dk=0: must be at least 1");
}

}  // namespace
}  // namespace attnspec::oracle
