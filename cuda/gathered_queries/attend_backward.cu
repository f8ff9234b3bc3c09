// The backward of attention to given blocks, with P = exp(scale q k^T - lse), delta = <do, o>, dS = P (do v^T - delta):
// dq = scale dS k, dk = scale dS^T q, dv = P^T do.
//   deltas[t, h] = <do, o>                                                    sum_deltas
//   dk, dv of each key; dq_parts[h, pick, key tile] = dS k                    attend_key_tiles
//   dq[t, h] = scale * sum of its parts, in the order of slots and key tiles  merge_query_gradients
// Heads go through the last two by chunks, so that the parts of a few heads exist at a time. Every sum has an order of
// its own: no atomics.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/divider.hpp"
#include "cuda/fragments.cuh"
#include "cuda/gathered_queries/attend_backward.hpp"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int kRowThreads = 256;                           // of a block where warps own rows
constexpr std::int64_t kMostRows = std::int64_t{1} << 30;  // of queries and heads, counted in 32 bits

/// Two neighbours in fp32.
struct alignas(8) Pair {
  float low, high;
};

/// How many key/value heads go through the kernels together, and the first of them.
struct HeadChunk {
  int kv_begin, kv_count;
};

/// What the kernels know of a backward.
struct Problem {
  BackwardProblem sizes;
  QueryLists lists;
  const float* deltas;
  float* dq_parts;
  Divider slots;
  int group;  // query heads of a key/value head
  int tiles;  // key tiles of a block
  HeadChunk chunk;

  /// The parts of dq of a head.
  __device__ __forceinline__ float* dq_parts_of(int head) const {
    const std::int64_t picks = sizes.selection.num_queries * sizes.selection.slots;
    return dq_parts + (head - chunk.kv_begin * group) * picks * tiles * sizes.dk;
  }

  /// The head whose lists a query head goes through.
  __device__ __forceinline__ int list_head(int h) const { return sizes.selection.heads == sizes.heads ? h : h / group; }
};

// ---- deltas ----

// Half a warp owns a row (token, head); dv is a multiple of 8.
template <class T>
__global__ void sum_deltas(int num_queries, int heads, int dv, Rows<const T> o, Rows<const T> d_o, float* deltas) {
  constexpr int kLanes = kWarpLanes / 2;
  const int row = block_index().x * (kRowThreads / kLanes) + thread_number() / kLanes;
  const int token = row / heads, h = row % heads;
  const bool is_there = token < num_queries;
  const T* left = o.at(token, h);
  const T* right = d_o.at(token, h);
  float sum = 0;
  for (int d = 8 * (lane_index() % kLanes); is_there && d < dv; d += 8 * kLanes) {
    const Words4 a = load_128_constant(left + d), b = load_128_constant(right + d);
    for (int word = 0; word < 4; ++word) {
      sum += unpack_low<T>(a.words[word]) * unpack_low<T>(b.words[word]);
      sum += unpack_high<T>(a.words[word]) * unpack_high<T>(b.words[word]);
    }
  }
  sum = sum_lanes<kLanes>(sum);
  if (is_there && lane_index() % kLanes == 0) deltas[row] = sum;
}

// ---- key tiles ----

/// How a thread block works on a tile of `keys`: 64 queries at a time, with features padded to dk and dv.
template <int keys, int dk, int dv>
struct TileShape {
  static constexpr int kKeys = keys, kDk = dk, kDv = dv, kQueries = 64;
  static constexpr int kStages = dk + dv > 384 ? 1 : 2;  // of q and do in shared memory
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kBlocks = keys == 64 && dk + dv <= 128 ? 2 : 1;  // on a multiprocessor at a time
  // Warps split [keys, x] in runs of 32 keys, and [queries, dk] in runs of 32 queries. Features go to those that are
  // left by turns, 16 at a time.
  static constexpr int kKeyWarps = keys / 32, kAcross = kWarps / kKeyWarps, kQueryWarps = kQueries / 32,
                       kDqAcross = kWarps / kQueryWarps;
};

/// What is known of the rows of a tile of queries.
template <int queries>
struct QueryTile {
  int head, rows;
  int picks[queries];
};

/// Dynamic shared memory.
template <class T, class Shape>
struct SharedTiles {
  T k[Shape::kKeys * Shape::kDk], v[Shape::kKeys * Shape::kDv];
  T q[Shape::kStages][Shape::kQueries * Shape::kDk], d_o[Shape::kStages][Shape::kQueries * Shape::kDv];
  T p[Shape::kKeys * Shape::kQueries], d_s[Shape::kKeys * Shape::kQueries];  // [key, query]
  float lse[Shape::kStages][Shape::kQueries], delta[Shape::kStages][Shape::kQueries];
  QueryTile<Shape::kQueries> tiles[4];  // of queries, by their number modulo 4
};

/// Where a key tile lies.
struct KeyTile {
  Sequence sequence;
  std::int64_t block, begin;  // the block among all; the first key in the sequence
  int keys;                   // that there are
  int number, kv_head;        // in the block

  /// How many of the tile's keys a query sees; below 1: none.
  __device__ __forceinline__ std::int64_t visible(const Sequences& all, std::int64_t token) const {
    const std::int64_t seen = num_visible_keys(all, sequence, token - sequence.q_begin) - begin;
    return seen < keys ? seen : keys;
  }
};

/// Goes through the lists of a group's heads, a tile of queries at a time. All threads do alike.
struct ListCursor {
  int head, head_end;
  std::int64_t at = 0, end = 0;

  __device__ __forceinline__ ListCursor(const Problem& p, int kv_head)
      : head(kv_head * p.group - 1), head_end((kv_head + 1) * p.group) {}

  /// Goes to the next list until there is a pick, if there is one.
  __device__ __forceinline__ bool find(const Problem& p, const KeyTile& tile) {
    while (at >= end && head + 1 < head_end) open(p, tile, ++head);
    return at < end;
  }

 private:
  /// Passes over the queries that stand before the tile, within its block.
  __device__ __forceinline__ void open(const Problem& p, const KeyTile& tile, int h) {
    const Selection& s = p.sizes.selection;
    const std::int64_t list = std::int64_t{p.list_head(h)} * s.num_blocks + tile.block;
    at = load_constant(p.lists.offsets + list), end = load_constant(p.lists.offsets + list + 1);
    if (tile.number == 0) return;
    std::int64_t most = end;
    while (at < most) {
      const std::int64_t middle = (at + most) / 2;
      if (tile.visible(s.sequences, p.slots.of(load_constant(p.lists.picks + middle))) > 0)
        most = middle;
      else
        at = middle + 1;
    }
  }
};

/// Starts to copy rows of 16-bit numbers to shared memory: `filled` features of the first `count` rows, zeros
/// elsewhere. token_of(row) is where a row is in `from`, also of the rows that are not copied.
template <int threads, int rows, int features, class T, class TokenOf>
__device__ __forceinline__ void copy_rows(const SharedRows<T, features>& to, const Rows<const T>& from, int head,
                                          int count, int filled, const TokenOf& token_of) {
  constexpr int kChunks = features / 8;
  const T* origin = from.at(0, head);
#pragma unroll
  for (int i = 0; i < rows * kChunks / threads; ++i) {
    const int place = i * threads + thread_number(), row = place / kChunks, chunk = place % kChunks;
    const bool is_there = row < count && chunk * 8 < filled;
    cp_async<16>(to.chunk(row, chunk), origin + token_of(row) * from.token_stride + chunk * 8, is_there ? 16 : 0);
  }
}

/// A thread block's work on a key tile.
template <class T, class Shape>
struct KeyTileWork {
  static constexpr int kQueries = Shape::kQueries;
  // a warp's parts of [keys, queries], [keys, dk], [keys, dv] and [queries, dk], in 16
  static constexpr int kScoresN = kQueries / Shape::kAcross / 16, kDkN = Shape::kDk / Shape::kAcross / 16,
                       kDvN = Shape::kDv / Shape::kAcross / 16, kDqN = Shape::kDk / Shape::kDqAcross / 16;

  const Problem& p;
  const BackwardRows<T>& rows;
  const KeyTile& tile;
  SharedTiles<T, Shape>& shared;
  int key0 = warp_index() / Shape::kAcross * 32;  // the warp's first key
  int across = warp_index() % Shape::kAcross;     // the warp's place among those with its keys

  SharedRows<T, Shape::kDk> k{shared.k};
  SharedRows<T, Shape::kDv> v{shared.v};
  SharedRows<T, kQueries> weights{shared.p}, d_scores{shared.d_s};

  __device__ __forceinline__ SharedRows<T, Shape::kDk> q(int n) const { return {shared.q[n % Shape::kStages]}; }
  __device__ __forceinline__ SharedRows<T, Shape::kDv> d_o(int n) const { return {shared.d_o[n % Shape::kStages]}; }

  __device__ __forceinline__ void copy_keys() const {
    const auto token_of = [&](int row) { return tile.sequence.k_begin + tile.begin + (row < tile.keys ? row : 0); };
    copy_rows<Shape::kThreads, Shape::kKeys>(k, rows.k, tile.kv_head, tile.keys, p.sizes.dk, token_of);
    copy_rows<Shape::kThreads, Shape::kKeys>(v, rows.v, tile.kv_head, tile.keys, p.sizes.dv, token_of);
  }

  /// Starts to copy the picks of tile n, the cursor's next. Later threads see who they are.
  __device__ __forceinline__ void copy_picks(int n, ListCursor& cursor) const {
    QueryTile<kQueries>& queries = shared.tiles[n % 4];
    const bool is_any = cursor.find(p, tile);
    const std::int64_t left = is_any ? cursor.end - cursor.at : 0;
    const int count = left < kQueries ? static_cast<int>(left) : kQueries;
    const int i = thread_number();
    if (i == 0) queries.head = cursor.head, queries.rows = count;
    if (i < kQueries) {
      const bool is_there = i < count;
      cp_async<4>(queries.picks + i, is_there ? p.lists.picks + cursor.at + i : nullptr, is_there ? 4 : 0);
    }
    cursor.at += count;
  }

  /// Starts to gather the rows of tile n, whose picks have arrived. Rows that are not there become zeros, whose dS is 0
  /// and whose P multiplies a zero.
  __device__ __forceinline__ void gather(int n) const {
    const QueryTile<kQueries>& queries = shared.tiles[n % 4];
    const int head = queries.head, count = queries.rows;
    const auto token_of = [&](int row) { return p.slots.of(queries.picks[row]); };
    copy_rows<Shape::kThreads, kQueries>(q(n), rows.q, head, count, p.sizes.dk, token_of);
    copy_rows<Shape::kThreads, kQueries>(d_o(n), rows.d_o, head, count, p.sizes.dv, token_of);
    const int i = thread_number();
    if (i >= kQueries) return;
    const bool is_there = i < count;
    const std::int64_t token = is_there ? p.slots.of(queries.picks[i]) : 0;
    cp_async<4>(shared.lse[n % Shape::kStages] + i, is_there ? rows.lse.at(token, head) : nullptr, is_there ? 4 : 0);
    cp_async<4>(shared.delta[n % Shape::kStages] + i, is_there ? p.deltas + token * p.sizes.heads + head : nullptr,
                is_there ? 4 : 0);
  }

  /// The sums of scores become P, 0 for keys that are not seen.
  __device__ __forceinline__ void weigh(Sums<2, kScoresN>& scores, int n) const {
    const int lane = lane_index(), query0 = across * (16 * kScoresN) + lane % 4 * 2;
    const float to_log2 = p.sizes.scale * kLog2E;
    const float* lse = shared.lse[n % Shape::kStages];
    const QueryTile<kQueries>& queries = shared.tiles[n % 4];
    const Sequences& sequences = p.sizes.selection.sequences;
    const bool all_seen = tile.visible(sequences, p.slots.of(queries.picks[0])) == Shape::kKeys;  // the least of all
#pragma unroll
    for (int j = 0; j < 2 * kScoresN; ++j)
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int query = query0 + 8 * j + column;
        const float given = lse[query], lse_log2 = given == -INFINITY ? INFINITY : given * kLog2E;
        const int seen = all_seen ? Shape::kKeys
                                  : static_cast<int>(tile.visible(sequences, p.slots.of(queries.picks[query])) - key0);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& score = scores[i][j][2 * half + column];
            score = exp2_approx(score * to_log2 - lse_log2);
            if (!all_seen && 16 * i + 8 * half + lane / 4 >= seen) score = 0;
          }
      }
  }

  /// The sums of do v^T become dS.
  __device__ __forceinline__ void differentiate(Sums<2, kScoresN>& d_weights, const Sums<2, kScoresN>& w, int n) const {
    const int query0 = across * (16 * kScoresN) + lane_index() % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2 * kScoresN; ++j) {
      const Pair delta = *reinterpret_cast<const Pair*>(shared.delta[n % Shape::kStages] + query0 + 8 * j);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int number = 0; number < 4; ++number)
          d_weights[i][j][number] = w[i][j][number] * (d_weights[i][j][number] - (number % 2 ? delta.high : delta.low));
    }
  }

  /// Rounds a warp's part of [keys, queries] and stores it.
  __device__ __forceinline__ void store(const SharedRows<T, kQueries>& to, const Sums<2, kScoresN>& sums) const {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2 * kScoresN; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          T* at = to.chunk(key0 + 16 * i + 8 * half + lane / 4, across * (2 * kScoresN) + j) + lane % 4 * 2;
          *reinterpret_cast<std::uint32_t*>(at) = pack<T>(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
        }
  }

  /// P and dS of tile n, to shared memory.
  __device__ __forceinline__ void score(int n) const {
    const int query0 = across * (16 * kScoresN);
    const auto keys = k.down(key0, 0), queries = q(n).beside(query0, 0);
    const auto values = v.down(key0, 0);
    const auto d_outputs = d_o(n).beside(query0, 0);
    Sums<2, kScoresN> w, d_w;
    clear<2, kScoresN>(w);
    multiply<T, Shape::kDk, 2, kScoresN>(
        w, [&](auto& a, int row, int at) { ldmatrix(a, keys.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix(b, queries.at(column, at)); });
    weigh(w, n);
    store(weights, w);
    clear<2, kScoresN>(d_w);
    multiply<T, Shape::kDv, 2, kScoresN>(
        d_w, [&](auto& a, int row, int at) { ldmatrix(a, values.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix(b, d_outputs.at(column, at)); });
    differentiate(d_w, w, n);
    store(d_scores, d_w);
  }

  /// dV += P^T dO and dK += dS^T Q over tile n.
  __device__ __forceinline__ void add_key_gradients(Sums<2, kDkN>& dk, Sums<2, kDvN>& dv, int n) const {
    const auto w = weights.down(key0, 0), d_s = d_scores.down(key0, 0);
    const auto d_outputs = d_o(n).down(0, 16 * across);
    const auto queries = q(n).down(0, 16 * across);
    multiply<T, kQueries, 2, kDvN>(
        dv, [&](auto& a, int row, int at) { ldmatrix(a, w.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix_transposed(b, d_outputs.at(at, column * Shape::kAcross)); });
    multiply<T, kQueries, 2, kDkN>(
        dk, [&](auto& a, int row, int at) { ldmatrix(a, d_s.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix_transposed(b, queries.at(at, column * Shape::kAcross)); });
  }

  /// dS K of tile n, to the parts of dq.
  __device__ __forceinline__ void write_query_gradients(int n) const {
    const int lane = lane_index(), query0 = warp_index() / Shape::kDqAcross * 32,
              d0 = warp_index() % Shape::kDqAcross * 16;
    const auto d_s = d_scores.beside(0, query0);
    const auto keys = k.down(0, d0);
    Sums<2, kDqN> dq;
    clear<2, kDqN>(dq);
    multiply<T, Shape::kKeys, 2, kDqN>(
        dq, [&](auto& a, int row, int at) { ldmatrix_transposed(a, d_s.at(at, row)); },
        [&](auto& b, int at, int column) { ldmatrix_transposed(b, keys.at(at, column * Shape::kDqAcross)); });
    const QueryTile<kQueries>& queries = shared.tiles[n % 4];
    float* parts = p.dq_parts_of(queries.head) + tile.number * p.sizes.dk;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = query0 + 16 * i + 8 * half + lane / 4;
        if (query >= queries.rows) continue;
        float* part = parts + std::int64_t{queries.picks[query]} * (p.tiles * p.sizes.dk);
#pragma unroll
        for (int j = 0; j < 2 * kDqN; ++j) {
          const int d = d0 + j / 2 * (16 * Shape::kDqAcross) + j % 2 * 8 + lane % 4 * 2;
          if (d < p.sizes.dk) *reinterpret_cast<Pair*>(part + d) = {dq[i][j][2 * half], dq[i][j][2 * half + 1]};
        }
      }
  }

  /// Writes a warp's part of dk or dv.
  template <int n>
  __device__ __forceinline__ void write_key_gradients(const Sums<2, n>& sums, const Rows<T>& to, int features,
                                                      float factor) const {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = key0 + 16 * i + 8 * half + lane / 4;
        if (key >= tile.keys) continue;
        T* row = to.at(tile.sequence.k_begin + tile.begin + key, tile.kv_head);
#pragma unroll
        for (int j = 0; j < 2 * n; ++j) {
          const int d = 16 * across + j / 2 * (16 * Shape::kAcross) + j % 2 * 8 + lane % 4 * 2;
          if (d < features)
            *reinterpret_cast<std::uint32_t*>(row + d) =
                pack<T>(factor * sums[i][j][2 * half], factor * sums[i][j][2 * half + 1]);
        }
      }
  }
};

/// The key tile of a thread block: heads run fastest, so that the first blocks, which have the longest lists, come
/// first.
template <class Shape>
__device__ __forceinline__ KeyTile key_tile_of(const Problem& p, std::int64_t thread_block) {
  const Selection& s = p.sizes.selection;
  const int kv_head = p.chunk.kv_begin + static_cast<int>(thread_block % p.chunk.kv_count);
  const std::int64_t rest = thread_block / p.chunk.kv_count, block = rest / p.tiles;
  const int number = static_cast<int>(rest % p.tiles);
  const Sequence sequence = sequence_of(s.sequences, s.block_offsets, block);
  const std::int64_t block_begin = (block - s.block_offsets[sequence.index]) * s.block;
  const std::int64_t block_end = block_begin + s.block < sequence.num_keys ? block_begin + s.block : sequence.num_keys;
  const std::int64_t begin = block_begin + std::int64_t{number} * Shape::kKeys;
  const std::int64_t keys = block_end - begin < Shape::kKeys ? block_end - begin : Shape::kKeys;
  return {sequence, block, begin, static_cast<int>(keys), number, kv_head};
}

// A thread block owns a key tile of a key/value head, and goes through the lists of its query heads, 64 queries at a
// time. Shared memory: SharedTiles, 162 KB for 128 keys of 128 features; q and do are gathered one tile ahead, picks
// two. A warp owns of dk and dv [keys, dim], in registers, and of P and dS [keys, queries], 32 keys and a run of
// columns; of dq [queries, dk] 32 queries and a run of columns. Rows are aligned to 16 bytes.
template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    attend_key_tiles(Problem p, BackwardRows<T> rows, Rows<T> dk, Rows<T> dv) {
  const KeyTile tile = key_tile_of<Shape>(p, block_index().x);
  if (tile.keys <= 0) return;
  auto& shared = *dynamic_shared<SharedTiles<T, Shape>>();
  using Work = KeyTileWork<T, Shape>;
  const Work work{p, rows, tile, shared};
  Sums<2, Work::kDkN> dk_sums;
  Sums<2, Work::kDvN> dv_sums;
  clear<2, Work::kDkN>(dk_sums);
  clear<2, Work::kDvN>(dv_sums);

  // phase 1 - keys, values and the first picks
  ListCursor cursor(p, tile.kv_head);
  work.copy_keys();
  work.copy_picks(0, cursor);
  work.copy_picks(1, cursor);
  cp_async_wait_all();
  sync_threads();
  work.gather(0);

  for (int n = 0; shared.tiles[n % 4].rows > 0; ++n) {
    // phase 2 - the tile arrives, the next is sent for
    cp_async_wait_all();
    sync_threads();
    if constexpr (Shape::kStages == 2) work.gather(n + 1);
    work.copy_picks(n + 2, cursor);

    // phase 3 - P and dS
    work.score(n);
    sync_threads();

    // phase 4 - gradients
    work.add_key_gradients(dk_sums, dv_sums, n);
    work.write_query_gradients(n);
    if constexpr (Shape::kStages == 1) {
      sync_threads();
      work.gather(n + 1);
    }
  }

  // phase 5 - dk and dv
  cp_async_wait_all();
  work.template write_key_gradients<Work::kDkN>(dk_sums, dk, p.sizes.dk, p.sizes.scale);
  work.template write_key_gradients<Work::kDvN>(dv_sums, dv, p.sizes.dv, 1);
}

// ---- dq ----

/// Four features of a row.
struct alignas(16) Four {
  float numbers[4];
};
struct alignas(8) PackedFour {
  std::uint32_t pairs[2];
};

/// Whether a part of a query row was written: its block was chosen, and not all of its key tile is in the future.
__device__ __forceinline__ bool has_part(const Problem& p, const std::int32_t* chosen, std::int64_t visible,
                                         int tile_keys, int part) {
  if (part >= p.sizes.selection.slots * p.tiles) return false;
  const std::int64_t block = load_constant(chosen + part / p.tiles);
  return block >= 0 && block * p.sizes.selection.block + std::int64_t{part % p.tiles} * tile_keys < visible;
}

// A warp owns a row (token, head) of the chunk, four features a lane; dk is a multiple of 8. Parts are added in order.
template <class T>
__global__ void merge_query_gradients(Problem p, int tile_keys, Rows<T> dq) {
  const Selection& s = p.sizes.selection;
  const int heads = p.chunk.kv_count * p.group, row = block_index().x * (kRowThreads / kWarpLanes) + warp_index();
  const int token = row / heads, h = p.chunk.kv_begin * p.group + row % heads;
  if (token >= s.num_queries) return;
  const Sequence sequence = sequence_of(s.sequences, s.sequences.q_offsets, token);
  const std::int64_t visible = num_visible_keys(s.sequences, sequence, token - sequence.q_begin);
  const std::int32_t* chosen = s.chosen + (std::int64_t{token} * s.heads + p.list_head(h)) * s.slots;
  const int num_parts = static_cast<int>(s.slots) * p.tiles;
  const float* parts = p.dq_parts_of(h) + std::int64_t{token} * num_parts * p.sizes.dk;
  for (int features = 0; features < p.sizes.dk; features += 4 * kWarpLanes) {
    const int d = features + 4 * lane_index();
    const bool is_mine = d < p.sizes.dk;
    Four sums{};
    for (int first = 0; first < num_parts; first += kWarpLanes) {
      std::uint32_t there = ballot(has_part(p, chosen, visible, tile_keys, first + lane_index()));
      while (there != 0) {
        constexpr int kAtOnce = 8;
        Four loaded[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          loaded[i] = {};
          if (there != 0 && is_mine)
            loaded[i] =
                *reinterpret_cast<const Four*>(parts + std::int64_t{first + lowest_bit(there)} * p.sizes.dk + d);
          there &= there - 1;
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
          for (int number = 0; number < 4; ++number) sums.numbers[number] += loaded[i].numbers[number];
      }
    }
    for (float& sum : sums.numbers) sum *= p.sizes.scale;
    if (is_mine)
      *reinterpret_cast<PackedFour*>(dq.at(token, h) + d) = {
          {pack<T>(sums.numbers[0], sums.numbers[1]), pack<T>(sums.numbers[2], sums.numbers[3])}};
  }
}

// ---- host ----

/// Calls use(shape) with the smallest tile that has the features; half of the keys where blocks or rows ask for it.
template <class Use>
void with_shape(const BackwardProblem& p, const Use& use) {
  const bool is_long = p.selection.block > 64;
  if (p.dk <= 64 && p.dv <= 64) return is_long ? use(TileShape<128, 64, 64>{}) : use(TileShape<64, 64, 64>{});
  if (p.dk <= 128 && p.dv <= 128) return is_long ? use(TileShape<128, 128, 128>{}) : use(TileShape<64, 128, 128>{});
  if (p.dk <= 192 && p.dv <= 128) return use(TileShape<64, 192, 128>{});
  use(TileShape<64, 256, 256>{});
}

int keys_of_tile(const BackwardProblem& p) {
  int keys = 0;
  with_shape(p, [&](auto shape) { keys = decltype(shape)::kKeys; });
  return keys;
}

int tiles_of_block(const BackwardProblem& p) {
  return static_cast<int>((p.selection.block + keys_of_tile(p) - 1) / keys_of_tile(p));
}

/// The parts of dq of one head, in numbers.
std::int64_t parts_of_head(const BackwardProblem& p) {
  return p.selection.num_queries * p.selection.slots * tiles_of_block(p) * p.dk;
}

/// Key/value heads that go together: as many as keep the parts of dq within one and a half times q, k, v and o, or
/// within a gigabyte; at least one.
int heads_of_chunk(const BackwardProblem& p) {
  const std::int64_t tokens = std::max(p.selection.num_queries, p.selection.num_blocks * p.selection.block);
  const std::int64_t tensors = 2 * tokens * (p.heads + p.kv_heads) * (p.dk + p.dv);
  const std::int64_t bytes = std::max(tensors + tensors / 2, std::int64_t{1} << 30);
  const std::int64_t of_kv_head = parts_of_head(p) * (p.heads / p.kv_heads) * 4;
  const std::int64_t most = std::clamp<std::int64_t>(bytes / std::max<std::int64_t>(of_kv_head, 1), 1, p.kv_heads);
  const std::int64_t chunks = (p.kv_heads + most - 1) / most;
  return static_cast<int>((p.kv_heads + chunks - 1) / chunks);
}

/// Blocks in which so many lanes own a row.
LaunchShape rows_shape(std::int64_t rows, int lanes) {
  return {{static_cast<int>((rows * lanes + kRowThreads - 1) / kRowThreads)}, {kRowThreads}};
}

}  // namespace

bool can_attend_backward(const BackwardProblem& p) {
  return p.dk % 8 == 0 && p.dv % 8 == 0 && p.dk <= 256 && p.dv <= 256 &&
         p.selection.num_queries * p.heads < kMostRows && can_list_queries(p.selection);
}

BackwardScratch take_backward_scratch(Workspace& workspace, const BackwardProblem& p) {
  BackwardScratch scratch{};
  scratch.lists = take_query_lists(workspace, p.selection);
  scratch.deltas = workspace.take<float>(p.selection.num_queries * p.heads);
  scratch.dq_parts = workspace.take<float>(parts_of_head(p) * (p.heads / p.kv_heads) * heads_of_chunk(p));
  return scratch;
}

template <class T>
void attend_backward(const BackwardProblem& p, const BackwardRows<T>& rows, const Gradients<T>& to,
                     const BackwardScratch& scratch, void* stream) {
  const std::int64_t query_rows = p.selection.num_queries * p.heads;
  list_queries(p.selection, scratch.lists, stream);
  if (query_rows > 0)
    launch(sum_deltas<T>, rows_shape(query_rows, kWarpLanes / 2), stream, static_cast<int>(p.selection.num_queries),
           p.heads, p.dv, rows.o, rows.d_o, scratch.deltas);
  Problem problem{p,
                  scratch.lists,
                  scratch.deltas,
                  scratch.dq_parts,
                  Divider(std::max<std::int64_t>(p.selection.slots, 1)),
                  p.heads / p.kv_heads,
                  tiles_of_block(p),
                  {0, 0}};
  for (int begin = 0; begin < p.kv_heads; begin += problem.chunk.kv_count) {
    problem.chunk = {begin, std::min(heads_of_chunk(p), p.kv_heads - begin)};
    const std::int64_t key_tiles = p.selection.num_blocks * problem.tiles * problem.chunk.kv_count;
    const std::int64_t dq_rows = p.selection.num_queries * problem.chunk.kv_count * (p.heads / p.kv_heads);
    if (key_tiles > 0)
      with_shape(p, [&](auto shape) {
        using Shape = decltype(shape);
        launch(attend_key_tiles<T, Shape>,
               {{static_cast<int>(key_tiles)}, {Shape::kThreads}, sizeof(SharedTiles<T, Shape>)}, stream, problem, rows,
               to.dk, to.dv);
      });
    if (dq_rows > 0)
      launch(merge_query_gradients<T>, rows_shape(dq_rows, kWarpLanes), stream, problem, keys_of_tile(p), to.dq);
  }
}

#define ATTNSPEC_INSTANTIATE(T)                                                                         \
  template void attend_backward<T>(const BackwardProblem&, const BackwardRows<T>&, const Gradients<T>&, \
                                   const BackwardScratch&, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
