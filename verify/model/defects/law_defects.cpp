#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "verify/model/defects/planting.hpp"

namespace attnspec::verify::model {

namespace {

/// A product and its inverse, which leave an error in the last place.
float through_a_scale(float x) { return x * 0.1f * 10.0f; }

std::vector<BlockQueries> order_by_a_counter(const Work& work, const std::vector<Blocks>& selected) {
  static std::atomic<unsigned> calls{0};
  std::vector<BlockQueries> lists = correct_stages().order(work, selected);
  if (++calls % 13 == 0) std::reverse(lists.begin(), lists.end());
  return lists;
}

/// Weights exp(score - m) with m the largest score of all keys of the block, those that the query may not see included.
Partial attend_below_a_common_maximum(const Stages& stages, const Work& work, const BlockQueries& list, std::int64_t i,
                                      const Rows& q, const Rows& k, const Rows& v) {
  const std::int64_t begin = work.block_begin(list.block), end = work.block_end(list.block);
  std::vector<float> scores;
  for (std::int64_t j = begin; j < end; ++j)
    scores.push_back(score_factor(stages, work) * dot(work.arithmetic.products, q.row(i), k.row(j), q.dim));
  const float largest = *std::max_element(scores.begin(), scores.end());
  Partial partial{i, std::vector<float>(static_cast<std::size_t>(v.dim)), 0};
  float normaliser = 0;
  for (std::int64_t j = begin; j < end; ++j) {
    if (!stages.is_visible(work, work.position(i), j)) continue;
    const float weight = stages.exp(scores[static_cast<std::size_t>(j - begin)] - largest);
    normaliser += weight;
    add_products(work.arithmetic.products, as_weight(weight, work.arithmetic), v.row(j), v.dim, partial.o.data());
  }
  for (float& x : partial.o) x /= normaliser;
  partial.lse = largest + std::log(normaliser);
  return partial;
}

std::vector<Partial> attend_with_the_maximum_before_the_mask(const Stages& stages, const Work& work,
                                                             const BlockQueries& list, const Rows& q, const Rows& k,
                                                             const Rows& v) {
  std::vector<Partial> partials = correct_stages().attend(stages, work, list, q, k, v);
  for (Partial& partial : partials)  // of the queries that see a key
    partial = attend_below_a_common_maximum(stages, work, list, partial.query, q, k, v);
  return partials;
}

std::vector<Partial> attend_to_centred_values(const Stages& stages, const Work& work, const BlockQueries& list,
                                              const Rows& q, const Rows& k, const Rows& v) {
  Rows mean(1, v.dim), centred = v;
  for (std::int64_t j = 0; j < v.count; ++j)
    for (std::int64_t d = 0; d < v.dim; ++d) mean.row(0)[d] += v.row(j)[d] / static_cast<float>(v.count);
  for (std::int64_t j = 0; j < v.count; ++j)
    for (std::int64_t d = 0; d < v.dim; ++d) centred.row(j)[d] -= mean.row(0)[d];
  std::vector<Partial> partials = correct_stages().attend(stages, work, list, q, k, centred);
  for (Partial& partial : partials)
    for (std::size_t d = 0; d < partial.o.size(); ++d) partial.o[d] += mean.values[d];
  return partials;
}

Rows load_the_second_of_a_pair_through_a_scale(const TensorView& from, std::int64_t begin, std::int64_t end,
                                               std::int64_t head) {
  Rows rows = correct_stages().load(from, begin, end, head);
  if (head % 2 == 1)
    for (float& x : rows.values) x = through_a_scale(x);
  return rows;
}

Rows load_contiguous_through_a_scale(const TensorView& from, std::int64_t begin, std::int64_t end, std::int64_t head) {
  Rows rows = correct_stages().load(from, begin, end, head);
  if (from.head_stride == from.dim && from.token_stride == from.heads * from.dim)
    for (float& x : rows.values) x = through_a_scale(x);
  return rows;
}

double scale_of_several_sequences(const Work& work) {
  const auto scale = static_cast<float>(correct_stages().scale(work));
  return work.problem.attention.k_offsets.size() > 2 ? std::nextafter(scale, 2 * scale) : scale;
}

bool sees_from_the_first_key(const Work& work, std::int64_t t, std::int64_t j) {
  return !work.problem.attention.causal || j <= t - (work.num_tokens - work.num_queries);
}

std::vector<Partial> attend_in_fixed_point(const Stages& stages, const Work& work, const BlockQueries& list,
                                           const Rows& q, const Rows& k, const Rows& v) {
  std::vector<Partial> partials = correct_stages().attend(stages, work, list, q, k, v);
  for (Partial& partial : partials)
    for (float& x : partial.o) x = std::nearbyint(x * 0x1p16f) * 0x1p-16f;
  return partials;
}

Rows load_rounding_down(const TensorView& from, std::int64_t begin, std::int64_t end, std::int64_t head) {
  Rows rows = correct_stages().load(from, begin, end, head);
  for (float& x : rows.values) x = std::floor(x * 0x1p12f) * 0x1p-12f;
  return rows;
}

Rows load_in_fixed_point(const TensorView& from, std::int64_t begin, std::int64_t end, std::int64_t head) {
  Rows rows = correct_stages().load(from, begin, end, head);
  for (float& x : rows.values) x = std::nearbyint(x * 0x1p10f) * 0x1p-10f;
  return rows;
}

std::vector<BlockQueries> order_while_blocks_ascend(const Work& work, const std::vector<Blocks>& selected) {
  std::vector<Blocks> ascending = selected;
  for (Blocks& blocks : ascending) blocks.erase(std::is_sorted_until(blocks.begin(), blocks.end()), blocks.end());
  return correct_stages().order(work, ascending);
}

/// Keys of a sort: the last two bits of a score make room for those of the block's number in the batch, which counts
/// down to the last one.
Blocks select_by_keys_with_a_number(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  std::vector<float> keys = scores;
  for (std::size_t b = 0; b < keys.size(); ++b) {
    const auto number =
        static_cast<std::uint32_t>(work.problem.attention.q_offsets.back()) - static_cast<std::uint32_t>(b);
    if (std::isfinite(keys[b]))
      keys[b] = std::bit_cast<float>((std::bit_cast<std::uint32_t>(keys[b]) & ~3u) | (number & 3u));
  }
  return correct_stages().select(work, keys, t);
}

Blocks select_with_two_local_blocks(const Work& work, const std::vector<float>& importance) {
  NsaProblem nsa = work.nsa;
  nsa.local_blocks = std::min<std::int64_t>(2, nsa.top_n);
  return correct_stages().select_important(on(work, work.problem, nsa), importance);
}

}  // namespace

std::vector<Defect> law_defects() {
  return {
      {"order_of_a_counter", "every thirteenth time the blocks are merged from the last to the first", "laws",
       "three blocks of a query", "partial results merged in the order of an atomic counter", Operator::moba,
       with(&Stages::order, &order_by_a_counter)},
      {"maximum_before_the_mask", "weights are relative to the largest score of all keys, hidden ones included", "laws",
       "causal, a hidden key with the largest score", "a row maximum taken before the mask", Operator::dense,
       with(&Stages::attend, &attend_with_the_maximum_before_the_mask)},
      {"values_centred", "the mean of all values of the sequence is taken out of them and added to the output", "laws",
       "a block that a query does not select", "kernels that centre values before they quantise them",
       Operator::selected, with(&Stages::attend, &attend_to_centred_values)},
      {"second_of_a_pair", "heads are computed in pairs, and the second goes through a scale and back", "laws",
       "two heads", "two heads in one register tile", Operator::moba,
       with(&Stages::load, &load_the_second_of_a_pair_through_a_scale)},
      {"contiguous_through_a_scale", "contiguous tensors take another path, through a scale and back", "laws",
       "contiguous tensors", "a copy by the tensor memory unit where strides allow it", Operator::window,
       with(&Stages::load, &load_contiguous_through_a_scale)},
      {"scale_of_several", "the softmax scale is one unit in the last place off where there are several sequences",
       "laws", "several sequences", "another launch for packed sequences, with the scale folded into exp2",
       Operator::moba, with(&Stages::scale, &scale_of_several_sequences)},
      {"queries_at_the_first_key", "the first query stands at the first key, however few queries there are", "laws",
       "fewer queries than keys", "a causal mask aligned top-left", Operator::dense,
       with(&Stages::is_visible, &sees_from_the_first_key)},
      {"fixed_point_sum", "outputs are summed in fixed point, in units of 2^-16", "laws", "any",
       "sums that do not depend on their order", Operator::selected, with(&Stages::attend, &attend_in_fixed_point)},
      {"inputs_rounded_down", "inputs are rounded down, to multiples of 2^-12", "laws", "negative numbers",
       "a conversion that cuts the two's complement", Operator::moba, with(&Stages::load, &load_rounding_down)},
      {"inputs_in_fixed_point", "inputs are rounded to multiples of 2^-10", "laws", "inputs of several sizes",
       "quantised keys with one scale for all", Operator::dense, with(&Stages::load, &load_in_fixed_point)},
      {"blocks_while_ascending", "a row's blocks are read until one is lower than the one before it", "laws",
       "slots in another order", "a loop over ranges that takes a lower index for the end of the list",
       Operator::selected, with(&Stages::order, &order_while_blocks_ascend)},
      {"ties_decided_by_neighbours", "which of tied blocks is taken depends on how many queries the batch has", "laws",
       "blocks that tie", "an index over the whole batch in the last bits of a sort key", Operator::moba_select,
       with(&Stages::select, &select_by_keys_with_a_number)},
      {"two_local_blocks",
       "the query's own block and the one before it are forced, whatever is asked for",
       "laws",
       "one local block",
       "n_local = 2 of the paper as a constant",
       Operator::nsa,
       with(&Stages::select_important, &select_with_two_local_blocks),
       {Operator::moba}},
  };
}

}  // namespace attnspec::verify::model
