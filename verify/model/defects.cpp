#include "verify/model/defects.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace attnspec::verify::model {

namespace {

/// The model kernel's stages with one of them replaced.
template <class Stage>
Stages with(Stage Stages::*stage, Stage replacement) {
  Stages stages = correct_stages();
  stages.*stage = replacement;
  return stages;
}

Blocks choose_without_forcing(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  if (work.num_keys == 0 || t < 0) return {};
  Blocks blocks(static_cast<std::size_t>(t / work.problem.block + 1));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::stable_sort(blocks.begin(), blocks.end(), [&](std::int32_t a, std::int32_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  blocks.resize(std::min(blocks.size(), static_cast<std::size_t>(work.problem.top_k)));
  return blocks;
}

bool sees_the_next_token(const Work&, std::int64_t t, std::int64_t j) { return j <= t + 1; }

std::vector<BlockQueries> order_dense_at_one(const Work& work, const std::vector<Blocks>& chosen) {
  if (work.problem.top_k != 1) return correct_stages().order(work, chosen);
  std::vector<Blocks> all = chosen;
  for (Blocks& blocks : all) {
    if (blocks.empty()) continue;
    blocks.resize(static_cast<std::size_t>(blocks.front() + 1));
    std::iota(blocks.begin(), blocks.end(), 0);
  }
  return correct_stages().order(work, all);
}

Partial merge_without_rescaling(const Work& work, const std::vector<Partial>& partials) {
  Partial merged{0, std::vector<float>(static_cast<std::size_t>(work.problem.attention.dv)),
                 -std::numeric_limits<float>::infinity()};
  float normaliser = 0;
  for (const Partial& partial : partials) {
    merged.lse = std::max(merged.lse, partial.lse);
    const float weight = std::exp(partial.lse - merged.lse);
    normaliser += weight;
    for (std::size_t d = 0; d < merged.o.size(); ++d) merged.o[d] += weight * partial.o[d];
  }
  if (partials.empty()) return merged;
  for (float& x : merged.o) x /= normaliser;
  merged.lse += std::log(normaliser);
  return merged;
}

float no_delta(const Work&, const float*, const float*) { return 0; }

}  // namespace

const std::vector<Defect>& defects() {
  static const std::vector<Defect> all{
      {"own_block_not_forced", "the query's own block competes by its score like any other", "selection",
       "top_k below the number of blocks", "readings of MoBA eq. 5 without its footnote 3", Operator::moba,
       with(&Stages::choose, &choose_without_forcing)},
      {"future_token_visible", "the causal mask lets each query see one token too many", "mask",
       "any query that is not last in its sequence", "j < t + 1 written as j <= t + 1", Operator::moba,
       with(&Stages::is_visible, &sees_the_next_token)},
      {"top_k_one_is_dense", "top_k = 1 falls back to dense causal attention instead of the own block", "selection",
       "top_k 1, a sequence longer than a block", "two public MoBA implementations", Operator::moba,
       with(&Stages::order, &order_dense_at_one)},
      {"merge_without_rescaling", "what was merged before is not rescaled when a larger maximum comes", "merge",
       "a later block of a row with the larger lse", "online softmax with the correction factor forgotten",
       Operator::moba, with(&Stages::merge, &merge_without_rescaling)},
      {"delta_missing", "dS = P dP: the row's delta is not subtracted", "backward", "any",
       "softmax backward taken for an elementwise product", Operator::moba, with(&Stages::delta, &no_delta)},
  };
  return all;
}

}  // namespace attnspec::verify::model
