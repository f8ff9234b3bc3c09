// o = softmax(scale q k^T) v over a split of the keys in a row's list, not yet divided by the sum of the weights; and
// of lists that ask for it the scores.
//
// q [query tokens, H, dk], k and v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of 16
// bytes; lists and what is found as in stages.hpp. A thread block of 4 warps (2 where dk > 128) owns a split of one
// list, for 16 of the heads that have it: the rows of a tensor-core tile, of which the last may be empty. It goes
// through the split 64 keys (32) at a time. Of these a warp owns 16, and keeps o of them in registers; at last the
// warps' o are added in shared memory. Shared memory: SharedTiles, 68 KB for 128 features, three blocks on a
// multiprocessor, and behind it the list; the next keys are copied while some are used.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/query_tiles/softmax.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/split_keys/sequences.cuh"
#include "cuda/split_keys/stages.hpp"
#include "cuda/split_keys/warp_sums.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys {

using query_tiles::copy_rows;
using query_tiles::KeyRange;
using query_tiles::keys_of;
using query_tiles::kLog2E;
using query_tiles::lane_row;
using query_tiles::multiply_by_rows;
using query_tiles::multiply_packed;
using query_tiles::padded;
using query_tiles::RunningSoftmax;
using query_tiles::SharedTile;
using query_tiles::walk;
using query_tiles::with_features;

namespace {

constexpr int kRows = 16;  // of a thread block

/// How a thread block works on rows of so many features.
template <class Features>
struct Shape : Features {
  static constexpr int kKeys = Features::kDk > 128 ? 32 : 64;
  static constexpr int kWarps = kKeys / 16, kThreads = kWarps * kWarpLanes, kBlocks = 3;  // on a multiprocessor
  static constexpr int kDvN = Features::kDv / 16;
  static_assert(kKeyStep % kKeys == 0);
};

/// Dynamic shared memory, with the KeyList's blocks behind it. What warps found takes the place of the keys.
template <class T, class Shape>
struct SharedTiles {
  T q[kRows * padded(Shape::kDk)];
  union {
    struct {
      T k[2][Shape::kKeys * padded(Shape::kDk)], v[2][Shape::kKeys * padded(Shape::kDv)];
    } keys;
    WarpSums<Shape::kWarps, kRows, Shape::kDv> found;
  };
};

/// The heads [head, head + rows) of a query token, which share a list.
struct Item {
  int row;  // of the token among those that are attended at once
  std::int64_t token;
  int list, head, rows, kv_head;
};

/// Tiles of rows that share a list.
__host__ __device__ __forceinline__ int tiles_of_list(const Problem& p, const Lists& lists) {
  return (p.heads / lists.count + kRows - 1) / kRows;
}

__device__ __forceinline__ Item item_of(const Problem& p, const Lists& lists, const Tokens& tokens, int number) {
  const int tiles = tiles_of_list(p, lists), heads = p.heads / lists.count;
  const int of_token = number % (tiles * lists.count), row = number / (tiles * lists.count);
  const int list = of_token / tiles, first = of_token % tiles * kRows, head = list * heads + first;
  return {row, tokens.first + row, list, head, heads - first < kRows ? heads - first : kRows, p.by_group.of(head)};
}

/// The keys of a list, one after the other. All its blocks are full but the last, so that key n is in block n / block.
struct KeyList {
  const int* starts;  // of its blocks, in ascending order, in shared memory
  int block;
  Divider by_block;
  int count;

  /// A key's number in the sequence.
  __device__ __forceinline__ int at(int n) const {
    const int number = by_block.of(n);
    return starts[number] + (n - number * block);
  }
};

/// The list of a token that sees the keys `seen`. starts: room for its blocks, filled when the thread block has met.
__device__ __forceinline__ KeyList key_list(const Lists& lists, const Item& item, const KeyRange& seen, int* starts) {
  KeyList keys{starts, lists.block, lists.by_block, seen.end - seen.first};
  if (lists.selected.data == nullptr) {
    if (thread_number() == 0) starts[0] = seen.first;
    return keys;
  }
  const std::int32_t* selected = lists.selected.at(item.token, item.list);
  const auto is_seen = [&](int block) { return block >= 0 && std::int64_t{block} * lists.block < seen.end; };
  int blocks = 0, last = 0;
  for (int slot = lane_index(); slot < lists.slots; slot += kWarpLanes) {
    const int block = load_constant(selected + slot);
    if (is_seen(block)) ++blocks, last = block > last ? block : last;
  }
  blocks = sum_lanes(blocks), last = max_lanes(last);
  const int of_last = seen.end - last * lists.block;
  keys.count = blocks == 0 ? 0 : (blocks - 1) * lists.block + (of_last < lists.block ? of_last : lists.block);
  for (int slot = thread_number(); slot < lists.slots; slot += block_size().x) {
    const int block = load_constant(selected + slot);
    int before = 0;
    for (int other = 0; other < lists.slots; ++other) {
      const int another = load_constant(selected + other);
      before += is_seen(another) && another < block ? 1 : 0;
    }
    if (is_seen(block)) starts[before] = block * lists.block;
  }
  return keys;
}

/// A split of so many keys, counted in its list.
__device__ __forceinline__ KeyRange split_of(int keys, int split) {
  const int step = kKeyStep * kMaxSplits;
  const int even = (keys / step + (keys % step > 0 ? 1 : 0)) * kKeyStep, length = even > kMinKeys ? even : kMinKeys;
  const std::int64_t begin = std::int64_t{length} * split;
  if (begin >= keys) return {0, 0};
  const int first = static_cast<int>(begin);
  return {first, keys - first < length ? keys : first + length};
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    attend_split(Problem p, Lists lists, Tokens tokens, Rows<const T> q, Rows<const T> k, Rows<const T> v,
                 Partials partials, Scores scores) {
  constexpr int kDk = Shape::kDk, kDv = Shape::kDv, kKeys = Shape::kKeys;
  auto& shared = *dynamic_shared<SharedTiles<T, Shape>>();

  // phase 1 - the thread block's rows, and its split of their keys
  const Item item = item_of(p, lists, tokens, block_index().x);
  const TokenSequence s = sequence_of_token(p, item.token);
  const KeyRange seen = keys_of(p, s, item.token - s.q_begin);
  const KeyList list = key_list(lists, item, seen, reinterpret_cast<int*>(&shared + 1));
  const KeyRange split = split_of(list.count, block_index().y);
  const auto place_of = [&](int row) {
    return (std::int64_t{item.row} * p.heads + item.head + row) * partials.splits + block_index().y;
  };
  if (split.end == 0) {
    if (thread_number() < item.rows) partials.totals[place_of(thread_number())] = {-INFINITY, 0};
    return;
  }
  sync_threads();  // the list is there

  // phase 2 - the keys, of which the warp has 16 of each tile
  const SharedTile<T, kDk> queries{shared.q};
  copy_rows<Shape::kThreads, kRows, kDk>(
      queries, p.dk, [&](int row) { return row < item.rows ? q.at(item.token, item.head + row) : nullptr; });
  Sums<1, Shape::kDvN> sums;
  clear<1, Shape::kDvN>(sums);
  RunningSoftmax<1> softmax;
  softmax.clear();
  const float to_log2 = p.scale * kLog2E;
  const bool has_runs = lists.selected.data == nullptr || lists.block % kKeys == 0;  // keys of a tile follow each other
  const auto copy_tile = [&](int stage, const auto& rows_of_keys) {
    copy_rows<Shape::kThreads, kKeys, kDk>(SharedTile<T, kDk>{shared.keys.k[stage]}, p.dk, rows_of_keys(k));
    copy_rows<Shape::kThreads, kKeys, kDv>(SharedTile<T, kDv>{shared.keys.v[stage]}, p.dv, rows_of_keys(v));
  };
  const auto copy_keys = [&](int key, int stage) {
    const int count = split.end - key;
    if (has_runs)
      copy_tile(stage, [&, first = list.at(key)](const Rows<const T>& from) {
        const T* row = from.at(s.k_begin + first, item.kv_head);
        return [=, stride = from.token_stride](int n) { return n < count ? row + n * stride : nullptr; };
      });
    else
      copy_tile(stage, [&](const Rows<const T>& from) {
        return [&, from](int n) { return n < count ? from.at(s.k_begin + list.at(key + n), item.kv_head) : nullptr; };
      });
  };
  const auto attend_keys = [&](int key, int stage) {
    const int mine = 16 * warp_index(), column = key + mine + lane_index() % 4 * 2;
    if (key + mine >= split.end) return;
    Sums<1, 1> weights;
    clear<1, 1>(weights);
    multiply_by_rows<T, kDk, 1, 1>(weights, queries.down(0, 0),
                                   SharedTile<T, kDk>{shared.keys.k[stage]}.beside(mine, 0));
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& score = weights[0][j][2 * half + c];
          score = column + 8 * j + c < split.end ? score * to_log2 : -INFINITY;
        }
        if (scores.data == nullptr || lane_row(half) >= item.rows || column + 8 * j >= split.end) continue;
        float* to = scores.row(p, item.row, item.head + lane_row(half)) + column + 8 * j;
        *reinterpret_cast<FloatPair*>(to) = {weights[0][j][2 * half], weights[0][j][2 * half + 1]};
      }
    softmax.template weigh<1, Shape::kDvN>(weights, sums);
    multiply_packed<T, 1, 1, Shape::kDvN>(sums, weights, SharedTile<T, kDv>{shared.keys.v[stage]}.down(mine, 0));
  };
  walk<kKeys>(split.first, split.end, copy_keys, attend_keys);

  // phase 3 - what the warps found
  sync_threads();
  shared.found.put(0, softmax, sums);
  sync_threads();
  for (int chunk = thread_number(); chunk < item.rows * (p.dv / 8); chunk += Shape::kThreads) {
    const int row = chunk / (p.dv / 8), d = chunk % (p.dv / 8) * 8;
    const RowSums found = shared.found.of_row(row, d);
    float* to = partials.o + place_of(row) * p.dv + d;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Words4 words;
#pragma unroll
      for (int word = 0; word < 4; ++word)
        words.words[word] = __builtin_bit_cast(std::uint32_t, found.features[4 * half + word]);
      store_128(to + 4 * half, words);
    }
    if (d == 0) partials.totals[place_of(row)] = {found.largest, found.sum};
  }
}

}  // namespace

template <class T>
void attend_splits(const Problem& p, const Lists& lists, const Tokens& tokens, Rows<const T> q, Rows<const T> k,
                   Rows<const T> v, const Partials& partials, const Scores& scores, void* stream) {
  if (tokens.count == 0 || partials.splits == 0) return;
  const std::size_t list_bytes =
      static_cast<std::size_t>(lists.selected.data == nullptr ? 1 : lists.slots) * sizeof(int);
  with_features(p.dk, p.dv, [&]<class Features>(Features) {
    using Shape = Shape<Features>;
    launch(attend_split<T, Shape>,
           {{tokens.count * lists.count * tiles_of_list(p, lists), partials.splits},
            {Shape::kThreads},
            sizeof(SharedTiles<T, Shape>) + list_bytes},
           stream, p, lists, tokens, q, k, v, partials, scores);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                             \
  template void attend_splits<T>(const Problem&, const Lists&, const Tokens&, Rows<const T>, Rows<const T>, \
                                 Rows<const T>, const Partials&, const Scores&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::split_keys
