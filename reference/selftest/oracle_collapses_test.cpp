// What the operators reduce to, in the reference and in the second oracle, and cases worked out by hand.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "reference/selftest/moba_problems.hpp"

namespace attnspec::oracle {
namespace {

TEST(Oracle, MobaOfAsManyBlocksAsTheSequenceHasIsDense) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(1, [&](SmallMoba small) {
    small.top_k = kMaxKeys + 2;
    const ReferenceRun run = run_moba(small).attention;
    RC_ASSERT(difference(comparison, run, dense_keys(run.problem)) == "");
  });
}

TEST(Oracle, AttentionOverEveryVisibleBlockIsDense) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(1, [&](const SmallMoba& small) {
    const AttentionProblem problem = moba_problem(small).attention;
    Selection all(problem.q_offsets.back(), problem.kv_heads, kMaxKeys);
    for (std::int64_t token = 0; token < all.tokens; ++token) {
      const Place place = locate(problem, token);
      const std::int64_t num_visible = small.causal ? place.t + 1 : place.num_keys;
      for (std::int64_t g = 0; g < all.heads; ++g)
        for (std::int64_t b = 0; b * small.block < num_visible; ++b)
          all.row(token, g)[static_cast<std::size_t>(b)] = static_cast<std::int32_t>(b);
    }
    RC_ASSERT(difference(comparison, run_selected(small, all), dense_keys(problem)) == "");
  });
}

TEST(Oracle, MobaWithABlockLongerThanTheSequenceIsDense) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(1, [&](SmallMoba small) {
    small.block = kMaxKeys + 1;
    const ReferenceRun run = run_moba(small).attention;
    RC_ASSERT(difference(comparison, run, dense_keys(run.problem)) == "");
  });
}

/// Every sequence of a problem, with as many queries as keys, cut into sequences of one block each.
AttentionProblem cut_at_blocks(const SmallMoba& small) {
  SmallMoba cut = small;
  cut.sequences.clear();
  for (const SequenceLengths& lengths : small.sequences)
    for (std::int64_t begin = 0; begin < lengths.keys; begin += small.block) {
      const std::int64_t tokens = std::min(small.block, lengths.keys - begin);
      cut.sequences.push_back({tokens, tokens});
    }
  return moba_problem(cut).attention;
}

TEST(Oracle, MobaOfOneBlockIsBlockDiagonal) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(1, [&](SmallMoba small) {
    small.top_k = 1;
    small.gate = small.gate == Gate::sink ? Gate::window : small.gate;
    small.causal = true;
    for (SequenceLengths& lengths : small.sequences) lengths.queries = lengths.keys;
    RC_ASSERT(difference(comparison, run_moba(small).attention, dense_keys(cut_at_blocks(small))) == "");
  });
}

/// A causal MoBA problem with two heads over one and short blocks, for cases worked out by hand.
SmallMoba worked_problem(const std::vector<SequenceLengths>& sequences, std::int64_t top_k) {
  SmallMoba small;
  small.sequences = sequences;
  small.group = 2;
  small.dk = 3;
  small.dv = 2;
  small.block = 4;
  small.top_k = top_k;
  return small;
}

/// Whether a row of every tensor is 0.
template <class... Tensors>
bool is_zero(std::int64_t token, std::int64_t head, const Tensors&... tensors) {
  return (tensors.row(token, head).isZero(0) && ...);
}

TEST(Oracle, RowsBeforeTheFirstKeyAreEmpty) {
  const SmallMoba small = worked_problem({{9, 6}, {2, 0}}, 2);
  const auto [run, blocks] = run_moba(small);
  const Lists expected = moba_blocks(moba_problem(small), run.in.q, run.in.k);
  for (std::int64_t token = 0; token < 11; ++token)
    for (std::int64_t h = 0; h < 2; ++h) {
      const bool is_empty = token < 3 || token >= 9;  // three queries more than keys, and two without any
      EXPECT_EQ(*run.outputs.lse.at(token, h) == -std::numeric_limits<double>::infinity(), is_empty) << token;
      EXPECT_EQ(is_zero(token, h, run.outputs.o, run.gradients.dq), is_empty) << token;
      EXPECT_EQ(blocks.row(token, h).empty(), is_empty) << token;
      EXPECT_EQ(expected.row(token, h), blocks.row(token, h)) << token;
    }
  Comparison comparison(kDoubleTolerance);
  EXPECT_EQ(difference(comparison, run, selected_keys(run.problem, small.block, expected)), "");
}

TEST(Oracle, EmptySequencesContributeNothing) {
  const SmallMoba with = worked_problem({{0, 0}, {9, 9}, {0, 0}, {5, 5}, {0, 0}}, 2);
  const SmallMoba without = worked_problem({{9, 9}, {5, 5}}, 2);
  const auto [run, blocks] = run_moba(with);
  const MobaProblem problem = moba_problem(without);
  const Lists expected = moba_blocks(problem, run.in.q, run.in.k);
  EXPECT_EQ(blocks.rows, expected.rows);
  EXPECT_EQ(dense_keys(run.problem).rows, dense_keys(problem.attention).rows);
  Comparison comparison(kDoubleTolerance);
  EXPECT_EQ(difference(comparison, run, selected_keys(problem.attention, problem.block, expected)), "");
}

TEST(Oracle, AKeyThatNoQuerySeesHasNoGradient) {
  const SmallMoba small = worked_problem({{3, 10}}, 1);  // queries at 7, 8 and 9 see the keys 4 to 9
  const auto [run, blocks] = run_moba(small);
  for (std::int64_t key = 0; key < 10; ++key)
    EXPECT_EQ(is_zero(key, 0, run.gradients.dk, run.gradients.dv), key < 4) << key;
  Comparison comparison(kDoubleTolerance);
  EXPECT_EQ(difference(comparison, run, selected_keys(run.problem, small.block, blocks)), "");
}

/// I(t) of a gate on one sequence of eleven tokens in blocks of two, where block b has the gate score score_of[b].
std::vector<std::int64_t> selected_at(Gate gate, std::int64_t top_k, bool causal, std::int64_t t,
                                      const std::vector<Real>& score_of) {
  SmallMoba small = worked_problem({{11, 11}}, top_k);
  small.block = 2;
  small.gate = gate;
  small.causal = causal;
  return select_blocks(moba_problem(small), std::vector<Sum<Real>>(score_of.begin(), score_of.end()), t);
}

TEST(Oracle, SelectsByHand) {
  using Blocks = std::vector<std::int64_t>;
  const std::vector<Real> scores{1, 3, 2, 3, 9, 9};
  EXPECT_EQ(selected_at(Gate::top_k, 1, true, 9, scores), (Blocks{4}));
  EXPECT_EQ(selected_at(Gate::top_k, 2, true, 9, scores), (Blocks{1, 4})) << "ties go to the lower index";
  EXPECT_EQ(selected_at(Gate::top_k, 3, true, 8, scores), (Blocks{1, 3, 4})) << "the own block counts";
  EXPECT_EQ(selected_at(Gate::top_k, 9, true, 5, scores), (Blocks{0, 1, 2})) << "fewer blocks than top_k";
  EXPECT_EQ(selected_at(Gate::top_k, 3, true, -1, scores), Blocks{}) << "before the first key";
  EXPECT_EQ(selected_at(Gate::top_k, 2, false, 0, scores), (Blocks{4, 5})) << "nothing is forced";
  EXPECT_EQ(selected_at(Gate::window, 2, true, 9, scores), (Blocks{3, 4}));
  EXPECT_EQ(selected_at(Gate::window, 9, true, 3, scores), (Blocks{0, 1}));
  EXPECT_EQ(selected_at(Gate::sink, 3, true, 9, scores), (Blocks{0, 3, 4}));
  EXPECT_EQ(selected_at(Gate::sink, 2, true, 9, scores), (Blocks{0, 4}));
  EXPECT_EQ(selected_at(Gate::sink, 2, true, 1, scores), (Blocks{0})) << "the first block is the own one";
}

}  // namespace
}  // namespace attnspec::oracle
