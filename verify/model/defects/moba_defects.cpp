#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "verify/model/defects/planting.hpp"

namespace attnspec::verify::model {

namespace {

Blocks select_without_forcing(const Work& work, const std::vector<float>& scores, std::int64_t t) {
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

std::vector<BlockQueries> order_dense_at_one(const Work& work, const std::vector<Blocks>& selected) {
  if (work.problem.top_k != 1) return correct_stages().order(work, selected);
  std::vector<Blocks> all = selected;
  for (Blocks& blocks : all) {
    if (blocks.empty()) continue;
    blocks.resize(static_cast<std::size_t>(blocks.front()) + 1);
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

Blocks select_beside_the_own_block(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  MobaProblem one_more = work.problem;
  if (one_more.attention.causal) ++one_more.top_k;
  return correct_stages().select(on(work, one_more, work.nsa), scores, t);
}

std::int64_t kv_head_round_robin(const MobaProblem& problem, std::int64_t h) { return h % problem.attention.kv_heads; }

std::vector<BlockQueries> order_whole_blocks_only(const Work& work, const std::vector<Blocks>& selected) {
  std::vector<BlockQueries> lists = correct_stages().order(work, selected);
  if (lists.size() > 1 && work.num_keys % work.problem.block != 0) lists.back().queries.clear();
  return lists;
}

void attend_backward_first_head_only(const Stages& stages, const Work& work, const BlockQueries& list,
                                     const BackwardRows& rows, Gradients& sums) {
  const Rows dk = sums.dk;
  correct_stages().attend_backward(stages, work, list, rows, sums);
  if (rows.head_in_group > 0) sums.dk = dk;
}

double scale_slightly_off(const Work& work) { return static_cast<float>(correct_stages().scale(work)) * (1 + 0x1p-8f); }

bool misses_one_key(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) && (t == 0 || j != t / 2);
}

Rows pool_over_the_block_size(const Work& work, const Rows& k) {
  Rows means = correct_stages().pool(work, k);
  if (means.count == 0) return means;
  const std::int64_t last = means.count - 1;
  const auto part =
      static_cast<float>(work.block_end(last) - work.block_begin(last)) / static_cast<float>(work.problem.block);
  for (std::int64_t d = 0; d < means.dim; ++d) means.row(last)[d] *= part;
  return means;
}

void store_to_the_next_head(const Rows& rows, const TensorView& to, std::int64_t begin, std::int64_t head,
                            float factor) {
  if (to.heads > 0) correct_stages().store(rows, to, begin, (head + 1) % to.heads, factor);  // else it is absent
}

Rows load_as_contiguous(const TensorView& from, std::int64_t begin, std::int64_t end, std::int64_t head) {
  TensorView contiguous = from;
  contiguous.head_stride = from.dim;
  contiguous.token_stride = from.heads * from.dim;
  return correct_stages().load(contiguous, begin, end, head);
}

Blocks load_blocks_as_contiguous(const SelectionView& from, std::int64_t token, std::int64_t head) {
  return correct_stages().load_blocks(packed_selection(from.data, from.tokens, from.heads, from.slots), token, head);
}

std::vector<float> no_delta(const Stages&, const Work& work, const std::vector<BlockQueries>&, const BackwardRows&,
                            const Rows&) {
  return std::vector<float>(static_cast<std::size_t>(work.num_queries));
}

/// Masked keys of a block have a score that is finite, so that they matter where all other scores are lower.
std::vector<Partial> attend_masking_with_a_number(const Stages& stages, const Work& work, const BlockQueries& list,
                                                  const Rows& q, const Rows& k, const Rows& v) {
  constexpr float kMasked = -10000;
  std::vector<Partial> partials = correct_stages().attend(stages, work, list, q, k, v);
  for (Partial& partial : partials) {
    Partial masked{partial.query, std::vector<float>(partial.o.size()), 0};
    float count = 0;
    for (std::int64_t j = work.block_begin(list.block); j < work.block_end(list.block); ++j) {
      if (stages.is_visible(work, work.position(partial.query), j)) continue;
      ++count;
      for (std::int64_t d = 0; d < v.dim; ++d) masked.o[static_cast<std::size_t>(d)] += v.row(j)[d];
    }
    if (count == 0) continue;
    for (float& x : masked.o) x /= count;
    masked.lse = kMasked + std::log(count);
    const std::int64_t query = partial.query;
    partial = correct_stages().merge(work, {partial, masked});
    partial.query = query;
  }
  return partials;
}

/// What is kept in fp16 of an attention.
enum class Half { scores, normaliser, output };

/// Attention key by key.
template <Half kHalf>
std::vector<Partial> attend_in_half(const Stages& stages, const Work& work, const BlockQueries& list, const Rows& q,
                                    const Rows& k, const Rows& v) {
  const auto kept = [](Half what, float x) { return what == kHalf ? rounded(x, reference::Format::fp16) : x; };
  const reference::Fp32Products products = work.arithmetic.products;
  std::vector<Partial> partials;
  for (const std::int64_t i : list.queries) {
    std::vector<std::pair<std::int64_t, float>> scores;
    Partial partial{i, std::vector<float>(static_cast<std::size_t>(v.dim)), -std::numeric_limits<float>::infinity()};
    for (std::int64_t j = work.block_begin(list.block); j < work.block_end(list.block); ++j) {
      if (!stages.is_visible(work, work.position(i), j)) continue;
      const float product = kept(Half::scores, dot(products, q.row(i), k.row(j), q.dim));
      scores.emplace_back(j, score_factor(stages, work) * product);
      partial.lse = std::max(partial.lse, scores.back().second);
    }
    if (scores.empty()) continue;
    float normaliser = 0;
    for (const auto& [j, score] : scores) {
      const float weight = stages.exp(score - partial.lse), stored = as_weight(weight, work.arithmetic);
      normaliser = kept(Half::normaliser, normaliser + weight);
      for (std::size_t d = 0; d < partial.o.size(); ++d)
        partial.o[d] = kept(Half::output, partial.o[d] + stored * v.row(j)[d]);
    }
    for (float& x : partial.o) x /= normaliser;
    partial.lse += std::log(normaliser);
    partials.push_back(std::move(partial));
  }
  return partials;
}

Partial merge_halves(const Work& work, const std::vector<Partial>& partials) {
  std::vector<Partial> halves = partials;
  for (Partial& partial : halves)
    for (float& x : partial.o) x = rounded(x, reference::Format::fp16);
  return correct_stages().merge(work, halves);
}

Rows pool_in_half(const Work& work, const Rows& k) {
  Rows means(work.num_blocks(), k.dim);
  for (std::int64_t b = 0; b < means.count; ++b) {
    float* sum = means.row(b);
    for (std::int64_t j = work.block_begin(b); j < work.block_end(b); ++j)
      for (std::int64_t d = 0; d < k.dim; ++d) sum[d] = rounded(sum[d] + k.row(j)[d], reference::Format::fp16);
    for (std::int64_t d = 0; d < k.dim; ++d) sum[d] /= static_cast<float>(work.block_end(b) - work.block_begin(b));
  }
  return means;
}

}  // namespace

std::vector<Defect> moba_defects() {
  return {
      {"own_block_not_forced", "the query's own block competes by its score like any other", "selection",
       "top_k below the number of blocks", "readings of MoBA eq. 5 without its footnote 3", Operator::moba,
       with(&Stages::select, &select_without_forcing)},
      {"future_token_visible", "the causal mask lets each query see one token too many", "mask",
       "any query that is not last in its sequence", "j < t + 1 written as j <= t + 1", Operator::moba,
       with(&Stages::is_visible, &sees_the_next_token)},
      {"top_k_one_is_dense", "top_k = 1 falls back to dense causal attention instead of the own block", "selection",
       "top_k 1, a sequence longer than a block", "two public MoBA implementations", Operator::moba,
       with(&Stages::order, &order_dense_at_one)},
      {"merge_without_rescaling", "what was merged before is not rescaled when a larger maximum comes", "merge",
       "a later block of a row with the larger lse", "online softmax with the correction factor forgotten",
       Operator::moba, with(&Stages::merge, &merge_without_rescaling)},
      {"own_block_beside_top_k", "the query's own block is counted beside top_k, not within", "selection",
       "more past blocks than top_k - 1", "readings of MoBA eq. 5 without its footnote 3", Operator::moba,
       with(&Stages::select, &select_beside_the_own_block)},
      {"wrong_gqa_map", "query head h reads kv head h mod Hkv", "grouped heads", "groups and more than one kv head",
       "two layouts of grouped heads in public code", Operator::selected, with(&Stages::kv_head, &kv_head_round_robin)},
      {"lse_in_base_two", "lse is returned in base 2", "merge", "any", "kernels that compute with exp2", Operator::moba,
       with(&Stages::merge, &merge_with_base_two_lse)},
      {"last_short_block_dropped", "the last block is left out where it is short", "tiles",
       "length not a multiple of the block", "a loop over length / block", Operator::selected,
       with(&Stages::order, &order_whole_blocks_only)},
      {"dk_of_one_head", "dk holds the first head of each group only", "backward", "group above 1",
       "a missing reduction over the group", Operator::moba,
       with(&Stages::attend_backward, &attend_backward_first_head_only)},
      {"scale_off", "the softmax scale is off by 2^-8", "constants", "scores away from 0", "a scale rounded to bf16",
       Operator::moba, with(&Stages::scale, &scale_slightly_off)},
      {"one_key_dropped", "every row misses one key", "mask", "any", "an off-by-one at a tile's edge", Operator::dense,
       with(&Stages::is_visible, &misses_one_key)},
      {"mean_over_block_size", "a short block's mean is divided by the block size", "selection",
       "not causal, a short last block", "public pooling kernels", Operator::moba_select,
       with(&Stages::pool, &pool_over_the_block_size)},
      {"gradients_of_another_head", "gradients are written to the next head", "backward", "more than one head",
       "a head index computed twice", Operator::dense, with(&Stages::store, &store_to_the_next_head)},
      {"strided_read_as_contiguous", "tensors are read as if they had no gaps", "memory", "strided tensors",
       "public kernels on views", Operator::dense, with(&Stages::load, &load_as_contiguous)},
      {"selection_read_as_contiguous", "the selection is read as if it had no gaps", "memory",
       "a strided selection of several rows", "public kernels on views", Operator::selected,
       with(&Stages::load_blocks, &load_blocks_as_contiguous)},
      {"masked_with_a_number", "masked scores are -10000", "mask", "visible scores below -10000",
       "a mask value that fits into fp16, in place of -infinity", Operator::dense,
       with(&Stages::attend, &attend_masking_with_a_number)},
      {"scores_in_fp16", "q k is kept in fp16 before it is scaled", "overflow", "q k above 65504",
       "scores stored in the format of the inputs", Operator::dense,
       with(&Stages::attend, &attend_in_half<Half::scores>)},
      {"normaliser_in_fp16", "the sum of exp is kept in fp16", "overflow", "more than a few keys",
       "a reduction in the format of the inputs", Operator::dense,
       with(&Stages::attend, &attend_in_half<Half::normaliser>)},
      {"output_sum_in_fp16", "the sum of P v is kept in fp16", "overflow", "sums of values above 65504",
       "an accumulator in the format of the inputs", Operator::dense,
       with(&Stages::attend, &attend_in_half<Half::output>)},
      {"partials_in_fp16", "partial outputs are kept in fp16", "overflow", "values above 65504, bf16",
       "a workspace with one format for all inputs", Operator::moba, with(&Stages::merge, &merge_halves)},
      {"means_in_fp16", "keys are summed in fp16 before they are divided", "overflow", "sums of keys above 65504",
       "a mean in the format of the inputs", Operator::moba_select, with(&Stages::pool, &pool_in_half)},
      {"delta_missing", "dS = P dP: the row's delta is not subtracted", "backward", "any",
       "softmax backward taken for an elementwise product", Operator::moba, with(&Stages::delta, &no_delta)},
  };
}

}  // namespace attnspec::verify::model
