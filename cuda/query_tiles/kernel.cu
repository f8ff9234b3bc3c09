// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/query_tiles/problem.hpp"
#include "cuda/thread_per_row/calls.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

namespace {

constexpr std::int64_t kMostFeatures = 256;

/// Tiles of a call (run_offsets), and where on the device their offsets go.
struct TileOffsets {
  std::vector<std::int64_t> host;
  std::int64_t* device;

  Tiles tiles() const { return {device, static_cast<int>(host.back())}; }
};

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  Offsets offsets;
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
  const int heads = static_cast<int>(f.q.shape[1]), kv_heads = static_cast<int>(f.k.shape[1]);
  const int dk = static_cast<int>(f.q.shape[2]), dv = static_cast<int>(f.v.shape[2]);
  const Offsets offsets = take_offsets(workspace, f.call);
  const auto tiles = [&](const std::int64_t* tokens, int rows_of_token, int rows) -> TileOffsets {
    return {run_offsets(tokens, f.call.num_sequences, rows, rows_of_token),
            workspace.take<std::int64_t>(f.call.num_sequences + 1)};
  };
  Layout l{{{offsets.q, offsets.k, f.call.num_sequences, is_causal(f)},
            window_of(f),
            heads,
            kv_heads,
            dk,
            dv,
            static_cast<float>(f.call.scale),
            heads / kv_heads,
            Divider(heads / kv_heads)},
           offsets,
           tiles(f.call.q_offsets, heads / kv_heads,
                 is_backward ? query_gradient_tile_rows(dk, dv) : forward_tile_rows(dk, dv)),
           {},
           nullptr,
           0};
  if (is_backward) {
    l.key_tiles = tiles(f.call.k_offsets, 1, key_gradient_tile_keys(dk, dv));
    l.terms = workspace.take<RowTerms>(f.q.shape[0] * heads);
  }
  l.bytes = workspace.bytes();
  return l;
}

/// Throws std::runtime_error if a call has more rows than are counted in 32 bits.
template <class Forward>
void require_countable(const Forward& f) {
  for (const DLTensor* t : {&f.q, &f.k})
    if (t->shape[0] > std::numeric_limits<std::int32_t>::max() / t->shape[1])
      throw std::runtime_error("tokens " + std::to_string(t->shape[0]) + " times heads " + std::to_string(t->shape[1]) +
                               " are more rows than 2147483647");
}

void copy_all_offsets(const AttnspecCall& call, const Layout& l) {
  copy_offsets(call, l.offsets);
  for (const TileOffsets* tiles : {&l.row_tiles, &l.key_tiles})
    if (!tiles->host.empty()) copy_offsets(call, tiles->device, tiles->host.data());
}

template <class Forward>
const char* forward(const Forward* f) {
  return reason_of([&] {
    require_countable(*f);
    Buffers buffers;
    add_tensors(*f, buffers);
    const Layout l = lay_out(*f, false);
    copy_all_offsets(f->call, l);
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
    add_tensors(f, buffers);
    add_gradients(*b, buffers);
    const Layout l = lay_out(f, true);
    copy_all_offsets(f.call, l);
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
  return op == ATTNSPEC_DENSE ? bytes_of<AttnspecDense>(params, is_backward != 0)
                              : bytes_of<AttnspecWindow>(params, is_backward != 0);
}

AttnspecKernel declare() {
  AttnspecKernel kernel =
      named_kernel("query_tiles",
                   "dense attention and NSA's window on tensor cores; tiles of queries, the heads of a group together");
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
