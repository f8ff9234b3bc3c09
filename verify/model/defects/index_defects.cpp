#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "verify/model/defects/planting.hpp"
#include "verify/model/index_stages.hpp"

namespace attnspec::verify::model {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The products, each replaced by change(product).
template <class Change>
IndexProducts changed(IndexProducts products, const Change& change) {
  for (std::vector<float>& of_head : products)
    for (float& product : of_head) product = change(product);
  return products;
}

// ---- MSA ----

IndexProducts one_list_for_all_heads(const Work& work, const IndexProducts& products) {
  IndexProducts worth = correct_stages().block_worth(work, products);
  for (const std::vector<float>& of_head : worth)
    for (std::size_t b = 0; b < of_head.size(); ++b) worth.front()[b] = std::max(worth.front()[b], of_head[b]);
  return IndexProducts(worth.size(), worth.front());
}

IndexProducts worth_of_relu(const Work& work, const IndexProducts& products) {
  return correct_stages().block_worth(work, changed(products, [](float x) { return std::max(0.0f, x); }));
}

IndexProducts sum_of_scores(const Work& work, const IndexProducts& products) {
  IndexProducts worth;
  for (const std::vector<float>& of_head : products) {
    worth.emplace_back(static_cast<std::size_t>(work.num_blocks()));
    for (std::size_t j = 0; j < of_head.size(); ++j)
      worth.back()[j / static_cast<std::size_t>(work.problem.block)] += of_head[j];
  }
  return worth;
}

IndexProducts worth_in_half(const Work& work, const IndexProducts& products) {
  return changed(correct_stages().block_worth(work, products),
                 [](float x) { return rounded(x, reference::Format::fp16); });
}

IndexProducts first_key_left_out(const Work& work, const IndexProducts& products) {
  IndexProducts without = products;
  for (std::vector<float>& of_head : without)
    for (std::size_t j = 0; j < of_head.size(); j += static_cast<std::size_t>(work.problem.block))
      if (work.problem.block > 1) of_head[j] = -kInfinity;
  return correct_stages().block_worth(work, without);
}

Blocks own_block_competes(const Work& work, const std::vector<float>& worth, std::int64_t t) {
  if (t < 0 || work.num_keys == 0) return {};
  return best({worth.begin(), worth.begin() + t / work.problem.block + 1}, work.problem.top_k);
}

/// The first block takes a place of top_k before the own one does.
Blocks first_block_before_own(const Work& work, const std::vector<float>& worth, std::int64_t t) {
  std::vector<float> forced = worth;
  if (!forced.empty()) forced.front() = kInfinity;
  const Blocks blocks = correct_stages().select(work, forced, t);
  return work.problem.top_k == 1 && !blocks.empty() ? Blocks{0} : blocks;
}

// ---- DSA and QSA ----

std::vector<float> without_relu(const Work&, const IndexProducts& products, const std::vector<float>& w) {
  std::vector<float> scores(products.front().size());
  for (std::size_t h = 0; h < products.size(); ++h)
    for (std::size_t j = 0; j < scores.size(); ++j) scores[j] += w[h] * products[h][j];
  return scores;
}

std::vector<float> relu_of_the_sum(const Work& work, const IndexProducts& products, const std::vector<float>& w) {
  std::vector<float> scores = without_relu(work, products, w);
  for (float& score : scores) score = std::max(0.0f, score);
  return scores;
}

std::vector<float> relu_behind_the_weight(const Work&, const IndexProducts& products, const std::vector<float>& w) {
  std::vector<float> scores(products.front().size());
  for (std::size_t h = 0; h < products.size(); ++h)
    for (std::size_t j = 0; j < scores.size(); ++j) scores[j] += std::max(0.0f, w[h] * products[h][j]);
  return scores;
}

std::vector<float> weights_forgotten(const Work& work, const IndexProducts& products, const std::vector<float>& w) {
  return correct_stages().add_index_heads(work, products, std::vector<float>(w.size(), 1));
}

std::vector<float> weights_in_bf16(const Work& work, const IndexProducts& products, const std::vector<float>& w) {
  std::vector<float> coarse = w;
  for (float& weight : coarse) weight = rounded(weight, reference::Format::bf16);
  return correct_stages().add_index_heads(work, products, coarse);
}

std::vector<float> last_head_left_out(const Work& work, const IndexProducts& products, const std::vector<float>& w) {
  std::vector<float> fewer = w;
  if (fewer.size() > 1) fewer.back() = 0;
  return correct_stages().add_index_heads(work, products, fewer);
}

std::vector<float> largest_head(const Work&, const IndexProducts& products, const std::vector<float>& w) {
  std::vector<float> scores(products.front().size());
  for (std::size_t h = 0; h < products.size(); ++h)
    for (std::size_t j = 0; j < scores.size(); ++j) scores[j] = std::max(scores[j], w[h] * products[h][j]);
  return scores;
}

Blocks own_token_forced(const Work& work, const std::vector<float>& scores) {
  std::vector<float> forced = scores;
  if (!forced.empty()) forced.back() = kInfinity;
  return correct_stages().select_tokens(work, forced);
}

/// Candidates are those of the best coarse bins; within a bin the first ones are taken.
Blocks tokens_by_bins(const Work& work, const std::vector<float>& scores) {
  constexpr float kBins = 256;
  if (scores.empty()) return {};
  const auto [least, most] = std::minmax_element(scores.begin(), scores.end());
  const float width = (*most - *least) / kBins;
  std::vector<float> bins;
  for (const float score : scores) bins.push_back(width > 0 ? std::floor((score - *least) / width) : 0);
  return correct_stages().select_tokens(work, bins);
}

/// Where fewer than top_k tokens are visible, those of the future fill the row.
Blocks filled_with_the_future(const Work& work, const std::vector<float>& scores) {
  Blocks tokens = correct_stages().select_tokens(work, scores);
  for (std::int64_t j = std::ssize(scores); j < work.num_keys && std::ssize(tokens) < work.problem.top_k; ++j)
    tokens.push_back(static_cast<std::int32_t>(j));
  return tokens;
}

Blocks filled_with_token_zero(const Work& work, const std::vector<float>& scores) {
  Blocks tokens = correct_stages().select_tokens(work, scores);
  while (!tokens.empty() && std::ssize(tokens) < std::min(work.problem.top_k, work.num_keys)) tokens.push_back(0);
  return tokens;
}

Blocks complete_own_block_forced(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  std::vector<float> forced = scores;
  if (t >= 0 && (t + 1) % work.problem.block == 0 && !forced.empty()) forced.back() = kInfinity;
  return correct_stages().select_complete(work, forced, t);
}

bool has_tail(const Work& work, std::int64_t t) { return t >= 0 && (t + 1) % work.problem.block != 0; }

Blocks tail_forgotten(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  Blocks blocks = correct_stages().select_complete(work, scores, t);
  if (has_tail(work, t)) blocks.pop_back();
  return blocks;
}

Blocks tail_within_the_budget(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  if (!has_tail(work, t)) return correct_stages().select_complete(work, scores, t);
  Blocks blocks = best(scores, work.problem.top_k - 1);
  blocks.push_back(static_cast<std::int32_t>(scores.size()));
  return blocks;
}

/// Block b is seen from the token behind its last one on.
std::int64_t blocks_strictly_past(const Work& work, std::int64_t t) {
  return std::max<std::int64_t>(0, t) / work.problem.block;
}

Blocks newest_block_always(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  std::vector<float> forced = scores;
  if (!forced.empty()) forced.back() = kInfinity;
  return correct_stages().select_complete(work, forced, t);
}

}  // namespace

std::vector<Defect> index_defects() {
  return {
      {"msa_one_list", "all index heads take the blocks that are worth most to any of them", "selection",
       "several index heads", "transformers until June 2026", Operator::msa_select,
       with(&Stages::block_worth, &one_list_for_all_heads)},
      {"msa_relu", "scores below 0 count as 0", "selection", "blocks whose best score is negative",
       "an eager version of M3's indexer", Operator::msa_select, with(&Stages::block_worth, &worth_of_relu)},
      {"msa_sum", "a block is worth the sum of its scores", "selection", "any", "an option of one port",
       Operator::msa_select, with(&Stages::block_worth, &sum_of_scores)},
      {"msa_worth_in_half", "what blocks are worth is kept in fp16", "precision", "near ties, or scores over 65504",
       "the authors' use_fp16_score", Operator::msa_select, with(&Stages::block_worth, &worth_in_half)},
      {"msa_first_key_left_out", "the first key of every block has no score", "selection", "blocks of several tokens",
       "a maximum that starts at the second key", Operator::msa_select,
       with(&Stages::block_worth, &first_key_left_out)},
      {"msa_own_competes", "the own block is taken by what it is worth alone", "selection", "an own block of low worth",
       "the own block forced by a value that others exceed", Operator::msa_select,
       with(&Stages::select, &own_block_competes)},
      {"msa_first_before_own", "the first block is forced, and with top_k 1 in the place of the own one", "selection",
       "top_k 1, or a first block of low worth", "vLLM: init 1e30, local 1e29", Operator::msa_select,
       with(&Stages::select, &first_block_before_own)},
      {"dsa_without_relu", "products below 0 are added too", "selection", "a negative product", "a linear indexer",
       Operator::dsa_select, with(&Stages::add_index_heads, &without_relu)},
      {"dsa_relu_of_sum", "the sum of the heads is rectified, and not each of them", "selection", "several index heads",
       "ReLU outside the sum", Operator::dsa_select, with(&Stages::add_index_heads, &relu_of_the_sum)},
      {"dsa_relu_of_weighted", "weight times product is rectified", "selection", "a negative weight",
       "the weight folded into the query", Operator::dsa_select,
       with(&Stages::add_index_heads, &relu_behind_the_weight)},
      {"dsa_weights_forgotten", "every index head has weight 1", "selection", "any", "QSA's indexer taken for DSA's",
       Operator::dsa_select, with(&Stages::add_index_heads, &weights_forgotten)},
      {"dsa_weights_in_bf16", "the weights of the heads are rounded to bf16", "precision", "near ties",
       "weights stored as queries are", Operator::dsa_select, with(&Stages::add_index_heads, &weights_in_bf16)},
      {"dsa_own_forced", "the query's own token is always taken", "selection", "an own token of low score",
       "a forced tail", Operator::dsa_select, with(&Stages::select_tokens, &own_token_forced)},
      {"dsa_coarse_bins", "tokens of one of 256 bins count as equal", "selection", "more tokens than top_k",
       "candidates from a histogram, vLLM #51782", Operator::dsa_select, with(&Stages::select_tokens, &tokens_by_bins)},
      {"dsa_future_fills", "tokens of the future fill a row with too few visible ones", "selection",
       "t + 1 below top_k", "a top-k over a masked row", Operator::dsa_select,
       with(&Stages::select_tokens, &filled_with_the_future)},
      {"dsa_zero_fills", "token 0 fills a row with too few visible ones", "selection", "t + 1 below top_k",
       "empty slots set to 0", Operator::dsa_select, with(&Stages::select_tokens, &filled_with_token_zero)},
      {"qsa_own_forced", "a complete own block is always taken", "selection", "t + 1 a multiple of the block",
       "\"the tail block\" read as the query's own", Operator::qsa_select,
       with(&Stages::select_complete, &complete_own_block_forced)},
      {"qsa_tail_forgotten", "an incomplete own block is not taken", "selection", "t + 1 no multiple of the block",
       "complete blocks alone", Operator::qsa_select, with(&Stages::select_complete, &tail_forgotten)},
      {"qsa_tail_in_budget", "the incomplete block takes one of the top_k places", "selection",
       "more complete blocks than top_k", "the budget counted in all blocks", Operator::qsa_select,
       with(&Stages::select_complete, &tail_within_the_budget)},
      {"qsa_strictly_past", "a block is seen from the token behind its last one on", "selection",
       "t + 1 a multiple of the block", "t // r complete blocks for (t + 1) // r", Operator::qsa_select,
       with(&Stages::num_index_keys, &blocks_strictly_past)},
      {"qsa_newest_forced", "the newest complete block is always taken", "selection", "more complete blocks than top_k",
       "DSA's forced tail, in blocks", Operator::qsa_select, with(&Stages::select_complete, &newest_block_always)},
      {"qsa_without_relu", "products below 0 are added too", "selection", "a negative product", "a linear indexer",
       Operator::qsa_select, with(&Stages::add_index_heads, &without_relu)},
      {"qsa_largest_head", "a block's score is that of its best index head", "selection", "several index heads",
       "the maximum over heads in place of the sum", Operator::qsa_select,
       with(&Stages::add_index_heads, &largest_head)},
      {"qsa_last_head_left_out", "the last index head is not added", "selection", "several index heads",
       "heads that are no multiple of a tile", Operator::qsa_select,
       with(&Stages::add_index_heads, &last_head_left_out)},
  };
}

}  // namespace attnspec::verify::model
