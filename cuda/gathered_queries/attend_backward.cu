// The backward of attention to given blocks, with P = exp(scale q k^T - lse), delta = <do, o>, dS = P (do v^T - delta):
// dq = scale dS k, dk = scale dS^T q, dv = P^T do. Heads go through the stages by chunks, so that the parts of a few
// heads exist at a time.
#include <algorithm>
#include <cstdint>

#include "cuda/gathered_queries/backward_stages.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr int kCountThreads = 128;
constexpr std::int64_t kMaxRows = std::int64_t{1} << 30;  // of queries and heads, counted in 32 bits

// A thread owns the lists of a key/value head and block: counts[head, block] = their segments, 0 if they are not long.
__global__ void count_segments(Problem p, std::int64_t* counts) {
  const std::int64_t num_blocks = p.sizes.selection.num_blocks;
  const std::int64_t number = static_cast<std::int64_t>(block_index().x) * kCountThreads + thread_number();
  if (number >= num_blocks * p.sizes.kv_heads) return;
  const int kv_head = static_cast<int>(number / num_blocks);
  std::int64_t assignments = 0;
  for (int h = kv_head * p.group; h < (kv_head + 1) * p.group; ++h) {
    const std::int64_t* list = p.lists.offsets + p.list_head(h) * num_blocks + number % num_blocks;
    assignments += list[1] - list[0];
  }
  counts[number] =
      assignments > kSegmentAssignments ? (assignments + kSegmentAssignments - 1) / kSegmentAssignments : 0;
}

int tiles_of_block(const BackwardProblem& p) {
  return static_cast<int>((p.selection.block + keys_of_tile(p) - 1) / keys_of_tile(p));
}

/// The most segments of so many key/value heads: a long list has fewer than two for every kSegmentAssignments
/// assignments. No list has more assignments than a group has query rows.
std::int64_t max_segments(const BackwardProblem& p, int kv_heads) {
  const std::int64_t rows = p.selection.num_queries * (p.heads / p.kv_heads);
  return rows <= kSegmentAssignments ? 0 : 2 * rows * p.selection.slots * kv_heads / kSegmentAssignments;
}

/// As many key/value heads as keep the sums of their dq in a large cache, at least one.
int heads_at_once(const BackwardProblem& p, int kv_heads) {
  constexpr std::int64_t kCacheBytes = std::int64_t{40} << 20;
  const std::int64_t head_bytes = 4 * p.selection.num_queries * (p.heads / p.kv_heads) * p.dk;
  if (p.dq != QueryGradients::added) return kv_heads;
  return static_cast<int>(std::clamp<std::int64_t>(kCacheBytes / std::max<std::int64_t>(head_bytes, 1), 1, kv_heads));
}

/// Parts of dq of a head.
std::int64_t dq_rows(const BackwardProblem& p) {
  switch (p.dq) {
    case QueryGradients::merged: return p.selection.num_queries * p.selection.slots * tiles_of_block(p);
    case QueryGradients::added: return p.selection.num_queries;
    case QueryGradients::apart:
    case QueryGradients::from_scores: return 0;
  }
  return 0;
}

/// dS of so many key/value heads, without memory.
ScoreGradients scores_of(const BackwardProblem& p, int kv_heads) {
  if (p.dq != QueryGradients::from_scores) return {};
  return {nullptr,
          0,
          kv_heads,
          p.selection.num_queries * p.selection.slots,
          p.heads / p.kv_heads / 8,
          static_cast<int>((p.selection.block + 15) / 16 * 16)};
}

/// A backward without memory, of a chunk of so many heads.
Problem problem_of(const BackwardProblem& p, int kv_heads) {
  const std::int64_t slots = p.selection.slots;
  const int tiles = tiles_of_block(p);
  Problem problem{.sizes = p,
                  .slots = Divider(std::max<std::int64_t>(slots, 1)),
                  .group = p.heads / p.kv_heads,
                  .by_group = Divider(p.heads / p.kv_heads),
                  .tiles = tiles,
                  .tile_keys = keys_of_tile(p),
                  .dq_rows = dq_rows(p),
                  .chunk = {0, kv_heads},
                  .heads_at_once = heads_at_once(p, kv_heads)};
  problem.segments.max = max_segments(p, kv_heads);
  problem.scores = scores_of(p, kv_heads);
  return problem;
}

/// What a chunk keeps, in numbers.
std::int64_t numbers_of_dq_parts(const Problem& p) { return p.dq_rows * p.sizes.dk * p.chunk.kv_count * p.group; }
std::int64_t numbers_of_segment_sums(const Problem& p) {
  return p.segments.max * p.tiles * p.tile_keys * (p.sizes.dk + p.sizes.dv);
}

std::int64_t numbers_of_scores(const ScoreGradients& s) { return s.kv_count * s.assignments * s.octets * s.keys * 8; }

/// Key/value heads that go together: as many as keep what a chunk keeps within 13/8 of q, k, v and o (4/8 where dq is
/// added up or made apart, which needs less), or within a gigabyte; at least one.
int heads_of_chunk(const BackwardProblem& p) {
  const bool needs_less = p.dq == QueryGradients::added || p.dq == QueryGradients::apart;
  const std::int64_t tokens = std::max(p.selection.num_queries, p.selection.num_blocks * p.selection.block);
  const std::int64_t tensors = 2 * tokens * (p.heads + p.kv_heads) * (p.dk + p.dv);
  const std::int64_t bytes = std::max(tensors / 8 * (needs_less ? 4 : 13), std::int64_t{1} << 30);
  const Problem all = problem_of(p, p.kv_heads);
  const std::int64_t of_all =
      4 * (numbers_of_dq_parts(all) + numbers_of_segment_sums(all)) + 2 * numbers_of_scores(all.scores);
  const std::int64_t of_head = (of_all + p.kv_heads - 1) / p.kv_heads;
  const std::int64_t most = std::clamp<std::int64_t>(bytes / std::max<std::int64_t>(of_head, 1), 1, p.kv_heads);
  const std::int64_t chunks = (p.kv_heads + most - 1) / most;
  return static_cast<int>((p.kv_heads + chunks - 1) / chunks);
}

/// Whether dS of a key/value head can be kept: octets of heads, and no more than four times what q, k, v and o have of
/// a token. Other queries have no say, so that they do not change bits.
bool can_keep_scores(const BackwardProblem& p) {
  const std::int64_t group = p.heads / p.kv_heads, keys = (p.selection.block + 15) / 16 * 16;
  return group % 8 == 0 && p.selection.slots * keys * group <= 4 * (p.heads + p.kv_heads) * (p.dk + p.dv);
}

/// Numbers the segments of all heads.
void list_segments(const Problem& p, std::int64_t* offsets, void* stream) {
  const std::int64_t lists = p.sizes.selection.num_blocks * p.sizes.kv_heads;
  if (lists > 0)
    launch(count_segments, {{static_cast<int>((lists + kCountThreads - 1) / kCountThreads)}, {kCountThreads}}, stream,
           p, offsets);
  sum_before(lists, offsets, stream);
}

}  // namespace

bool can_attend_backward(const BackwardProblem& p) {
  const int most = is_by_caller(p.dq) ? kMaxApartFeatures : 256;
  return p.dk % 8 == 0 && p.dv % 8 == 0 && p.dk <= most && p.dv <= most &&
         (!is_by_caller(p.dq) || p.selection.heads == p.kv_heads) &&
         (p.dq != QueryGradients::from_scores || can_keep_scores(p)) && p.selection.num_queries * p.heads < kMaxRows &&
         can_list_queries(p.selection);
}

BackwardScratch take_backward_scratch(Workspace& workspace, const BackwardProblem& p) {
  const Problem chunk = problem_of(p, heads_of_chunk(p));
  BackwardScratch scratch{};
  scratch.lists = take_query_lists(workspace, p.selection);
  scratch.deltas = workspace.take<float>(p.selection.num_queries * p.heads);
  scratch.dq_parts = workspace.take<float>(numbers_of_dq_parts(chunk));
  if (chunk.segments.max > 0) {
    scratch.segment_offsets = workspace.take<std::int64_t>(p.kv_heads * p.selection.num_blocks + 1);
    scratch.segment_sums = workspace.take<float>(numbers_of_segment_sums(chunk));
  }
  scratch.scores = workspace.take<std::uint16_t>(numbers_of_scores(chunk.scores));
  return scratch;
}

template <class T>
void attend_backward(const BackwardProblem& p, const BackwardRows<T>& rows, const Gradients<T>& to,
                     const BackwardScratch& scratch, const MakeQueryGradients& make_dq, void* stream) {
  list_queries(p.selection, scratch.lists, stream);
  sum_deltas(p, rows, scratch.deltas, stream);
  Problem problem = problem_of(p, heads_of_chunk(p));
  problem.lists = scratch.lists, problem.deltas = scratch.deltas, problem.dq_parts = scratch.dq_parts;
  problem.segments.offsets = scratch.segment_offsets, problem.segments.sums = scratch.segment_sums;
  if (problem.segments.max > 0) list_segments(problem, scratch.segment_offsets, stream);
  const int heads = problem.chunk.kv_count;
  for (int begin = 0; begin < p.kv_heads; begin += heads) {
    problem.chunk = {begin, std::min(heads, p.kv_heads - begin)};
    problem.scores = scores_of(p, problem.chunk.kv_count);
    problem.scores.numbers = scratch.scores, problem.scores.kv_begin = begin;
    if (p.dq == QueryGradients::added) clear_on_device(scratch.dq_parts, 4 * numbers_of_dq_parts(problem), stream);
    if (!is_by_caller(p.dq))
      attend_key_tiles(problem, rows, to.dk, to.dv, stream);
    else if (has_warpgroups())
      attend_shared_lists_by_warpgroups(problem, rows, to.dk, to.dv, stream);
    else
      attend_shared_lists(problem, rows, to.dk, to.dv, stream);
    merge_segments(problem, to.dk, to.dv, stream);
    if (p.dq == QueryGradients::from_scores) make_dq(problem.scores);
    if (!is_by_caller(p.dq)) merge_query_gradients(problem, to.dq, stream);
  }
}

#define ATTNSPEC_INSTANTIATE(T)                                                                         \
  template void attend_backward<T>(const BackwardProblem&, const BackwardRows<T>&, const Gradients<T>&, \
                                   const BackwardScratch&, const MakeQueryGradients&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
