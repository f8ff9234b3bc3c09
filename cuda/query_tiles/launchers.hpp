// Kernels of row tiles as the judge takes them: the declaration, the launchers, and what a call needs of a workspace.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "cuda/baseline/calls.hpp"
#include "cuda/kernel_list.hpp"
#include "cuda/query_tiles/calls.hpp"
#include "cuda/query_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET {

namespace query_tiles {

/// How a kernel cuts a call into tiles, and works on them: query_tiles' own way, of which others replace parts.
struct OwnStages {
  static int forward_tile_rows(const Problem& p) { return query_tiles::forward_tile_rows(p.dk, p.dv); }
  static int query_gradient_tile_rows(const Problem& p) { return query_tiles::query_gradient_tile_rows(p.dk, p.dv); }
  static int key_gradient_tile_keys(const Problem& p) { return query_tiles::key_gradient_tile_keys(p.dk, p.dv); }
  template <class T, class... Arguments>
  static void attend(const Arguments&... arguments) {
    query_tiles::attend<T>(arguments...);
  }
  template <class T, class... Arguments>
  static void attend_backward(const Arguments&... arguments) {
    query_tiles::attend_backward<T>(arguments...);
  }
  static int select_tile_rows(const Problem&, const ImportanceRule&) { return kSelectRows; }
  template <class T, class... Arguments>
  static void select_important_blocks(const Arguments&... arguments) {
    query_tiles::select_important_blocks<T>(arguments...);
  }
};

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  Offsets tokens;
  std::int64_t* compressed_rows;  // offsets; nullptr: keys are tokens
  TileOffsets row_tiles, key_tiles, select_tiles;
  std::vector<std::int64_t> segment_offsets;  // on the host
  RowSegments segments;
  RowTerms* terms;
  std::int64_t bytes;
};

/// Forward: AttnspecDense, AttnspecWindow or AttnspecNsaCompressed.
template <class Stages, class Forward>
Layout lay_out(const Forward& f, bool is_backward) {
  constexpr bool is_compressed = std::is_same_v<Forward, AttnspecNsaCompressed>;
  Workspace workspace(f.call.workspace);
  Layout l{};
  l.tokens = take_offsets(workspace, f.call);
  if (is_compressed) l.compressed_rows = workspace.take<std::int64_t>(f.call.num_sequences + 1);
  l.problem =
      problem_of(f, {l.tokens.q, is_compressed ? l.compressed_rows : l.tokens.k, f.call.num_sequences, is_causal(f)},
                 reach_of(f, l.tokens.k));
  const int group = l.problem.group;
  l.row_tiles =
      take_tiles(workspace, f.call, f.call.q_offsets, group,
                 is_backward ? Stages::query_gradient_tile_rows(l.problem) : Stages::forward_tile_rows(l.problem));
  if (is_backward) {
    const int keys = Stages::key_gradient_tile_keys(l.problem);
    l.key_tiles = take_tiles(workspace, f.call, key_offsets(f), 1, keys);
    l.segment_offsets = row_segment_offsets(
        l.problem, keys, {f.call.q_offsets, key_offsets(f), f.call.num_sequences, is_causal(f)}, f.call.k_offsets);
    const std::int64_t segments = l.segment_offsets.back(), tiles = l.key_tiles.count();
    const std::int64_t numbers = std::int64_t{keys} * (l.problem.dk + l.problem.dv);
    l.segments = {workspace.take<std::int64_t>(tiles + 1), static_cast<int>(segments),
                  workspace.take<float>(segments > tiles ? segments * l.problem.kv_heads * numbers : 0)};
    l.terms = workspace.take<RowTerms>(f.q.shape[0] * f.q.shape[1]);
  } else if constexpr (is_compressed) {
    l.select_tiles = take_tiles(workspace, f.call, f.call.q_offsets, select_rows_of_query(group),
                                Stages::select_tile_rows(l.problem, rule_of(f.sizes, f.selection.shape[2])));
  }
  l.bytes = workspace.bytes();
  return l;
}

template <class Forward>
void copy_all_offsets(const Forward& f, const Layout& l) {
  copy_offsets(f.call, l.tokens);
  if (l.compressed_rows != nullptr) copy_offsets(f.call, l.compressed_rows, key_offsets(f));
  for (const TileOffsets* tiles : {&l.row_tiles, &l.key_tiles, &l.select_tiles}) copy_tiles(f.call, *tiles);
  if (!l.segment_offsets.empty())
    copy_to_device(l.segments.offsets, l.segment_offsets.data(), l.segment_offsets.size() * sizeof(std::int64_t),
                   f.call.stream);
}

template <class Stages, class T, class Forward>
void attend(const Forward& f, const Layout& l) {
  Stages::template attend<T>(l.problem, l.row_tiles.tiles(), rows_of<const T>(f.q), rows_of<const T>(f.k),
                             rows_of<const T>(f.v), rows_of<T>(f.o), rows_of<float>(f.lse), f.call.stream);
}

/// function: of AttnspecKernel, that does such calls.
template <class Stages, auto function, class Forward>
const char* forward(const Forward* f) {
  if (!is_for_tiles(*f)) return (baseline::kernel().*function)(f);
  return reason_of([&] {
    require_countable(*f);
    Buffers buffers;
    add_tensors(*f, buffers);
    const Layout l = lay_out<Stages>(*f, false);
    copy_all_offsets(*f, l);
    with_16_bits(f->q, [&](auto zero) { attend<Stages, decltype(zero)>(*f, l); });
  });
}

/// Whether its lists of blocks fit into the device's shared memory.
inline bool is_for_lists(const AttnspecNsaCompressed& f) {
  const std::int64_t group = f.q.shape[1] / f.k.shape[1];
  return group <= kSelectRows && select_shared_bytes(static_cast<int>(f.q.shape[2]), static_cast<int>(group),
                                                     countable(f.selection.shape[2])) <= max_shared_bytes();
}

template <class Stages>
const char* nsa_compressed(const AttnspecNsaCompressed* f) {
  if (!is_for_tiles(*f) || !is_for_lists(*f)) return baseline::kernel().nsa_compressed(f);
  return reason_of([&] {
    require_countable(*f);
    Buffers buffers;
    add_tensors(*f, buffers);
    buffers.add("selection", f->selection);
    const Layout l = lay_out<Stages>(*f, false);
    require_countable_rows(f->q.shape[0], select_rows_of_query(l.problem.group) * std::int64_t{l.problem.kv_heads});
    copy_all_offsets(*f, l);
    with_16_bits(f->q, [&](auto zero) {
      using T = decltype(zero);
      attend<Stages, T>(*f, l);
      Stages::template select_important_blocks<T>(
          l.problem, l.select_tiles.tiles(), rule_of(f->sizes, f->selection.shape[2]), rows_of<const T>(f->q),
          rows_of<const T>(f->k), rows_of<const float>(f->lse), rows_of<std::int32_t>(f->selection), f->call.stream);
    });
  });
}

template <class Stages, auto function, class Backward>
const char* backward(const Backward* b) {
  const auto& f = *b->forward;
  if (!is_for_tiles(f)) return (baseline::kernel().*function)(b);
  return reason_of([&] {
    require_countable(f);
    Buffers buffers;
    add_tensors(f, buffers);
    add_gradients(*b, buffers);
    const Layout l = lay_out<Stages>(f, true);
    copy_all_offsets(f, l);
    with_16_bits(f.q, [&](auto zero) {
      using T = decltype(zero);
      Stages::template attend_backward<T>(l.problem, l.row_tiles.tiles(), l.key_tiles.tiles(), l.segments,
                                          baseline::backward_rows<T>(*b), l.terms, rows_of<T>(b->dq), rows_of<T>(b->dk),
                                          rows_of<T>(b->dv), f.call.stream);
    });
  });
}

/// For params that begin with an AttnspecCall, as yet without a workspace. -1: the call is not for tiles.
template <class Stages, class Forward>
std::int64_t bytes_of(const void* params, bool is_backward) {
  Forward f = *static_cast<const Forward*>(params);
  f.call.workspace = nullptr;
  if (!is_for_tiles(f)) return -1;
  if constexpr (std::is_same_v<Forward, AttnspecNsaCompressed>)
    if (!is_backward && !is_for_lists(f)) return -1;
  return lay_out<Stages>(f, is_backward).bytes;
}

template <class Stages>
std::int64_t workspace_bytes(std::uint32_t op, std::int32_t is_backward, const void* params) {
  const auto bytes_of_op = op == ATTNSPEC_DENSE    ? bytes_of<Stages, AttnspecDense>
                           : op == ATTNSPEC_WINDOW ? bytes_of<Stages, AttnspecWindow>
                                                   : bytes_of<Stages, AttnspecNsaCompressed>;
  const std::int64_t bytes = bytes_of_op(params, is_backward != 0);
  return bytes >= 0 ? bytes : baseline::kernel().workspace_bytes(op, is_backward, params);
}

/// A kernel of such stages.
template <class Stages>
AttnspecKernel declare(const char* name, const char* summary) {
  AttnspecKernel kernel = named_kernel(name, summary);
  kernel.operators = ATTNSPEC_DENSE | ATTNSPEC_WINDOW | ATTNSPEC_NSA_COMPRESSED;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes<Stages>;
  kernel.dense = forward<Stages, &AttnspecKernel::dense>;
  kernel.dense_backward = backward<Stages, &AttnspecKernel::dense_backward>;
  kernel.window = forward<Stages, &AttnspecKernel::window>;
  kernel.window_backward = backward<Stages, &AttnspecKernel::window_backward>;
  kernel.nsa_compressed = nsa_compressed<Stages>;
  kernel.nsa_compressed_backward = backward<Stages, &AttnspecKernel::nsa_compressed_backward>;
  kernel.limits.dk.largest = kernel.limits.dv.largest = kMaxFeatures;
  return kernel;
}

}  // namespace query_tiles

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET
