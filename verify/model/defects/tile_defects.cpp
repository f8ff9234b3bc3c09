// Mistakes in tiles and splits: which of their rows and keys are masked, computed and stored.
#include <algorithm>
#include <limits>

#include "verify/model/defects/planting.hpp"

namespace attnspec::verify::model {

namespace {

constexpr std::int64_t kQueryTile = 32, kKeyTile = 16;

/// The first query behind the tile of the one at position t, counted from the first one.
std::int64_t tile_end(const Work& work, std::int64_t t) {
  return (t - work.position(0)) / kQueryTile * kQueryTile + kQueryTile;
}

bool is_masked_in_the_rightmost_tile(const Work& work, std::int64_t t, std::int64_t j) {
  const std::int64_t last = work.position(std::min(tile_end(work, t), work.num_queries) - 1);
  return correct_stages().is_visible(work, t, j) || j / kKeyTile < last / kKeyTile;
}

bool sees_keys_of_the_chunk(const Work& work, std::int64_t t, std::int64_t j) {
  return correct_stages().is_visible(work, t, j) && (!work.problem.attention.causal || j < tile_end(work, t));
}

std::vector<BlockQueries> order_rows_within_the_window(const Work& work, const std::vector<Blocks>& selected) {
  std::vector<BlockQueries> lists = correct_stages().order(work, selected);
  if (!has_window(work.op)) return lists;
  for (BlockQueries& list : lists) std::erase_if(list.queries, [&](std::int64_t i) { return i >= work.nsa.window; });
  return lists;
}

/// The cell of a slot in which a query sees no key is not written, and holds zeros.
std::vector<std::vector<Partial>> restore_with_empty_cells(const Work& work, std::vector<Partial> partials) {
  std::vector<std::vector<Partial>> by_query = correct_stages().restore(work, std::move(partials));
  const Partial zeros{0, std::vector<float>(static_cast<std::size_t>(work.problem.attention.dv)), 0};
  for (std::vector<Partial>& cells : by_query)
    cells.resize(std::max(cells.size(), static_cast<std::size_t>(work.problem.top_k)), zeros);
  return by_query;
}

void store_lse_to_the_next_head(const Work& work, const Partial& merged, const TensorView& o, const TensorView& lse,
                                std::int64_t token, std::int64_t head) {
  const bool is_split = work.num_keys > kKeyTile;
  for (std::int64_t d = 0; d < o.dim; ++d) o.store(token, head, d, merged.o[static_cast<std::size_t>(d)]);
  lse.store(token, is_split ? (head + 1) % lse.heads : head, 0, merged.lse);
}

/// The queries of sequence s that see no key, which are its first.
std::int64_t num_early_exits(const reference::AttentionProblem& problem, std::size_t s) {
  const std::int64_t queries = problem.q_offsets[s + 1] - problem.q_offsets[s],
                     keys = problem.k_offsets[s + 1] - problem.k_offsets[s];
  return keys == 0 ? queries : problem.causal ? std::max<std::int64_t>(0, queries - keys) : 0;
}

/// Rows that see no key are written as if every sequence were as long as the longest, over the rows that are there.
void store_early_exits_at_padded_offsets(const Work& work, const Partial& merged, const TensorView& o,
                                         const TensorView& lse, std::int64_t token, std::int64_t head) {
  const auto& problem = work.problem.attention;
  constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();
  std::int64_t longest = 0;
  for (std::size_t s = 0; s + 1 < problem.q_offsets.size(); ++s)
    longest = std::max(longest, problem.q_offsets[s + 1] - problem.q_offsets[s]);
  std::int64_t padded = 0;
  bool is_overwritten = false;
  for (std::size_t s = 0; s + 1 < problem.q_offsets.size(); ++s, padded += longest)
    is_overwritten = is_overwritten || (token >= padded && token < padded + num_early_exits(problem, s));
  const Partial nothing{0, std::vector<float>(merged.o.size()), kNegativeInfinity};
  if (is_overwritten || merged.lse != kNegativeInfinity)
    correct_stages().store_output(work, is_overwritten ? nothing : merged, o, lse, token, head);
}

void attend_backward_masking_by_queries(const Stages& stages, const Work& work, const BlockQueries& list,
                                        const BackwardRows& rows, Gradients& sums) {
  const Gradients before = sums;
  correct_stages().attend_backward(stages, work, list, rows, sums);
  for (std::int64_t j = work.num_queries; j < work.num_keys; ++j) {
    std::copy_n(before.dk.row(j), before.dk.dim, sums.dk.row(j));
    std::copy_n(before.dv.row(j), before.dv.dim, sums.dv.row(j));
  }
}

/// A block's queries are padded to whole tiles, and the padding holds the tile before.
void attend_backward_with_dirty_padding(const Stages& stages, const Work& work, const BlockQueries& list,
                                        const BackwardRows& rows, Gradients& sums) {
  correct_stages().attend_backward(stages, work, list, rows, sums);
  constexpr std::size_t kTileQueries = 16;
  BlockQueries padding{list.block, {}};
  for (std::size_t n = list.queries.size(); n > kTileQueries && n % kTileQueries != 0; ++n)
    padding.queries.push_back(list.queries[n - kTileQueries]);
  const Rows dq = sums.dq;
  correct_stages().attend_backward(stages, work, padding, rows, sums);
  sums.dq = dq;
}

void store_keys_that_have_queries(const Stages& stages, const Work& work, const Rows& rows, const TensorView& to,
                                  std::int64_t begin, std::int64_t g) {
  if (work.num_queries > 0) correct_stages().store_keys(stages, work, rows, to, begin, g);
}

/// The newest token completes a row out of the last d tokens; those before them are zeros.
Rows load_block_without_overlap(const Stages& stages, const CompressWork& work, const TensorView& tokens,
                                std::int64_t i, std::int64_t g) {
  Rows x = correct_stages().load_block(stages, work, tokens, i, g);
  const std::int64_t overlap = work.nsa.compress_block - work.nsa.compress_stride;
  const bool is_decoded = i > 0 && i * work.nsa.compress_stride + work.nsa.compress_block == work.num_tokens;
  if (is_decoded) std::fill_n(x.values.begin(), overlap * x.dim, 0.0f);
  return x;
}

/// Calls of few queries split the keys, and the splits of the selected branch are merged without its gate.
Rows combine_splits_without_gate(const Rows& gates, const PerBranch<Rows>& o) {
  constexpr std::int64_t kMaxQueriesOfSplits = 32;
  Rows used = gates;
  for (std::int64_t i = 0; gates.count <= kMaxQueriesOfSplits && i < gates.count; ++i)
    used.row(i)[static_cast<std::size_t>(Branch::selected)] = 1;
  return correct_stages().combine(used, o);
}

}  // namespace

std::vector<Defect> tile_defects() {
  return {
      {"rightmost_tile_masked", "of the key tiles that a query tile sees, only the last is masked", "mask",
       "causal, several key tiles", "tiles of more queries than keys", Operator::dense,
       with(&Stages::is_visible, &is_masked_in_the_rightmost_tile)},
      {"causal_bound_of_the_chunk", "the loop over the keys ends where the query's tile does, counted from the chunk",
       "mask", "causal, fewer queries than keys", "a loop bound without the offset that the mask has", Operator::moba,
       with(&Stages::is_visible, &sees_keys_of_the_chunk)},
      {"rows_beyond_window_missing", "only as many queries as the window has keys are computed", "tiles",
       "more queries than w", "a grid as large as the window", Operator::window,
       with(&Stages::order, &order_rows_within_the_window)},
      {"empty_splits_unwritten", "a slot without a visible key leaves zeros for the merge, with weight 1", "splits",
       "an empty slot", "an early exit before the split's cell is written", Operator::selected,
       with(&Stages::restore, &restore_with_empty_cells)},
      {"lse_of_another_head", "where keys are split, lse is written to the next head", "splits",
       "several heads, more than 16 keys", "two layouts of the workspace of splits", Operator::dense,
       with(&Stages::store_output, &store_lse_to_the_next_head)},
      {"early_exit_at_padded_offset", "rows that see no key are written where padded sequences have them", "packing",
       "several sequences, queries that see no key", "an early exit that computes its own offset", Operator::dense,
       with(&Stages::store_output, &store_early_exits_at_padded_offsets)},
      {"key_gradients_by_queries", "keys behind the number of queries have no gradient", "backward",
       "fewer queries than keys", "the mask of a key tile made with the length of the queries", Operator::dense,
       with(&Stages::attend_backward, &attend_backward_masking_by_queries)},
      {"dirty_padding_of_queries", "dk and dv hold the padding of a block's last query tile", "backward",
       "more than 16 queries of a block, no multiple of 16", "padding that is masked in the forward alone",
       Operator::moba, with(&Stages::attend_backward, &attend_backward_with_dirty_padding)},
      {"no_queries_no_key_gradients", "dk and dv of a sequence without queries are not written", "backward",
       "a sequence with keys and without queries", "an early exit in the backward", Operator::window,
       with(&Stages::store_keys, &store_keys_that_have_queries)},
      {"overlap_lost_in_decode", "the row that the newest token completes has zeros before its last d tokens",
       "compression", "l above d, a sequence that ends with a compression block",
       "a cache of tokens that is cleared at every row", Operator::nsa_compress,
       with(&Stages::load_block, &load_block_without_overlap)},
      {"gate_dropped_when_split", "in calls of few queries the selected branch has no gate", "gates",
       "at most 32 queries", "a kernel for splits that was written before there were gates", Operator::nsa,
       with(&Stages::combine, &combine_splits_without_gate)},
  };
}

}  // namespace attnspec::verify::model
