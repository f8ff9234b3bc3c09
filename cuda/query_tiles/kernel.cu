// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <cstdint>
#include <type_traits>

#include "cuda/query_tiles/calls.hpp"
#include "cuda/query_tiles/problem.hpp"
#include "cuda/thread_per_row/calls.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

namespace {

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  Offsets tokens;
  std::int64_t* compressed_rows;  // offsets; nullptr: keys are tokens
  TileOffsets row_tiles, key_tiles, select_tiles;
  RowTerms* terms;
  std::int64_t bytes;
};

/// Forward: AttnspecDense, AttnspecWindow or AttnspecNsaCompressed.
template <class Forward>
Layout lay_out(const Forward& f, bool is_backward) {
  constexpr bool is_compressed = std::is_same_v<Forward, AttnspecNsaCompressed>;
  Workspace workspace(f.call.workspace);
  Layout l{};
  l.tokens = take_offsets(workspace, f.call);
  if (is_compressed) l.compressed_rows = workspace.take<std::int64_t>(f.call.num_sequences + 1);
  l.problem =
      problem_of(f, {l.tokens.q, is_compressed ? l.compressed_rows : l.tokens.k, f.call.num_sequences, is_causal(f)},
                 reach_of(f, l.tokens.k));
  const int dk = l.problem.dk, dv = l.problem.dv, group = l.problem.group;
  l.row_tiles = take_tiles(workspace, f.call, f.call.q_offsets, group,
                           is_backward ? query_gradient_tile_rows(dk, dv) : forward_tile_rows(dk, dv));
  if (is_backward) {
    l.key_tiles = take_tiles(workspace, f.call, key_offsets(f), 1, key_gradient_tile_keys(dk, dv));
    l.terms = workspace.take<RowTerms>(f.q.shape[0] * f.q.shape[1]);
  } else if (is_compressed) {
    l.select_tiles = take_tiles(workspace, f.call, f.call.q_offsets, select_rows_of_query(group), kSelectRows);
  }
  l.bytes = workspace.bytes();
  return l;
}

template <class Forward>
void copy_all_offsets(const Forward& f, const Layout& l) {
  copy_offsets(f.call, l.tokens);
  if (l.compressed_rows != nullptr) copy_offsets(f.call, l.compressed_rows, key_offsets(f));
  for (const TileOffsets* tiles : {&l.row_tiles, &l.key_tiles, &l.select_tiles}) copy_tiles(f.call, *tiles);
}

template <class T, class Forward>
void attend(const Forward& f, const Layout& l) {
  query_tiles::attend<T>(l.problem, l.row_tiles.tiles(), rows_of<const T>(f.q), rows_of<const T>(f.k),
                         rows_of<const T>(f.v), rows_of<T>(f.o), rows_of<float>(f.lse), f.call.stream);
}

template <class Forward>
const char* forward(const Forward* f) {
  return reason_of([&] {
    require_countable(*f);
    Buffers buffers;
    add_tensors(*f, buffers);
    const Layout l = lay_out(*f, false);
    copy_all_offsets(*f, l);
    with_16_bits(f->q, [&](auto zero) { attend<decltype(zero)>(*f, l); });
  });
}

const char* nsa_compressed(const AttnspecNsaCompressed* f) {
  return reason_of([&] {
    require_countable(*f);
    Buffers buffers;
    add_tensors(*f, buffers);
    buffers.add("selection", f->selection);
    const Layout l = lay_out(*f, false);
    require_countable_rows(f->q.shape[0], select_rows_of_query(l.problem.group) * std::int64_t{l.problem.kv_heads});
    copy_all_offsets(*f, l);
    with_16_bits(f->q, [&](auto zero) {
      using T = decltype(zero);
      attend<T>(*f, l);
      select_important_blocks<T>(l.problem, l.select_tiles.tiles(), choice_of(f->sizes, f->selection.shape[2]),
                                 rows_of<const T>(f->q), rows_of<const T>(f->k), rows_of<const float>(f->lse),
                                 static_cast<std::int32_t*>(f->selection.data), f->call.stream);
    });
  });
}

template <class Backward>
const char* backward(const Backward* b) {
  return reason_of([&] {
    const auto& f = *b->forward;
    require_countable(f);
    Buffers buffers;
    add_tensors(f, buffers);
    add_gradients(*b, buffers);
    const Layout l = lay_out(f, true);
    copy_all_offsets(f, l);
    with_16_bits(f.q, [&](auto zero) {
      using T = decltype(zero);
      attend_backward<T>(l.problem, l.row_tiles.tiles(), l.key_tiles.tiles(), thread_per_row::backward_rows<T>(*b),
                         l.terms, rows_of<T>(b->dq), rows_of<T>(b->dk), rows_of<T>(b->dv), f.call.stream);
    });
  });
}

/// For params that begin with an AttnspecCall, as yet without a workspace.
template <class Forward>
std::int64_t bytes_of(const void* params, bool is_backward) {
  Forward f = *static_cast<const Forward*>(params);
  f.call.workspace = nullptr;
  return lay_out(f, is_backward).bytes;
}

std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  const bool of_backward = is_backward != 0;
  if (op == ATTNSPEC_DENSE) return bytes_of<AttnspecDense>(params, of_backward);
  if (op == ATTNSPEC_WINDOW) return bytes_of<AttnspecWindow>(params, of_backward);
  return bytes_of<AttnspecNsaCompressed>(params, of_backward);
}

AttnspecKernel declare() {
  AttnspecKernel kernel =
      named_kernel("query_tiles",
                   "dense attention, NSA's window and its compressed rows on tensor cores; tiles of "
                   "queries, the heads of a group together");
  kernel.operators = ATTNSPEC_DENSE | ATTNSPEC_WINDOW | ATTNSPEC_NSA_COMPRESSED;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.dense = forward<AttnspecDense>;
  kernel.dense_backward = backward<AttnspecDenseBackward>;
  kernel.window = forward<AttnspecWindow>;
  kernel.window_backward = backward<AttnspecWindowBackward>;
  kernel.nsa_compressed = nsa_compressed;
  kernel.nsa_compressed_backward = backward<AttnspecNsaCompressedBackward>;
  kernel.limits.dtypes = ATTNSPEC_BF16 | ATTNSPEC_FP16;
  kernel.limits.dk = kernel.limits.dv = {kMostFeatures, 8};  // rows are aligned to 16 bytes
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
