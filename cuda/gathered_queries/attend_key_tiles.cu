// A key tile's part of the backward, with P = exp(scale q k^T - lse) and dS = P (do v^T - delta): dk = scale dS^T q,
// dv = P^T do, and of dq the part dS k for every assignment.
//
// q, do [query tokens, H, dim], k, v [key tokens, Hkv, dim], any token and head strides that keep rows on multiples of
// 16 bytes; assignments as in query_lists.hpp; parts of dq, and segments of long lists, as in backward_stages.cuh.
//
// A thread block owns a key tile of a key/value head, and goes through the lists of its query heads, a tile of queries
// at a time; or it owns a segment of them. A warp owns of dk and dv [keys, dim], in registers, and of P and dS [keys,
// queries], 32 keys (16 of small tiles) and a run of columns; of dq [queries, dk] as many queries and a run of columns.
// Picks are loaded two tiles ahead, q and do one, if shared memory has room. Shared memory: SharedTiles, 162 KB for 128
// keys of 128 features.
#include <cmath>
#include <cstdint>

#include "cuda/fragments.cuh"
#include "cuda/gathered_queries/backward_stages.cuh"
#include "cuda/primitives/atomic.cuh"
#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/matrix.cuh"
#include "cuda/primitives/memory.cuh"
#include "cuda/primitives/numbers.cuh"
#include "cuda/primitives/thread.cuh"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries {

namespace {

constexpr float kLog2E = 1.44269504f;
/// Two neighbours in fp32.
struct alignas(8) Pair {
  float low, high;
};

/// How a thread block works on a tile of `keys` and `queries`, with features padded to dk and dv; `stages` tiles of
/// queries lie in shared memory.
template <int keys, int queries, int dk, int dv, int stages>
struct TileShape {
  static constexpr int kKeys = keys, kQueries = queries, kDk = dk, kDv = dv, kStages = stages;
  // Warps split [keys, x] in runs of keys, and [queries, dk] in runs of queries. Features go to those that are left by
  // turns, 16 at a time.
  static constexpr int kRun = keys < 64 ? 16 : 32, kRun16 = kRun / 16;
  static constexpr int kWarps = keys < 64 ? 4 : 8, kThreads = kWarps * kWarpLanes;
  static constexpr int kKeyWarps = keys / kRun, kAcross = kWarps / kKeyWarps;
  static constexpr int kQueryWarps = queries / kRun, kDqAcross = kWarps / kQueryWarps;
  static constexpr int kBlocks = keys == 64 && dk + dv <= 128 ? 2 : 1;  // on a multiprocessor at a time
  static constexpr int kScoreColumns = queries < 64 ? 64 : queries;     // of P and dS, with those that are not used
};

/// What is known of the rows of a tile of queries.
template <int queries>
struct QueryTile {
  int head, rows;
  int assignments[queries];
};

/// Dynamic shared memory.
template <class T, class Shape>
struct SharedTiles {
  T k[Shape::kKeys * Shape::kDk], v[Shape::kKeys * Shape::kDv];
  T q[Shape::kStages][Shape::kQueries * Shape::kDk], d_o[Shape::kStages][Shape::kQueries * Shape::kDv];
  T p[Shape::kKeys * Shape::kScoreColumns], d_s[Shape::kKeys * Shape::kScoreColumns];  // [key, query]
  float lse[Shape::kStages][Shape::kQueries], delta[Shape::kStages][Shape::kQueries];
  QueryTile<Shape::kQueries> tiles[4];  // of queries, by their number modulo 4
};

/// Goes through a share's assignments, a tile of queries at a time. All threads do alike.
struct ListCursor {
  int head;   // whose list is open
  int begin;  // of the next head's list, counted in assignments from the share's first
  const std::int32_t* assignments = nullptr;
  int left = 0;  // in the open list

  __device__ __forceinline__ ListCursor(const Problem& p, const Share& share)
      : head(share.kv_head * p.group - 1), begin(-share.number * kSegmentAssignments) {}

  /// Goes to the next list until there is a assignment, if there is one.
  __device__ __forceinline__ void find(const Problem& p, const KeyTile& tile) {
    while (left <= 0 && begin < kSegmentAssignments && head + 1 < (tile.kv_head + 1) * p.group) open(p, tile, ++head);
  }

 private:
  /// The share's part of a head's list, without the queries that stand before the tile, within its block.
  __device__ __forceinline__ void open(const Problem& p, const KeyTile& tile, int h) {
    const Selection& s = p.sizes.selection;
    const std::int64_t* list = p.lists.offsets + std::int64_t{p.list_head(h)} * s.num_blocks + tile.block;
    const std::int64_t offset = load_constant(list);
    const int count = static_cast<int>(load_constant(list + 1) - offset);
    int first = begin < 0 ? -begin : 0;
    const int end = count < kSegmentAssignments - begin ? count : kSegmentAssignments - begin;
    begin += count;
    assignments = p.lists.assignments + offset;
    if (tile.number > 0) {
      for (int most = end; first < most;) {
        const int middle = (first + most) / 2;
        if (tile.visible(s.sequences, p.slots.of(load_constant(assignments + middle))) > 0)
          most = middle;
        else
          first = middle + 1;
      }
    }
    assignments += first;
    left = end - first;
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

/// A thread block's work on a key tile; adds_dq: QueryGradients::added, else merged.
template <class T, class Shape, bool adds_dq>
struct KeyTileWork {
  static constexpr int kQueries = Shape::kQueries, kM = Shape::kRun16;
  // columns of a warp's parts of [keys, queries], [keys, dk], [keys, dv] and [queries, dk], in 16
  static constexpr int kScoresN = kQueries / Shape::kAcross / 16, kDkN = Shape::kDk / Shape::kAcross / 16,
                       kDvN = Shape::kDv / Shape::kAcross / 16, kDqN = Shape::kDk / Shape::kDqAcross / 16;

  const Problem& p;
  const BackwardRows<T>& rows;
  const KeyTile& tile;
  SharedTiles<T, Shape>& shared;
  int key0 = warp_index() / Shape::kAcross * Shape::kRun;  // the warp's first key
  int across = warp_index() % Shape::kAcross;              // the warp's place among those with its keys

  SharedRows<T, Shape::kDk> k{shared.k};
  SharedRows<T, Shape::kDv> v{shared.v};
  SharedRows<T, Shape::kScoreColumns> weights{shared.p}, d_scores{shared.d_s};

  __device__ __forceinline__ SharedRows<T, Shape::kDk> q(int n) const { return {shared.q[n % Shape::kStages]}; }
  __device__ __forceinline__ SharedRows<T, Shape::kDv> d_o(int n) const { return {shared.d_o[n % Shape::kStages]}; }

  __device__ __forceinline__ void copy_keys() const {
    const auto token_of = [&](int row) { return tile.first_key + (row < tile.keys ? row : 0); };
    copy_rows<Shape::kThreads, Shape::kKeys>(k, rows.k, tile.kv_head, tile.keys, p.sizes.dk, token_of);
    copy_rows<Shape::kThreads, Shape::kKeys>(v, rows.v, tile.kv_head, tile.keys, p.sizes.dv, token_of);
  }

  /// Starts to copy the assignments of tile n, the cursor's next. Later threads see who they are.
  __device__ __forceinline__ void copy_assignments(int n, ListCursor& cursor) const {
    QueryTile<kQueries>& queries = shared.tiles[n % 4];
    cursor.find(p, tile);
    const int count = cursor.left < 0 ? 0 : cursor.left < kQueries ? cursor.left : kQueries;
    const int i = thread_number();
    if (i == 0) queries.head = cursor.head, queries.rows = count;
    if (i < kQueries) {
      const bool is_there = i < count;
      cp_async<4>(queries.assignments + i, is_there ? cursor.assignments + i : nullptr, is_there ? 4 : 0);
    }
    cursor.assignments += count, cursor.left -= count;
  }

  /// Starts to gather the rows of tile n, whose assignments have arrived. Rows that are not there become zeros, whose
  /// dS is 0 and whose P multiplies a zero.
  __device__ __forceinline__ void gather(int n) const {
    const QueryTile<kQueries>& queries = shared.tiles[n % 4];
    const int head = queries.head, count = queries.rows;
    const auto token_of = [&](int row) { return p.slots.of(queries.assignments[row]); };
    copy_rows<Shape::kThreads, kQueries>(q(n), rows.q, head, count, p.sizes.dk, token_of);
    copy_rows<Shape::kThreads, kQueries>(d_o(n), rows.d_o, head, count, p.sizes.dv, token_of);
    const int i = thread_number();
    if (i >= kQueries) return;
    const bool is_there = i < count;
    const std::int64_t token = is_there ? p.slots.of(queries.assignments[i]) : 0;
    cp_async<4>(shared.lse[n % Shape::kStages] + i, is_there ? rows.lse.at(token, head) : nullptr, is_there ? 4 : 0);
    cp_async<4>(shared.delta[n % Shape::kStages] + i, is_there ? p.deltas + token * p.sizes.heads + head : nullptr,
                is_there ? 4 : 0);
  }

  /// The sums of scores become P, 0 for keys that are not seen.
  __device__ __forceinline__ void weigh(Sums<kM, kScoresN>& scores, int n) const {
    const int lane = lane_index(), query0 = across * (16 * kScoresN) + lane % 4 * 2;
    const float to_log2 = p.sizes.scale * kLog2E;
    const float* lse = shared.lse[n % Shape::kStages];
    const QueryTile<kQueries>& queries = shared.tiles[n % 4];
    const Sequences& sequences = p.sizes.selection.sequences;
    const bool all_seen =
        tile.visible(sequences, p.slots.of(queries.assignments[0])) == Shape::kKeys;  // the least of all
#pragma unroll
    for (int j = 0; j < 2 * kScoresN; ++j)
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int query = query0 + 8 * j + column;
        const float given = lse[query], lse_log2 = given == -INFINITY ? INFINITY : given * kLog2E;
        const int seen = all_seen
                             ? Shape::kKeys
                             : static_cast<int>(tile.visible(sequences, p.slots.of(queries.assignments[query])) - key0);
#pragma unroll
        for (int i = 0; i < kM; ++i)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& score = scores[i][j][2 * half + column];
            score = exp2_approx(score * to_log2 - lse_log2);
            if (!all_seen && 16 * i + 8 * half + lane / 4 >= seen) score = 0;
          }
      }
  }

  /// The sums of do v^T become dS.
  __device__ __forceinline__ void differentiate(Sums<kM, kScoresN>& d_weights, const Sums<kM, kScoresN>& w,
                                                int n) const {
    const int query0 = across * (16 * kScoresN) + lane_index() % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2 * kScoresN; ++j) {
      const Pair delta = *reinterpret_cast<const Pair*>(shared.delta[n % Shape::kStages] + query0 + 8 * j);
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int number = 0; number < 4; ++number)
          d_weights[i][j][number] = w[i][j][number] * (d_weights[i][j][number] - (number % 2 ? delta.high : delta.low));
    }
  }

  /// Rounds a warp's part of [keys, queries] and stores it.
  __device__ __forceinline__ void store(const SharedRows<T, Shape::kScoreColumns>& to,
                                        const Sums<kM, kScoresN>& sums) const {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < kM; ++i)
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
    Sums<kM, kScoresN> w, d_w;
    clear<kM, kScoresN>(w);
    multiply<T, Shape::kDk, kM, kScoresN>(
        w, [&](auto& a, int row, int at) { ldmatrix(a, keys.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix(b, queries.at(column, at)); });
    weigh(w, n);
    store(weights, w);
    clear<kM, kScoresN>(d_w);
    multiply<T, Shape::kDv, kM, kScoresN>(
        d_w, [&](auto& a, int row, int at) { ldmatrix(a, values.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix(b, d_outputs.at(column, at)); });
    differentiate(d_w, w, n);
    store(d_scores, d_w);
  }

  /// dV += P^T dO and dK += dS^T Q over tile n.
  __device__ __forceinline__ void add_key_gradients(Sums<kM, kDkN>& dk, Sums<kM, kDvN>& dv, int n) const {
    const auto w = weights.down(key0, 0), d_s = d_scores.down(key0, 0);
    const auto d_outputs = d_o(n).down(0, 16 * across);
    const auto queries = q(n).down(0, 16 * across);
    multiply<T, kQueries, kM, kDvN>(
        dv, [&](auto& a, int row, int at) { ldmatrix(a, w.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix_transposed(b, d_outputs.at(at, column * Shape::kAcross)); });
    multiply<T, kQueries, kM, kDkN>(
        dk, [&](auto& a, int row, int at) { ldmatrix(a, d_s.at(row, at)); },
        [&](auto& b, int at, int column) { ldmatrix_transposed(b, queries.at(at, column * Shape::kAcross)); });
  }

  /// dS K of tile n, to the parts of dq, or added to them.
  __device__ __forceinline__ void write_query_gradients(int n) const {
    const int query0 = warp_index() / Shape::kDqAcross * Shape::kRun, d0 = warp_index() % Shape::kDqAcross * 16;
    const auto d_s = d_scores.beside(0, query0);
    const auto keys = k.down(0, d0);
    Sums<kM, kDqN> dq;
    clear<kM, kDqN>(dq);
    multiply<T, Shape::kKeys, kM, kDqN>(
        dq, [&](auto& a, int row, int at) { ldmatrix_transposed(a, d_s.at(at, row)); },
        [&](auto& b, int at, int column) { ldmatrix_transposed(b, keys.at(at, column * Shape::kDqAcross)); });
    const QueryTile<kQueries>& queries = shared.tiles[n % 4];
    float* parts = p.dq_parts_of(queries.head) + (adds_dq ? 0 : tile.number * p.sizes.dk);
    const int stride = adds_dq ? p.sizes.dk : p.tiles * p.sizes.dk;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = query0 + 16 * i + 8 * half + lane_index() / 4;
        if (query >= queries.rows) continue;
        const int assignment = queries.assignments[query];
        float* part = parts + std::int64_t{adds_dq ? p.slots.of(assignment) : assignment} * stride;
#pragma unroll
        for (int j = 0; j < 2 * kDqN; ++j) {
          const int d = d0 + j / 2 * (16 * Shape::kDqAcross) + j % 2 * 8 + lane_index() % 4 * 2;
          const float low = dq[i][j][2 * half], high = dq[i][j][2 * half + 1];
          if (d >= p.sizes.dk) continue;
          if constexpr (adds_dq)
            atomic_add_pair(part + d, low, high);
          else
            *reinterpret_cast<Pair*>(part + d) = {low, high};
        }
      }
  }

  /// Calls put(key, d, low, high) for the pairs of a warp's part of dk or dv.
  template <int n, class Put>
  __device__ __forceinline__ void for_each_pair(const Sums<kM, n>& sums, int features, const Put& put) const {
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = key0 + 16 * i + 8 * half + lane / 4;
        if (key >= tile.keys) continue;
#pragma unroll
        for (int j = 0; j < 2 * n; ++j) {
          const int d = 16 * across + j / 2 * (16 * Shape::kAcross) + j % 2 * 8 + lane % 4 * 2;
          if (d < features) put(key, d, sums[i][j][2 * half], sums[i][j][2 * half + 1]);
        }
      }
  }

  /// Writes a warp's part of dk or dv.
  template <int n>
  __device__ __forceinline__ void write_key_gradients(const Sums<kM, n>& sums, const Rows<T>& to, int features,
                                                      float factor) const {
    T* rows_of_tile = to.at(tile.first_key, tile.kv_head);
    for_each_pair<n>(sums, features, [&](int key, int d, float low, float high) {
      *reinterpret_cast<std::uint32_t*>(rows_of_tile + key * to.token_stride + d) =
          pack<T>(factor * low, factor * high);
    });
  }

  /// Writes a warp's part of the sums of a segment, whose rows begin at `to`.
  template <int n>
  __device__ __forceinline__ void write_sums(const Sums<kM, n>& sums, float* to, int features) const {
    const int stride = p.sizes.dk + p.sizes.dv;
    for_each_pair<n>(sums, features, [&](int key, int d, float low, float high) {
      *reinterpret_cast<Pair*>(to + key * stride + d) = {low, high};
    });
  }
};

template <class T, class Shape, bool adds_dq>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    attend_shares(Problem p, BackwardRows<T> rows, Rows<T> dk, Rows<T> dv) {
  const Share share = share_of(p, block_index().x);
  if (share.tile < 0) return;
  const KeyTile tile = key_tile_of(p, share);
  if (tile.keys <= 0) return;
  auto& shared = *dynamic_shared<SharedTiles<T, Shape>>();
  using Work = KeyTileWork<T, Shape, adds_dq>;
  const Work work{p, rows, tile, shared};
  Sums<Work::kM, Work::kDkN> dk_sums;
  Sums<Work::kM, Work::kDvN> dv_sums;
  clear<Work::kM, Work::kDkN>(dk_sums);
  clear<Work::kM, Work::kDvN>(dv_sums);

  // phase 1 - keys, values and the first assignments
  ListCursor cursor(p, share);
  work.copy_keys();
  work.copy_assignments(0, cursor);
  work.copy_assignments(1, cursor);
  cp_async_wait_all();
  sync_threads();
  work.gather(0);

  for (int n = 0; shared.tiles[n % 4].rows > 0; ++n) {
    // phase 2 - the tile arrives, the next is sent for
    cp_async_wait_all();
    sync_threads();
    if constexpr (Shape::kStages == 2) work.gather(n + 1);
    work.copy_assignments(n + 2, cursor);

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
  if (share.segment < 0) {
    work.template write_key_gradients<Work::kDkN>(dk_sums, dk, p.sizes.dk, p.sizes.scale);
    work.template write_key_gradients<Work::kDvN>(dv_sums, dv, p.sizes.dv, 1);
  } else {
    float* sums = p.segment_sums(share);
    work.template write_sums<Work::kDkN>(dk_sums, sums, p.sizes.dk);
    work.template write_sums<Work::kDvN>(dv_sums, sums + p.sizes.dk, p.sizes.dv);
  }
}

/// Calls use(shape) with the smallest tile that has the features, half of the keys where blocks are short; and with one
/// that fits 99 KB where the device has less shared memory than 163 KB.
template <class Use>
void with_shape(const BackwardProblem& p, const Use& use) {
  const auto use_what_fits = [&]<class Large, class Small>(Large large, Small small) {
    static_assert(sizeof(SharedTiles<bf16, Large>) <= 163 * 1024 && sizeof(SharedTiles<bf16, Small>) <= 99 * 1024);
    if (max_shared_bytes() >= sizeof(SharedTiles<bf16, Large>)) return use(large);
    use(small);
  };
  const bool is_long = p.selection.block > 64;
  if (p.dk <= 64 && p.dv <= 64)
    return is_long ? use(TileShape<128, 64, 64, 64, 2>{}) : use(TileShape<64, 64, 64, 64, 2>{});
  constexpr TileShape<64, 64, 128, 128, 1> small_128;
  constexpr TileShape<32, 32, 256, 256, 1> small_256;
  if (p.dk <= 128 && p.dv <= 128)
    return is_long ? use_what_fits(TileShape<128, 64, 128, 128, 2>{}, small_128)
                   : use_what_fits(TileShape<64, 64, 128, 128, 2>{}, small_128);
  if (p.dk <= 192 && p.dv <= 128) return use_what_fits(TileShape<64, 64, 192, 128, 2>{}, small_256);
  use_what_fits(TileShape<64, 64, 256, 256, 1>{}, small_256);
}

}  // namespace

int keys_of_tile(const BackwardProblem& p) {
  if (is_by_caller(p.dq)) return kSharedTileKeys;
  int keys = 0;
  with_shape(p, [&](auto shape) { keys = decltype(shape)::kKeys; });
  return keys;
}

template <class T>
void attend_key_tiles(const Problem& p, const BackwardRows<T>& rows, Rows<T> dk, Rows<T> dv, void* stream) {
  const std::int64_t tiles = p.segments.max * p.tiles + p.sizes.selection.num_blocks * p.tiles * p.chunk.kv_count;
  if (p.sizes.selection.num_blocks == 0) return;
  with_shape(p.sizes, [&](auto shape) {
    using Shape = decltype(shape);
    const LaunchShape launch_shape{{static_cast<int>(tiles)}, {Shape::kThreads}, sizeof(SharedTiles<T, Shape>)};
    const auto kernel =
        p.sizes.dq == QueryGradients::added ? attend_shares<T, Shape, true> : attend_shares<T, Shape, false>;
    launch(kernel, launch_shape, stream, p, rows, dk, dv);
  });
}

#define ATTNSPEC_INSTANTIATE(T) \
  template void attend_key_tiles<T>(const Problem&, const BackwardRows<T>&, Rows<T>, Rows<T>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::gathered_queries
