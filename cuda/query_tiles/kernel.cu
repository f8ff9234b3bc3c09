// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <cstdint>
#include <limits>

#include "cuda/query_tiles/calls.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

namespace {

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  std::int64_t *q_offsets, *k_offsets;
  TileOffsets row_tiles, key_tiles;
  RowTerms* terms;
  std::int64_t bytes;
};

std::int64_t window_of(const AttnspecDense&) { return std::numeric_limits<std::int64_t>::max(); }
std::int64_t window_of(const AttnspecWindow& p) { return p.window; }
bool is_causal(const AttnspecDense& p) { return p.call.causal != 0; }
bool is_causal(const AttnspecWindow&) { return true; }

/// Forward: AttnspecDense or AttnspecWindow.
template <class Forward>
Layout lay_out(const Forward& f, bool is_backward) {
  Workspace workspace(f.call.workspace);
  const std::int64_t sequences = f.call.num_sequences;
  const std::int64_t heads = f.q.shape[1], group = heads / f.k.shape[1];
  const int dk = static_cast<int>(f.q.shape[2]), dv = static_cast<int>(f.v.shape[2]);
  auto* q_offsets = workspace.take<std::int64_t>(sequences + 1);
  auto* k_offsets = workspace.take<std::int64_t>(sequences + 1);
  Layout l{problem_of(f, {q_offsets, k_offsets, sequences, is_causal(f)}, window_of(f)),
           q_offsets,
           k_offsets,
           tile_offsets(workspace, f.call.q_offsets, sequences, group,
                        is_backward ? query_gradient_tile_rows(dk, dv) : forward_tile_rows(dk, dv)),
           {},
           nullptr,
           0};
  if (is_backward) {
    l.key_tiles = tile_offsets(workspace, f.call.k_offsets, sequences, 1, key_gradient_tile_keys(dk, dv));
    l.terms = workspace.take<RowTerms>(f.q.shape[0] * heads);
  }
  l.bytes = workspace.bytes();
  return l;
}

void copy_offsets(const AttnspecCall& call, const Layout& l) {
  const auto bytes = static_cast<std::size_t>(call.num_sequences + 1) * sizeof(std::int64_t);
  copy_to_device(l.q_offsets, call.q_offsets, bytes, call.stream);
  copy_to_device(l.k_offsets, call.k_offsets, bytes, call.stream);
  for (const TileOffsets* tiles : {&l.row_tiles, &l.key_tiles})
    if (!tiles->host.empty()) copy_to_device(tiles->device, tiles->host.data(), bytes, call.stream);
}

template <class Forward>
void add_buffers(Buffers& buffers, const Forward& f) {
  buffers.add("q", f.q), buffers.add("k", f.k), buffers.add("v", f.v), buffers.add("o", f.o);
  buffers.add("lse", f.lse);
  buffers.add("workspace", f.call.workspace, f.call.workspace_bytes);
}

template <class Forward>
const char* forward(const Forward* f) {
  return reason_of([&] {
    require_countable(*f);
    Buffers buffers;
    add_buffers(buffers, *f);
    const Layout l = lay_out(*f, false);
    copy_offsets(f->call, l);
    with_16_bits(f->q, [&](auto zero) {
      using T = decltype(zero);
      attend<T>(l.problem, l.row_tiles.tiles(), rows_of<const T>(f->q), rows_of<const T>(f->k), rows_of<const T>(f->v),
                rows_of<T>(f->o), rows_of<float>(f->lse), f->call.stream);
    });
  });
}

template <class Backward>
const char* backward(const Backward* b) {
  return reason_of([&] {
    const auto& f = *b->forward;
    require_countable(f);
    Buffers buffers;
    add_buffers(buffers, f);
    buffers.add("do", b->d_o), buffers.add("dq", b->dq), buffers.add("dk", b->dk), buffers.add("dv", b->dv);
    const Layout l = lay_out(f, true);
    copy_offsets(f.call, l);
    with_16_bits(f.q, [&](auto zero) {
      using T = decltype(zero);
      const BackwardRows<T> rows{rows_of<const T>(f.q), rows_of<const T>(f.k),       rows_of<const T>(f.v),
                                 rows_of<const T>(f.o), rows_of<const float>(f.lse), rows_of<const T>(b->d_o)};
      attend_backward<T>(l.problem, l.row_tiles.tiles(), l.key_tiles.tiles(), rows, l.terms, rows_of<T>(b->dq),
                         rows_of<T>(b->dk), rows_of<T>(b->dv), f.call.stream);
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
  return op == ATTNSPEC_DENSE ? bytes_of<AttnspecDense>(params, is_backward != 0)
                              : bytes_of<AttnspecWindow>(params, is_backward != 0);
}

AttnspecKernel declare() {
  AttnspecKernel kernel{};
  kernel.struct_size = sizeof kernel;
  kernel.abi_version = ATTNSPEC_ABI_VERSION;
  kernel.device_type = kDeviceType;
  kernel.name = "query_tiles";
  kernel.summary = "dense attention and NSA's window on tensor cores; tiles of queries, the heads of a group together";
  kernel.departures = "";
  kernel.operators = ATTNSPEC_DENSE | ATTNSPEC_WINDOW;
  kernel.promises = ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.dense = forward<AttnspecDense>;
  kernel.dense_backward = backward<AttnspecDenseBackward>;
  kernel.window = forward<AttnspecWindow>;
  kernel.window_backward = backward<AttnspecWindowBackward>;
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
