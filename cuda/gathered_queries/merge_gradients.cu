// What the backward does row by row: deltas before the key tiles, and the sums of parts after them. Every sum has an
// order of its own. Half a warp owns a row of deltas, a warp a row of dq, four features a lane; dk and dv of a long
// list are shared out among as many thread blocks as it has segments, four features a thread.
#include "cuda/fragments.cuh"
#include "cuda/gathered_queries/backward_stages.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr int kThreads = 256;

/// Four features of a row.
struct alignas(16) Four {
  float numbers[4];
};
struct alignas(8) PackedFour {
  std::uint32_t pairs[2];
};

template <class T>
__device__ __forceinline__ void write_scaled(T* to, const Four& four, float scale) {
  const float(&x)[4] = four.numbers;
  *reinterpret_cast<PackedFour*>(to) = {{pack<T>(scale * x[0], scale * x[1]), pack<T>(scale * x[2], scale * x[3])}};
}

/// Adds the parts that next() points to, in order, until it points to none; eight are loaded before they are added.
template <class Next>
__device__ __forceinline__ void add_parts(Four& sum, const Next& next) {
  constexpr int kAtOnce = 8;
  for (const float* from = next(); from != nullptr;) {
    Four loaded[kAtOnce];
#pragma unroll
    for (Four& part : loaded) {
      part = from != nullptr ? *reinterpret_cast<const Four*>(from) : Four{};
      from = next();
    }
#pragma unroll
    for (const Four& part : loaded)
      for (int n = 0; n < 4; ++n) sum.numbers[n] += part.numbers[n];
  }
}

template <class T>
__global__ void delta_rows(BackwardProblem p, Rows<const T> o, Rows<const T> d_o, float* deltas) {
  constexpr int kLanes = kWarpLanes / 2;
  const int row = block_index().x * (kThreads / kLanes) + thread_number() / kLanes;
  const int token = row / p.heads, h = row % p.heads;
  const bool is_there = token < p.selection.num_queries;
  const float sum = dot_of_lanes<kLanes>(is_there ? o.at(token, h) : nullptr, d_o.at(token, h), p.dv);
  if (is_there && lane_index() % kLanes == 0) deltas[row] = sum;
}

template <class T>
__global__ void merge_segment_rows(Problem p, Rows<T> dk, Rows<T> dv) {
  Share share = share_of_segment(p, block_index().x);
  if (share.tile < 0) return;
  const KeyTile tile = key_tile_of(p, share);
  const int fours = (p.sizes.dk + p.sizes.dv) / 4;
  const int first = share.number * kThreads + thread_number(), step = share.count * kThreads;
  share.segment -= share.number;  // to the first of the lists
  const float* sums = p.segment_sums(share);
  const std::int64_t stride = std::int64_t{p.tiles} * p.tile_keys * (p.sizes.dk + p.sizes.dv);
  for (int place = first; place < tile.keys * fours; place += step) {
    Four sum{};
    int segment = 0;
    add_parts(sum, [&] { return segment < share.count ? sums + segment++ * stride + 4 * place : nullptr; });
    const std::int64_t key = tile.first_key + place / fours;
    const int d = place % fours * 4;
    if (d < p.sizes.dk)
      write_scaled(dk.at(key, tile.kv_head) + d, sum, p.sizes.scale);
    else
      write_scaled(dv.at(key, tile.kv_head) + d - p.sizes.dk, sum, 1);
  }
}

/// Whether a part of a query row was written: its block was selected, and not all of its key tile is in the future.
__device__ __forceinline__ bool has_part(const Problem& p, const std::int32_t* selected, std::int64_t visible,
                                         int part) {
  if (part >= p.sizes.selection.slots * p.tiles) return false;
  const std::int64_t block = load_constant(selected + part / p.tiles);
  return block >= 0 && block * p.sizes.selection.block + std::int64_t{part % p.tiles} * p.tile_keys < visible;
}

template <class T>
__global__ void merge_query_rows(Problem p, Rows<T> dq) {
  const Selection& s = p.sizes.selection;
  const int heads = p.chunk.kv_count * p.group, row = block_index().x * (kThreads / kWarpLanes) + warp_index();
  const int token = row / heads, h = p.chunk.kv_begin * p.group + row % heads;
  if (token >= s.num_queries) return;
  const Sequence sequence = sequence_of(s.sequences, s.sequences.q_offsets, token);
  const std::int64_t visible = num_visible_keys(s.sequences, sequence, token - sequence.q_begin);
  const std::int32_t* selected = s.selected.at(token, p.list_head(h));
  const int num_parts = static_cast<int>(s.slots) * p.tiles;
  for (int features = 0; features < p.sizes.dk; features += 4 * kWarpLanes) {
    const int d = features + 4 * lane_index();
    const float* parts = p.dq_parts_of(h) + std::int64_t{token} * num_parts * p.sizes.dk + d;
    Four sum{};
    for (int first = 0; first < num_parts; first += kWarpLanes) {
      std::uint32_t there = ballot(has_part(p, selected, visible, first + lane_index()));
      if (d < p.sizes.dk)
        add_parts(sum, [&]() -> const float* {
          const int part = lowest_bit(there);
          there &= there - 1;
          return part < 0 ? nullptr : parts + std::int64_t{first + part} * p.sizes.dk;
        });
    }
    if (d < p.sizes.dk) write_scaled(dq.at(token, h) + d, sum, p.sizes.scale);
  }
}

/// Where dq was added up.
template <class T>
__global__ void scale_query_rows(Problem p, Rows<T> dq) {
  const int heads = p.chunk.kv_count * p.group, row = block_index().x * (kThreads / kWarpLanes) + warp_index();
  const int token = row / heads, h = p.chunk.kv_begin * p.group + row % heads;
  if (token >= p.sizes.selection.num_queries) return;
  const float* sums = p.dq_parts_of(h) + std::int64_t{token} * p.sizes.dk;
  for (int d = 4 * lane_index(); d < p.sizes.dk; d += 4 * kWarpLanes)
    write_scaled(dq.at(token, h) + d, *reinterpret_cast<const Four*>(sums + d), p.sizes.scale);
}

/// Blocks in which so many lanes own a row.
LaunchShape rows_shape(std::int64_t rows, int lanes) {
  return {{static_cast<int>((rows * lanes + kThreads - 1) / kThreads)}, {kThreads}};
}

}  // namespace

template <class T>
void sum_deltas(const BackwardProblem& p, const BackwardRows<T>& rows, float* deltas, void* stream) {
  const std::int64_t count = p.selection.num_queries * p.heads;
  if (count > 0) launch(delta_rows<T>, rows_shape(count, kWarpLanes / 2), stream, p, rows.o, rows.d_o, deltas);
}

template <class T>
void merge_segments(const Problem& p, Rows<T> dk, Rows<T> dv, void* stream) {
  const std::int64_t shares = p.segments.max * p.tiles;
  if (shares > 0) launch(merge_segment_rows<T>, {{static_cast<int>(shares)}, {kThreads}}, stream, p, dk, dv);
}

template <class T>
void merge_query_gradients(const Problem& p, Rows<T> dq, void* stream) {
  const std::int64_t rows = p.sizes.selection.num_queries * p.chunk.kv_count * p.group;
  if (rows > 0)
    launch(p.sizes.dq == QueryGradients::added ? scale_query_rows<T> : merge_query_rows<T>,
           rows_shape(rows, kWarpLanes), stream, p, dq);
}

#define ATTNSPEC_INSTANTIATE(T)                                                               \
  template void sum_deltas<T>(const BackwardProblem&, const BackwardRows<T>&, float*, void*); \
  template void merge_segments<T>(const Problem&, Rows<T>, Rows<T>, void*);                   \
  template void merge_query_gradients<T>(const Problem&, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
