// Mistakes in lists: of the blocks of a query, of the keys of a window, and in what a slot stands for.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "verify/model/defects/planting.hpp"

namespace attnspec::verify::model {

namespace {

std::vector<BlockQueries> order_with_one_list_per_tile(const Work& work, const std::vector<Blocks>& selected) {
  constexpr std::size_t kQueries = 16;
  std::vector<Blocks> shared;
  for (std::size_t i = 0; i < selected.size(); ++i) shared.push_back(selected[i / kQueries * kQueries]);
  return correct_stages().order(work, shared);
}

Blocks load_blocks_head_by_head(const SelectionView& from, std::int64_t token, std::int64_t head) {
  const std::int64_t row = head * from.tokens + token;
  return correct_stages().load_blocks(from, row / from.heads, row % from.heads);
}

/// Blocks are visited in their order, and beside them the list, whose entry waits for its block.
std::vector<BlockQueries> order_of_ascending_lists(const Work& work, const std::vector<Blocks>& selected) {
  std::vector<Blocks> met;
  for (const Blocks& blocks : selected) {
    met.emplace_back();
    auto next = blocks.begin();
    for (std::int32_t b = 0; b < work.num_blocks(); ++b) {
      next = std::find_if(next, blocks.end(), [=](std::int32_t entry) { return entry >= b; });
      if (next != blocks.end() && *next == b) met.back().push_back(b);
    }
  }
  return correct_stages().order(work, met);
}

std::vector<BlockQueries> order_all_blocks_without_a_mask(const Work& work, const std::vector<Blocks>& selected) {
  if (work.problem.attention.causal && work.num_queries != 1) return correct_stages().order(work, selected);
  Blocks all(static_cast<std::size_t>(work.num_blocks()));
  std::iota(all.begin(), all.end(), 0);
  return correct_stages().order(work, std::vector<Blocks>(selected.size(), all));
}

Blocks select_whole_blocks(const Work& work, const std::vector<float>& scores, std::int64_t t) {
  Blocks blocks = correct_stages().select(work, scores, t);
  std::erase_if(blocks, [&](std::int32_t b) { return b >= work.num_keys / work.problem.block; });
  return blocks;
}

/// Attention of query i to copies of one key.
Partial attend_to_copies(const Stages& stages, const Work& work, std::int64_t i, const float* q, const float* k,
                         const float* v, std::int64_t copies) {
  const auto& sizes = work.problem.attention;
  const float score = score_factor(stages, work) * dot(work.arithmetic.products, q, k, sizes.dk);
  return {i, {v, v + sizes.dv}, score + std::log(static_cast<float>(copies))};
}

std::vector<Partial> attend_to_a_padded_window(const Stages& stages, const Work& work, const BlockQueries& list,
                                               const Rows& q, const Rows& k, const Rows& v) {
  std::vector<Partial> partials = correct_stages().attend(stages, work, list, q, k, v);
  if (!has_window(work.op)) return partials;
  for (Partial& partial : partials) {
    const std::int64_t i = partial.query, missing = work.nsa.window - work.position(i) - 1;
    if (missing <= 0) continue;
    const Partial padding = attend_to_copies(stages, work, i, q.row(i), k.row(0), v.row(0), missing);
    partial = correct_stages().merge(work, {partial, padding});
    partial.query = i;
  }
  return partials;
}

/// Behind its last row, and not counted, a sequence has the row before its first one.
Rows load_with_the_row_before(const TensorView& from, std::int64_t begin, std::int64_t end, std::int64_t head) {
  Rows rows = correct_stages().load(from, begin, end, head);
  if (begin == 0) return rows;
  const Rows before = correct_stages().load(from, begin - 1, begin, head);
  rows.values.insert(rows.values.end(), before.values.begin(), before.values.end());
  return rows;
}

/// In the forward, queries with an empty slot have block -1 too.
std::vector<BlockQueries> order_with_block_minus_one(const Work& work, const std::vector<Blocks>& selected) {
  std::vector<BlockQueries> lists = correct_stages().order(work, selected);
  if (work.is_backward) return lists;
  lists.push_back({-1, {}});
  for (std::size_t i = 0; i < selected.size(); ++i)
    if (std::find(selected[i].begin(), selected[i].end(), -1) != selected[i].end())
      lists.back().queries.push_back(static_cast<std::int64_t>(i));
  return lists;
}

std::vector<Partial> attend_to_the_row_before(const Stages& stages, const Work& work, const BlockQueries& list,
                                              const Rows& q, const Rows& k, const Rows& v) {
  if (list.block >= 0) return correct_stages().attend(stages, work, list, q, k, v);
  std::vector<Partial> partials;
  if (std::ssize(k.values) == k.count * k.dim) return partials;  // the first sequence
  for (const std::int64_t i : list.queries)
    partials.push_back(attend_to_copies(stages, work, i, q.row(i), k.row(k.count), v.row(v.count), 1));
  return partials;
}

/// The stages of attention in which block -1 is the row before a sequence.
Stages with_block_minus_one() {
  Stages stages = with(&Stages::load, &load_with_the_row_before);
  stages.order = &order_with_block_minus_one;
  stages.attend = &attend_to_the_row_before;
  return stages;
}

}  // namespace

std::vector<Defect> list_defects() {
  return {
      {"list_shared_by_a_tile", "all 16 queries of a tile attend to the blocks of its first one", "lists",
       "neighbours with different blocks", "a list loaded once for a tile of queries", Operator::selected,
       with(&Stages::order, &order_with_one_list_per_tile)},
      {"selection_read_head_by_head", "a selection that lies token by token is read as if it lay head by head",
       "memory", "several heads in the selection", "kernels that want [H, T, K] where [T, H, K] is given",
       Operator::selected, with(&Stages::load_blocks, &load_blocks_head_by_head)},
      {"mask_of_ascending_lists", "blocks that stand in the list after a later one are masked", "lists",
       "slots in another order", "a token mask made by one pass over the list", Operator::selected,
       with(&Stages::order, &order_of_ascending_lists)},
      {"lists_ignored_without_mask", "where nothing is masked by causality the lists are ignored too", "lists",
       "not causal, or one query", "a mask of which the lists were a part, switched off where it is trivial",
       Operator::selected, with(&Stages::order, &order_all_blocks_without_a_mask)},
      {"empty_slot_is_row_before", "an empty slot is the last row of the sequence before", "lists",
       "an empty slot, not in the first sequence", "-1 plus the sequence's offset taken for an index",
       Operator::selected, with_block_minus_one()},
      {"window_padded_with_key_zero", "a window that begins before the first key has key 0 in place of what is missing",
       "window", "a window of more than one key", "a list of indices filled up with 0", Operator::window,
       with(&Stages::attend, &attend_to_a_padded_window)},
      {"block_count_rounded_down", "a short last block is never selected", "selection", "a short last block",
       "a number of blocks T // B", Operator::moba_select, with(&Stages::select, &select_whole_blocks)},
  };
}

}  // namespace attnspec::verify::model
