// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cuda/kernel_list.hpp"
#include "cuda/nsa/whole.hpp"
#include "cuda/query_tiles/calls.hpp"
#include "cuda/split_keys/stages.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace split_keys {

using query_tiles::countable;
using query_tiles::kMaxCountable;

namespace {

/// What a workspace holds of partials and scores, unless those of one token are more: longer calls take their query
/// tokens in chunks.
constexpr std::int64_t kChunkBytes = std::int64_t{256} << 20;

/// Slots of a selection.
constexpr std::int64_t kMaxSlots = 1024;

/// Where in the workspace of a call things are, for `tokens` query tokens at once.
struct Layout {
  std::vector<std::int64_t> blocks_of_moba;  // offsets (run_offsets)
  std::int64_t* offsets;                     // of queries, keys, tokens, and these: [3 or 4, num_sequences + 1]
  std::int64_t tokens;
  Partials partials;
  Scores scores;
  float* importances;
  int blocks;  // of any sequence, and their importances for a token and kv head
  std::int64_t bytes;
};

/// The most that a sequence with queries has of something with these offsets.
std::int64_t longest(const AttnspecCall& call, const std::int64_t* offsets) {
  std::int64_t most = 0;
  for (std::int64_t s = 0; s < call.num_sequences; ++s)
    if (call.q_offsets[s + 1] > call.q_offsets[s]) most = std::max(most, offsets[s + 1] - offsets[s]);
  return most;
}

/// Whether a query attends to blocks.
template <class Forward>
constexpr bool kHasBlocks = std::is_same_v<Forward, AttnspecSelected> || std::is_same_v<Forward, AttnspecMoba>;

/// How many keys a list has at most, beside those that its sequence has.
template <class Forward>
std::int64_t max_keys(const Forward& f) {
  if constexpr (kHasBlocks<Forward>) return f.selection.shape[2] * std::int64_t{countable(f.block)};
  if constexpr (std::is_same_v<Forward, AttnspecWindow>) return f.window_size;
  return kMaxCountable;
}

template <class Forward>
Layout lay_out(const Forward& f) {
  Workspace workspace(f.call.workspace);
  Layout l{};
  if constexpr (std::is_same_v<Forward, AttnspecMoba>)
    l.blocks_of_moba = run_offsets(f.call.k_offsets, f.call.num_sequences, f.block);
  l.offsets = workspace.take<std::int64_t>(3 * (f.call.num_sequences + 1) + std::ssize(l.blocks_of_moba));
  const std::int64_t heads = f.q.shape[1], dv = f.v.shape[2], keys = longest(f.call, query_tiles::key_offsets(f));
  l.partials.splits = max_splits(std::min(keys, max_keys(f)));
  const std::int64_t partials = heads * l.partials.splits;
  std::int64_t numbers = partials * (dv + 2), scores = 0, importances = 0;  // of a token
  if constexpr (std::is_same_v<Forward, AttnspecNsaCompressed>) {
    l.scores.stride = countable((keys + 7) / 8 * 8);
    l.blocks = countable((longest(f.call, f.call.k_offsets) + f.sizes.block - 1) / f.sizes.block);
    scores = heads * l.scores.stride, importances = f.k.shape[1] * l.blocks;
    numbers += scores + importances;
  }
  if constexpr (std::is_same_v<Forward, AttnspecMoba>) {
    l.scores.stride = countable((keys + f.block - 1) / f.block);
    scores = heads * l.scores.stride;
    numbers += scores;
  }
  const std::int64_t fitting = kChunkBytes / std::max<std::int64_t>(1, numbers * std::int64_t{sizeof(float)});
  l.tokens = std::min(f.q.shape[0], std::max<std::int64_t>(1, fitting));
  l.partials.o = workspace.take<float>(l.tokens * partials * dv);
  l.partials.totals = workspace.take<SplitTotals>(l.tokens * partials);
  l.scores.data = scores > 0 ? workspace.take<float>(l.tokens * scores) : nullptr;
  l.importances = workspace.take<float>(l.tokens * importances);
  l.bytes = workspace.bytes();
  return l;
}

/// Fills the offsets of a call, all in one copy, and says where they are.
template <class Forward>
Problem problem_of(const Forward& f, const Layout& l) {
  const std::int64_t count = f.call.num_sequences + 1;
  const std::int64_t* const given[] = {f.call.q_offsets, query_tiles::key_offsets(f), f.call.k_offsets};
  std::vector<std::int64_t> offsets;
  for (const std::int64_t* from : given) offsets.insert(offsets.end(), from, from + count);
  offsets.insert(offsets.end(), l.blocks_of_moba.begin(), l.blocks_of_moba.end());
  copy_to_device(l.offsets, offsets.data(), offsets.size() * sizeof(std::int64_t), f.call.stream);
  return query_tiles::problem_of(f, {l.offsets, l.offsets + count, f.call.num_sequences, query_tiles::is_causal(f)},
                                 query_tiles::reach_of(f, l.offsets + 2 * count));
}

template <class Forward>
Lists lists_of(const Forward& f) {
  if constexpr (kHasBlocks<Forward>) {
    const int block = countable(f.block);
    return {static_cast<int>(f.selection.shape[1]), rows_of<const std::int32_t>(f.selection),
            static_cast<int>(f.selection.shape[2]), block, Divider(block)};
  } else {
    return {static_cast<int>(f.k.shape[1]), {}, 0, countable(kMaxCountable), Divider(kMaxCountable)};
  }
}

/// How the blocks of MoBA are selected, whose offsets are on the device.
BlockSelectionRule rule_of(const AttnspecMoba& f, const Layout& l) {
  const int block = countable(f.block);
  return {block,
          Divider(block),
          l.offsets + 3 * (f.call.num_sequences + 1),
          static_cast<int>(l.blocks_of_moba.back()),
          countable(f.top_k),
          static_cast<int>(f.selection.shape[2]),
          f.gate};
}

template <class Forward>
constexpr bool kHasSelection = requires(const Forward& f) {
  f.selection;
};

/// Whether a call is for splits; what is not goes to the baseline.
template <class Forward>
bool is_for_splits(const Forward& f) {
  if constexpr (kHasSelection<Forward>)
    if (f.selection.shape[2] > kMaxSlots) return false;
  return query_tiles::is_for_tiles(f);
}

/// function: of AttnspecKernel, that does such calls.
template <auto function, class Forward>
const char* forward(const Forward* f) {
  if (!is_for_splits(*f)) return (baseline::kernel().*function)(f);
  return reason_of([&] {
    query_tiles::require_countable(*f);
    Buffers buffers;
    add_tensors(*f, buffers);
    if constexpr (kHasSelection<Forward>) buffers.add("selection", f->selection);
    const Layout l = lay_out(*f);
    const Problem p = problem_of(*f, l);
    const Lists lists = lists_of(*f);
    void* stream = f->call.stream;
    with_16_bits(f->q, [&](auto zero) {
      using T = decltype(zero);
      for (std::int64_t first = 0; first < f->q.shape[0]; first += l.tokens) {
        const Tokens tokens{first, static_cast<int>(std::min(l.tokens, f->q.shape[0] - first))};
        const auto q = rows_of<const T>(f->q), k = rows_of<const T>(f->k), v = rows_of<const T>(f->v);
        Scores kept = l.scores;
        if constexpr (std::is_same_v<Forward, AttnspecMoba>) {
          select_blocks<T>(p, rule_of(*f, l), tokens, q, k, l.scores, rows_of<std::int32_t>(f->selection), stream);
          kept = {};
        }
        attend_splits<T>(p, lists, tokens, q, k, v, l.partials, kept, stream);
        merge_splits<T>(p, tokens, l.partials, rows_of<T>(f->o), rows_of<float>(f->lse), stream);
        if constexpr (std::is_same_v<Forward, AttnspecNsaCompressed>)
          select_important_blocks(p, query_tiles::rule_of(f->sizes, f->selection.shape[2]), tokens, l.scores,
                                  rows_of<const float>(f->lse), l.importances, l.blocks,
                                  rows_of<std::int32_t>(f->selection), stream);
      }
    });
  });
}

/// For params that begin with an AttnspecCall, as yet without a workspace.
template <class Forward>
std::int64_t bytes_of(std::uint32_t op, const void* params) {
  Forward f = *static_cast<const Forward*>(params);
  f.call.workspace = nullptr;
  return is_for_splits(f) ? lay_out(f).bytes : baseline::kernel().workspace_bytes(op, 0, params);
}

// ---- The whole of NSA: all that attends is done here ----

nsa_tiles::PartKernels nsa_parts() { return {nsa_tiles::kernel(), kernel(), kernel(), kernel()}; }

const char* nsa(const AttnspecNsa* p) { return nsa_tiles::nsa(p, nsa_parts()); }

std::int64_t workspace_bytes(std::uint32_t op, std::int32_t, const void* params) {
  if (op == ATTNSPEC_NSA) return nsa_tiles::nsa_bytes(*static_cast<const AttnspecNsa*>(params), nsa_parts(), false);
  if (op == ATTNSPEC_DENSE) return bytes_of<AttnspecDense>(op, params);
  if (op == ATTNSPEC_WINDOW) return bytes_of<AttnspecWindow>(op, params);
  if (op == ATTNSPEC_SELECTED) return bytes_of<AttnspecSelected>(op, params);
  if (op == ATTNSPEC_MOBA) return bytes_of<AttnspecMoba>(op, params);
  return bytes_of<AttnspecNsaCompressed>(op, params);
}

AttnspecKernel declare() {
  AttnspecKernel kernel = named_kernel("split_keys",
                                       "few queries and many keys, on tensor cores: thread blocks attend to splits of "
                                       "a query's keys, which are merged");
  kernel.operators =
      ATTNSPEC_DENSE | ATTNSPEC_WINDOW | ATTNSPEC_SELECTED | ATTNSPEC_MOBA | ATTNSPEC_NSA_COMPRESSED | ATTNSPEC_NSA;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.dense = forward<&AttnspecKernel::dense>;
  kernel.window = forward<&AttnspecKernel::window>;
  kernel.selected = forward<&AttnspecKernel::selected>;
  kernel.moba = forward<&AttnspecKernel::moba>;
  kernel.nsa_compressed = forward<&AttnspecKernel::nsa_compressed>;
  kernel.nsa = nsa;
  kernel.limits.dk.largest = kernel.limits.dv.largest = query_tiles::kMaxFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace split_keys

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
