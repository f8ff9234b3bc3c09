// The reference of dense attention, attention over given blocks and MoBA against the second oracle: scores, selections,
// outputs and gradients.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <bit>

#include "reference/selftest/moba_problems.hpp"

namespace attnspec::oracle {
namespace {

/// Whether a double computes the gate scores of a row without any error: halves, and means over powers of two.
bool has_exact_scores(const SmallMoba& small, const Place& place) {
  const std::int64_t last_tokens = small.causal ? 0 : place.num_keys % small.block;
  return small.is_dyadic && std::has_single_bit(static_cast<std::uint64_t>(small.block)) &&
         (last_tokens == 0 || std::has_single_bit(static_cast<std::uint64_t>(last_tokens)));
}

/// Whether scores in double order the candidates as exact ones do: no error, or a lead well above it.
bool is_decided(const SmallMoba& small, const MobaProblem& problem, const Place& place,
                const std::vector<Sum<Real>>& scores, const std::vector<std::int64_t>& selected) {
  const std::int64_t candidates = num_candidates(problem, place);
  Real terms = 0;
  for (std::int64_t b = 0; b < candidates; ++b) terms = std::max(terms, scores[static_cast<std::size_t>(b)].terms);
  return has_exact_scores(small, place) || lead(scores, candidates, selected) > 1e-12L * terms;
}

/// The reference's gate scores of one row, against mean keys that it pools anew.
reference::Vector reference_scores(const MobaProblem& problem, const reference::Tensor& q, const reference::Tensor& k,
                                   std::int64_t token, std::int64_t h) {
  const auto [t, first_key, num_keys] = locate(problem.attention, token);
  const reference::Matrix means =
      reference::pool_keys(k.rows(first_key, first_key + num_keys, key_head(problem.attention, h)), problem.block);
  return reference::gate_scores(q.row(token, h), reference::Rows(means.data(), means.rows(), means.cols()));
}

TEST(Oracle, ScoresBlocksAsTheReferenceDoes) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(5, [&](const SmallMoba& small) {
    const MobaProblem problem = moba_problem(small);
    const auto [q, k, v] = attention_inputs(small);
    const LoweredAttention lowered(small);
    for (std::int64_t token = 0; token < q.tokens; ++token)
      for (std::int64_t h = 0; h < q.heads; ++h) {
        const reference::Vector observed = reference_scores(problem, lowered.q, lowered.k, token, h);
        RC_ASSERT(comparison.difference("s", observed, gate_scores(problem, q, k, token, h)) == "");
      }
  });
}

TEST(Oracle, SelectsTheBlocksTheReferenceSelects) {
  std::int64_t num_rows = 0, num_undecided = 0, num_ties = 0;
  expect_on_small_moba(20, [&](const SmallMoba& small) {
    const MobaProblem problem = moba_problem(small);
    const auto [q, k, v] = attention_inputs(small);
    const Lists observed = lift(reference::moba_select(problem, lower(q), lower(k)));
    const Lists expected = moba_blocks(problem, q, k);
    for (std::int64_t token = 0; token < q.tokens; ++token)
      for (std::int64_t h = 0; h < q.heads; ++h) {
        const Place place = locate(problem.attention, token);
        const auto scores = gate_scores(problem, q, k, token, h);
        const auto& selected = expected.row(token, h);
        const bool row_is_decided = is_decided(small, problem, place, scores, selected);
        ++num_rows;
        num_undecided += !row_is_decided;
        num_ties += row_is_decided && lead(scores, num_candidates(problem, place), selected) == 0;
        RC_ASSERT(!row_is_decided || observed.row(token, h) == selected);
      }
  });
  std::cout << num_rows << " rows, " << num_undecided << " undecided, " << num_ties << " decided by the tie rule\n";
  EXPECT_LT(num_undecided, num_rows / 20);
  EXPECT_GT(num_ties, num_rows / 1000);
}

TEST(Oracle, AgreesWithTheReferenceOnRandomSmallProblems) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(20, [&](const SmallMoba& small) {
    const auto [run, blocks] = run_moba(small);
    RC_ASSERT(difference(comparison, run, selected_keys(run.problem, small.block, blocks)) == "");
  });
}

/// Every block of a row's sequence with probability 1/2, future ones too, the last block in the first slot; per query
/// head or, for odd seeds, shared by the heads of a group.
Selection random_selection(const SmallMoba& small) {
  const AttentionProblem problem = moba_problem(small).attention;
  const std::int64_t heads = small.seed % 2 == 0 ? problem.heads : problem.kv_heads, slots = kMaxKeys;
  const verify::Random random(small.seed, "selection");
  Selection selection(problem.q_offsets.back(), heads, slots);
  for (std::int64_t token = 0; token < selection.tokens; ++token)
    for (std::int64_t head = 0; head < heads; ++head)
      for (std::int64_t b = 0; b * small.block < locate(problem, token).num_keys; ++b)
        if (random.below(2, static_cast<std::uint64_t>((token * heads + head) * slots + b)) == 0)
          selection.row(token, head)[static_cast<std::size_t>(slots - 1 - b)] = static_cast<std::int32_t>(b);
  return selection;
}

TEST(Oracle, AgreesWithTheReferenceOnGivenSelections) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(5, [&](const SmallMoba& small) {
    const Selection selection = random_selection(small);
    const ReferenceRun run = run_selected(small, selection);
    RC_ASSERT(difference(comparison, run, selected_keys(run.problem, small.block, lift(selection))) == "");
  });
}

TEST(Oracle, AgreesWithTheReferenceOnDenseAttention) {
  Comparison comparison(kDoubleTolerance);
  expect_on_small_moba(5, [&](const SmallMoba& small) {
    const ReferenceRun run = run_dense(small);
    RC_ASSERT(difference(comparison, run, dense_keys(run.problem)) == "");
  });
}

}  // namespace
}  // namespace attnspec::oracle
