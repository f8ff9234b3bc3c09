// The kernel as the judge takes it: its declaration, its launchers, and what a call needs of a workspace.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/launcher.cuh"
#include "cuda/query_tiles/problem.hpp"
#include "cuda/workspace.hpp"
#include "verify/kernel_abi.h"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

namespace {

constexpr std::int64_t kMostFeatures = 256;

/// Tiles of a call, and where on the device their offsets go.
struct TileOffsets {
  std::vector<std::int64_t> host;
  std::int64_t* device;

  Tiles tiles() const { return {device, static_cast<int>(host.back())}; }
};

/// The tiles of so many rows, and sequences of tokens with `group` rows each.
TileOffsets tile_offsets(Workspace& workspace, const std::int64_t* offsets, std::int64_t count, std::int64_t group,
                         std::int64_t rows) {
  TileOffsets tiles{{0}, workspace.take<std::int64_t>(count + 1)};
  for (std::int64_t s = 0; s < count; ++s)
    tiles.host.push_back(tiles.host.back() + ((offsets[s + 1] - offsets[s]) * group + rows - 1) / rows);
  return tiles;
}

/// Offsets of sequences: where the host has them, and where on the device they go.
struct Offsets {
  const std::int64_t* host;
  std::int64_t* device;
};

/// A call: what it asks for, and where in its workspace things are.
struct Layout {
  Problem problem;
  Offsets q_offsets, k_offsets, token_offsets;
  TileOffsets row_tiles, key_tiles, select_tiles;
  RowTerms* terms;
  std::int64_t bytes;
};

constexpr std::int64_t kAllKeys = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMostCountable = std::numeric_limits<std::int32_t>::max();

/// A number of tokens or blocks; what is more than any sequence has means the same as less.
int countable(std::int64_t number) { return static_cast<int>(std::min(number, kMostCountable)); }

bool is_causal(const AttnspecDense& p) { return p.call.causal != 0; }
bool is_causal(const AttnspecWindow&) { return true; }
bool is_causal(const AttnspecNsaCompressed&) { return true; }
const std::int64_t* key_offsets(const AttnspecDense& p) { return p.call.k_offsets; }
const std::int64_t* key_offsets(const AttnspecWindow& p) { return p.call.k_offsets; }
const std::int64_t* key_offsets(const AttnspecNsaCompressed& p) { return p.sizes.row_offsets; }
Reach reach_of(const AttnspecDense&, const std::int64_t* token_offsets) {
  return {token_offsets, 1, 1, Divider(1), kAllKeys};
}
Reach reach_of(const AttnspecWindow& p, const std::int64_t* token_offsets) {
  return {token_offsets, 1, 1, Divider(1), p.window};
}
Reach reach_of(const AttnspecNsaCompressed& p, const std::int64_t* token_offsets) {
  const int stride = countable(p.sizes.compress_stride);
  return {token_offsets, p.sizes.compress_block, stride, Divider(stride), kAllKeys};
}

/// Forward: AttnspecDense, AttnspecWindow or AttnspecNsaCompressed.
template <class Forward>
Layout lay_out(const Forward& f, bool is_backward) {
  Workspace workspace(f.call.workspace);
  const std::int64_t sequences = f.call.num_sequences;
  const int heads = static_cast<int>(f.q.shape[1]), kv_heads = static_cast<int>(f.k.shape[1]);
  const int dk = static_cast<int>(f.q.shape[2]), dv = static_cast<int>(f.v.shape[2]), group = heads / kv_heads;
  const auto place = [&](const std::int64_t* host) {
    return Offsets{host, workspace.take<std::int64_t>(sequences + 1)};
  };
  const Offsets q_offsets = place(f.call.q_offsets), token_offsets = place(f.call.k_offsets);
  const Offsets k_offsets = key_offsets(f) == token_offsets.host ? token_offsets : place(key_offsets(f));
  Layout l{{{q_offsets.device, k_offsets.device, sequences, is_causal(f)},
            reach_of(f, token_offsets.device),
            heads,
            kv_heads,
            dk,
            dv,
            static_cast<float>(f.call.scale),
            group,
            Divider(group)},
           q_offsets,
           k_offsets,
           token_offsets,
           tile_offsets(workspace, q_offsets.host, sequences, group,
                        is_backward ? query_gradient_tile_rows(dk, dv) : forward_tile_rows(dk, dv)),
           {},
           {},
           nullptr,
           0};
  if (is_backward) {
    l.key_tiles = tile_offsets(workspace, k_offsets.host, sequences, 1, key_gradient_tile_keys(dk, dv));
    l.terms = workspace.take<RowTerms>(f.q.shape[0] * heads);
  } else if (std::is_same_v<Forward, AttnspecNsaCompressed>) {
    l.select_tiles = tile_offsets(workspace, q_offsets.host, sequences, select_rows_of_query(group), kSelectRows);
  }
  l.bytes = workspace.bytes();
  return l;
}

/// Throws std::runtime_error if rows of tokens are more than are counted in 32 bits.
void require_countable_rows(std::int64_t tokens, std::int64_t rows_of_token) {
  if (tokens > kMostCountable / rows_of_token)
    throw std::runtime_error("tokens " + std::to_string(tokens) + " times heads " + std::to_string(rows_of_token) +
                             " are more rows than 2147483647");
}

/// Likewise for the rows and tokens of a call.
template <class Forward>
void require_countable(const Forward& f) {
  for (const DLTensor* t : {&f.q, &f.k}) require_countable_rows(t->shape[0], t->shape[1]);
  const std::int64_t tokens = f.call.k_offsets[f.call.num_sequences];
  if (tokens > kMostCountable)
    throw std::runtime_error("tokens " + std::to_string(tokens) + " are more than 2147483647");
}

void copy_offsets(const AttnspecCall& call, const Layout& l) {
  const auto bytes = static_cast<std::size_t>(call.num_sequences + 1) * sizeof(std::int64_t);
  copy_to_device(l.q_offsets.device, l.q_offsets.host, bytes, call.stream);
  copy_to_device(l.k_offsets.device, l.k_offsets.host, bytes, call.stream);
  if (l.token_offsets.device != l.k_offsets.device)
    copy_to_device(l.token_offsets.device, l.token_offsets.host, bytes, call.stream);
  for (const TileOffsets* tiles : {&l.row_tiles, &l.key_tiles, &l.select_tiles})
    if (!tiles->host.empty()) copy_to_device(tiles->device, tiles->host.data(), bytes, call.stream);
}

template <class Forward>
void add_buffers(Buffers& buffers, const Forward& f) {
  buffers.add("q", f.q), buffers.add("k", f.k), buffers.add("v", f.v), buffers.add("o", f.o);
  buffers.add("lse", f.lse);
  buffers.add("workspace", f.call.workspace, f.call.workspace_bytes);
}

template <class Use>
void with_16_bits(const DLTensor& tensor, const Use& use) {
  if (tensor.dtype.code == kDLBfloat) return use(bf16{});
  use(fp16{});
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
    add_buffers(buffers, *f);
    const Layout l = lay_out(*f, false);
    copy_offsets(f->call, l);
    with_16_bits(f->q, [&](auto zero) { attend<decltype(zero)>(*f, l); });
  });
}

ImportanceChoice choice_of(const AttnspecNsaSizes& sizes, std::int64_t slots) {
  const int rows = countable(sizes.block / sizes.compress_stride);
  return {Divider(countable(sizes.block)),
          rows,
          Divider(rows),
          countable(sizes.compress_block / sizes.compress_stride),
          countable(sizes.top_n),
          countable(sizes.initial_blocks),
          countable(sizes.local_blocks),
          countable(slots)};
}

const char* nsa_compressed(const AttnspecNsaCompressed* f) {
  return reason_of([&] {
    require_countable(*f);
    Buffers buffers;
    add_buffers(buffers, *f);
    buffers.add("selection", f->selection);
    const Layout l = lay_out(*f, false);
    require_countable_rows(f->q.shape[0], select_rows_of_query(l.problem.group) * std::int64_t{l.problem.kv_heads});
    copy_offsets(f->call, l);
    const ImportanceChoice choice = choice_of(f->sizes, f->selection.shape[2]);
    with_16_bits(f->q, [&](auto zero) {
      using T = decltype(zero);
      attend<T>(*f, l);
      select_important_blocks<T>(l.problem, l.select_tiles.tiles(), choice, rows_of<const T>(f->q),
                                 rows_of<const T>(f->k), rows_of<const float>(f->lse),
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
  const bool of_backward = is_backward != 0;
  if (op == ATTNSPEC_DENSE) return bytes_of<AttnspecDense>(params, of_backward);
  if (op == ATTNSPEC_WINDOW) return bytes_of<AttnspecWindow>(params, of_backward);
  return bytes_of<AttnspecNsaCompressed>(params, of_backward);
}

AttnspecKernel declare() {
  AttnspecKernel kernel{};
  kernel.struct_size = sizeof kernel;
  kernel.abi_version = ATTNSPEC_ABI_VERSION;
  kernel.device_type = kDeviceType;
  kernel.name = "query_tiles";
  kernel.summary =
      "dense attention, NSA's window and its compressed rows on tensor cores; tiles of queries, heads of a group "
      "together";
  kernel.departures = "";
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
