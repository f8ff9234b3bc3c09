// Attention of queries to single key blocks: for each assignment of query t and block b, o = softmax(scale q k^T) v
// over the keys of b that t sees, normalised, and lse = log2 sum exp2(scale log2(e) q k^T). Blocks are gone through key
// by key block: what a block's keys and values are read for is all queries that selected it, whose rows are gathered.
//
// q [query tokens, H, dk], k and v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of 16
// bytes; assignments of each (list head, block) as in query_lists.hpp; partials as in forward.hpp.
//
// A thread block of 8 warps (4 where dv > 128) owns up to 512 assignments (256) of one list, for one query head. A warp
// owns 16 assignments at a time, and their rows of q, s and o; a lane those of tiles.cuh. Key tiles of 64 keys (32
// where dk > 128 or shared memory is little) lie two at a time in shared memory: two that are the whole block stay
// there, of longer blocks one is read while the other is used. Shared memory: SharedTiles, 102 KB for 128 features, 54
// KB for 64.
#include "cuda/gathered_queries/forward.hpp"
#include "cuda/gathered_queries/tiles.cuh"
#include "cuda/primitives/launch.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr int kTilesPerUnit = 4;  // of each warp

/// What all thread blocks of a launch know.
template <class T>
struct Inputs {
  Attention a;
  Selection selection;
  QueryLists lists;
  Heads heads;  // that have lists
  Rows<const T> q, k, v;
  Partials partials;
};

/// A part of one list. Empty where the launch has more thread blocks than parts.
struct Unit {
  std::int64_t list, begin, end;
};

/// A list's parts of `size` assignments are numbered from offsets[list] / size + list on, which leaves room enough:
/// rounding down the quotients of two neighbours loses less than one part. A warp finds the list, 32 candidates at a
/// time.
__device__ __forceinline__ Unit find_unit(const std::int64_t* offsets, std::int64_t num_lists, std::int64_t unit,
                                          int size) {
  const std::int64_t first = offsets[0];
  const auto first_unit = [&](std::int64_t list) { return (offsets[list] - first) / size + list; };
  std::int64_t begin = 0, end = num_lists;  // the list is one of these
  while (end - begin > 1) {
    const std::int64_t step = (end - begin + kWarpLanes - 1) / kWarpLanes;
    const std::int64_t candidate = begin + lane_index() * step;
    const int passed = count_bits(ballot(candidate < end && first_unit(candidate) <= unit));
    begin += (passed - 1) * step;
    end = begin + step < end ? begin + step : end;
  }
  const std::int64_t from = offsets[begin] + (unit - first_unit(begin)) * size;
  const std::int64_t list_end = offsets[begin + 1];
  return {begin, from, from + size < list_end ? from + size : list_end};
}

/// A key block and the sequence that it is in.
struct KeyBlock {
  Sequence sequence;
  std::int64_t begin;  // the first key, counted in the sequence
  int keys;
};

__device__ __forceinline__ KeyBlock key_block(const Selection& selection, std::int64_t block) {
  const Sequence s = sequence_of(selection.sequences, selection.block_offsets, block);
  const std::int64_t begin = (block - selection.block_offsets[s.index]) * selection.block;
  return {s, begin, static_cast<int>(min_of(selection.block, s.num_keys - begin))};
}

/// A assignment as the lane that looked it up knows it: -1 and no keys where there is none.
struct Pick {
  int assignment, token, keys;
};

template <class T>
__device__ __forceinline__ Pick load_assignment(const Inputs<T>& in, const KeyBlock& block, std::int64_t entry,
                                                std::int64_t end) {
  if (entry >= end) return {-1, 0, 0};
  const int assignment = load_constant(in.lists.assignments + entry),
            token = assignment / static_cast<int>(in.selection.slots);
  const std::int64_t visible =
      num_visible_keys(in.selection.sequences, block.sequence, token - block.sequence.q_begin) - block.begin;
  return {assignment, token, static_cast<int>(min_of(visible, block.keys))};
}

/// Starts to copy the q rows of a warp's assignments.
template <class Sizes, class T>
__device__ __forceinline__ void gather_queries(const Inputs<T>& in, int head, const Pick& mine,
                                               T (*q)[Sizes::kKStride]) {
  constexpr int kVectors = Sizes::kDk / kVectorFeatures;
#pragma unroll 4
  for (int i = 0; i < Sizes::kWarpRows * kVectors / kWarpLanes; ++i) {
    const int index = i * kWarpLanes + lane_index(), row = index / kVectors;
    const int token = shuffle(mine.token, row), assignment = shuffle(mine.assignment, row);
    copy_vector(q[row], in.q.at(assignment < 0 ? 0 : token, head), index % kVectors, in.a.dk, assignment >= 0);
  }
}

/// Starts to copy rows of k or v into a tile; zeros behind the last of `keys`.
template <class Sizes, int stride, class T>
__device__ __forceinline__ void copy_keys(T (*tile)[stride], const Rows<const T>& from, std::int64_t token, int head,
                                          int keys, int features) {
  constexpr int kVectors = (stride - 8) / kVectorFeatures;
#pragma unroll 4
  for (int index = thread_index().x; index < Sizes::kKeys * kVectors; index += Sizes::kThreads) {
    const int row = index / kVectors;
    copy_vector(tile[row], from.at(token + (row < keys ? row : 0), head), index % kVectors, features, row < keys);
  }
}

/// Writes what a warp's assignments found.
template <class T, class Sizes>
__device__ __forceinline__ void store_partials(const QueryTile<T, Sizes>& rows, const Inputs<T>& in,
                                               std::int64_t first_assignment, const Pick& mine) {
  const std::int64_t features = padded_features(in.a.dv);
  const int lane = lane_index();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int assignment = shuffle(mine.assignment, 8 * half + lane / 4);
    float lse;
    const float normaliser = rows.normaliser(half, lse);
    if (assignment < 0) continue;
    float* o = in.partials.o + (first_assignment + assignment) * features + lane % 4 * 4;
#pragma unroll
    for (int n = 0; n < Sizes::kDv / 8; n += 2) {
      if (n * 8 >= features) break;
      const auto bits = [&](int next, int c) {
        return __builtin_bit_cast(std::uint32_t, rows.o[n + next][2 * half + c] * normaliser);
      };
      store_128(o + n * 8, {bits(0, 0), bits(0, 1), bits(1, 0), bits(1, 1)});
    }
    if (lane % 4 == 0) in.partials.lse[first_assignment + assignment] = lse;
  }
}

template <class T, class Sizes>
__global__ void __launch_bounds__(Sizes::kThreads, 2) attend_units(Inputs<T> in) {
  using Shared = SharedTiles<T, Sizes>;
  Shared& shared = *dynamic_shared<Shared>();
  const int warp = warp_index(), lane = lane_index();

  // phase 1 - what the thread block owns: a part of a list, a key block, a query head
  const std::int64_t first_list = in.heads.first * in.selection.num_blocks;
  const Unit unit = find_unit(in.lists.offsets + first_list, in.heads.count * in.selection.num_blocks, block_index().x,
                              kTilesPerUnit * Sizes::kRows);
  if (unit.begin >= unit.end) return;
  const int list_head = in.heads.first + static_cast<int>(unit.list / in.selection.num_blocks);
  const int head = list_head * (in.a.heads / in.selection.heads) + block_index().y;
  const int kv_head = head / (in.a.heads / in.a.kv_heads);
  const KeyBlock block = key_block(in.selection, unit.list % in.selection.num_blocks);
  const int first_head = in.heads.first * (in.a.heads / in.selection.heads);
  const std::int64_t first_assignment = (head - first_head) * in.selection.num_queries * in.selection.slots;
  const int key_tiles = (block.keys + Sizes::kKeys - 1) / Sizes::kKeys;
  const int row_tiles = static_cast<int>((unit.end - unit.begin + Sizes::kRows - 1) / Sizes::kRows);
  const int loads = key_tiles <= 2 ? key_tiles : key_tiles * row_tiles;  // of key tiles

  const auto copy_tile = [&](int load) {
    const int tile = load % key_tiles, keys = min_of(block.keys - tile * Sizes::kKeys, Sizes::kKeys);
    const std::int64_t token = block.sequence.k_begin + block.begin + tile * Sizes::kKeys;
    copy_keys<Sizes>(shared.k[load % 2], in.k, token, kv_head, keys, in.a.dk);
    copy_keys<Sizes>(shared.v[load % 2], in.v, token, kv_head, keys, in.a.dv);
  };
  const auto assignment_of = [&](int row_tile) {
    const std::int64_t entry = unit.begin + row_tile * Sizes::kRows + warp * Sizes::kWarpRows + lane;
    return load_assignment(in, block, entry, lane < Sizes::kWarpRows ? unit.end : 0);
  };

  // phase 2 - the first key tile and the first queries
  copy_tile(0);
  Pick assignment = assignment_of(0);
  gather_queries<Sizes>(in, head, assignment, shared.q[warp]);

  // phase 3 - all queries, a tile of them at a time, against all keys
  QueryTile<T, Sizes> rows;
  const float scale = in.a.scale * 1.44269504f;
  for (int step = 0, row_tile = 0; row_tile < row_tiles; ++row_tile) {
    const Pick next = assignment_of(row_tile + 1);
    const int max_visible = max_lanes(assignment.keys);
    int visible[2] = {shuffle(assignment.keys, lane / 4),
                      shuffle(assignment.keys, 8 + lane / 4)};  // from the key tile on
    rows.clear();
    for (int key_tile = 0; key_tile < key_tiles; ++key_tile, ++step) {
      cp_async_wait_all();
      if (step < loads) {
        sync_threads();  // the tile of this step is there, and that of the last one is no longer read
        if (step + 1 < loads) copy_tile(step + 1);
      } else {
        sync_warp();
      }
      const auto gather_next = [&] {
        if (key_tile + 1 < key_tiles || row_tile + 1 == row_tiles) return;
        sync_warp();
        gather_queries<Sizes>(in, head, next, shared.q[warp]);
      };
      const int stage = key_tiles == 1 ? 0 : step % 2;
      if (max_visible > key_tile * Sizes::kKeys)
        rows.attend(shared.q[warp], shared.k[stage], shared.v[stage], scale, visible, gather_next);
      else
        gather_next();
      visible[0] -= Sizes::kKeys, visible[1] -= Sizes::kKeys;
    }
    store_partials(rows, in, first_assignment, assignment);
    assignment = next;
  }
}

/// Calls use(sizes) with the smallest tiles that hold rows of so many features; of fewer keys where a thread block gets
/// 99 KB of shared memory.
template <class Use>
void with_sizes(int dk, int dv, const Use& use) {
  if (dk <= 64 && dv <= 64) return use(TileSizes<64, 64>{});
  if (dk <= 128 && dv <= 128)
    return max_shared_bytes() >= sizeof(SharedTiles<bf16, TileSizes<128, 128>>) ? use(TileSizes<128, 128>{})
                                                                                : use(TileSizes<128, 128, 32>{});
  if (dk <= 192 && dv <= 128) return use(TileSizes<192, 128>{});
  use(TileSizes<256, 256>{});
}

}  // namespace

template <class T>
void attend_blocks(const Attention& a, const Selection& selection, const QueryLists& lists, const Heads& heads,
                   Rows<const T> q, Rows<const T> k, Rows<const T> v, const Partials& partials, void* stream) {
  with_sizes(a.dk, a.dv, [&]<class Sizes>(Sizes) {
    const std::int64_t assignments = heads.count * selection.num_queries * selection.slots;
    const std::int64_t num_lists = heads.count * selection.num_blocks;
    if (assignments == 0 || num_lists == 0) return;
    LaunchShape shape;
    shape.grid.x = static_cast<int>(assignments / (kTilesPerUnit * Sizes::kRows) + num_lists);
    shape.grid.y = a.heads / selection.heads;
    shape.block.x = Sizes::kThreads;
    shape.shared_bytes = sizeof(SharedTiles<T, Sizes>);
    launch(attend_units<T, Sizes>, shape, stream, {a, selection, lists, heads, q, k, v, partials});
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                      \
  template void attend_blocks<T>(const Attention&, const Selection&, const QueryLists&, const Heads&, Rows<const T>, \
                                 Rows<const T>, Rows<const T>, const Partials&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
