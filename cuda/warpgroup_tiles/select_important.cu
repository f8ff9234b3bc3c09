// NSA's selection (see query_tiles) with products of warpgroups: the importance of a block to a query is p' = sum over
// the heads of the group and the compressed rows i that overlap it of |tokens in both| / stride exp(scale <q, k_i> -
// lse), and of the blocks that are not forced a query takes those of most importance, of equal ones the earlier.
// Neither scores nor importances are written to memory.
//
// q [query tokens, H, dk], k [compressed rows, Hkv, dk], rows on multiples of 16 bytes; lse [query tokens, H, 1];
// selection [query tokens, Hkv, slots]. A query has 2^n rows here, 64 at most, those behind the heads of its group
// empty. A thread block owns 256 rows of a key/value head and goes through the compressed rows that some of them see,
// 128 at a time. Four warpgroups consume what a fifth one copies, up to three tiles ahead. A consumer owns 64 rows, a
// warp 16 of them, whose weights it adds over the heads of a query; the warp that has a query's first row keeps its
// list. While that goes on, the scores of the next tile are multiplied. A block is made when all compressed rows that
// overlap it are there: the sums of the last ones of a tile are kept for the next. Shared memory: SharedTiles, then the
// sums and lists of the queries.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/query_tiles/best_blocks.cuh"
#include "cuda/query_tiles/candidates.cuh"
#include "cuda/query_tiles/tiles.cuh"
#include "cuda/warpgroup_tiles/panels.cuh"
#include "cuda/warpgroup_tiles/problem.hpp"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles {

using query_tiles::Candidates;
using query_tiles::candidates_of;
using query_tiles::copy_rows;
using query_tiles::kLog2E;
using query_tiles::lane_row;
using query_tiles::RowTile;
using query_tiles::Scored;

namespace {

constexpr int kWarpgroupRows = 64, kWarpgroups = kImportanceRows / kWarpgroupRows;  // that consume
constexpr int kConsumers = kWarpgroups * kWarpgroupThreads, kThreads = kConsumers + kWarpgroupThreads;
constexpr int kConsumerRegisters = 112, kProducerRegisters = 32;  // of a thread
constexpr int kWarpRows = 16, kKeys = 128, kN = kKeys / 16, kStages = 3;
constexpr int kMaxKept = 16;                      // sums of a tile that the next one needs
constexpr int kSumStride = kMaxKept + kKeys + 4;  // so that the sums of neighbouring queries lie in different banks

/// Dynamic shared memory, with a QueryRoom behind it.
template <class T, int dk>
struct SharedTiles {
  T q[kImportanceRows * dk], k[kStages][kKeys * dk];
};

/// What the queries of a tile have in shared memory.
struct QueryRoom {
  int queries, sums_of_query, slots;  // in a tile; sums, of at most a warp's rows; places of a list

  __host__ __device__ QueryRoom(int rows_of_query, int slots_of_query)
      : queries(kImportanceRows / rows_of_query),
        sums_of_query(rows_of_query > kWarpRows ? rows_of_query / kWarpRows : 1),
        slots(slots_of_query) {}

  /// Over the rows of a query, of compressed rows from kMaxKept before a tile on: [sums_of_query][kSumStride].
  __device__ __forceinline__ float* sums(void* room, int query) const {
    return static_cast<float*>(room) + query * sums_of_query * kSumStride;
  }
  /// The best blocks so far, [slots].
  __device__ __forceinline__ Scored* best(void* room, int query) const {
    return reinterpret_cast<Scored*>(sums(room, queries)) + query * slots;
  }
  std::size_t bytes() const {
    const std::size_t of_query = sums_of_query * kSumStride * sizeof(float);
    return static_cast<std::size_t>(queries) * (of_query + static_cast<std::size_t>(slots) * sizeof(Scored));
  }
};

/// Compressed rows before a tile that overlap blocks which it completes.
__host__ __device__ constexpr std::int64_t kept_of(const ImportanceRule& rule) {
  return std::int64_t{rule.strides} - 1 + (kKeys % rule.rows == 0 ? 0 : rule.rows - 1);
}

/// Named barriers: for every stage, what the producers have copied, and what is free again; for every consuming
/// warpgroup, the sums of queries that several of its warps have.
enum Barrier { kKeysAreThere = 1, kKeysAreUsed = kKeysAreThere + kStages, kSums = kKeysAreUsed + kStages };

/// What the threads of a block know of their tile.
struct Work {
  const Problem& p;
  RowTile tile;
  int heads_of_group, end_key;

  /// Where a row is in a tensor; nullptr: there is none.
  template <class T>
  __device__ __forceinline__ T* at(const Rows<T>& rows, int row) const {
    const int head = row & (p.group - 1);
    return row < tile.count && head < heads_of_group ? rows.at(tile.token(p, row), tile.kv_head * heads_of_group + head)
                                                     : nullptr;
  }
};

/// What a query needs of the compressed rows: those before seen_end, for so many of the blocks up to `end`.
struct Wish {
  int seen_end, end, wanted;
};

/// The producers' part: all of q, and the compressed rows tile by tile.
template <class T, int dk>
__device__ __forceinline__ void copy_tiles(const Work& w, SharedTiles<T, dk>& shared, const Rows<const T>& q,
                                           const Rows<const T>& k) {
  copy_rows<kWarpgroupThreads, kImportanceRows, dk>(Panels<T, kImportanceRows>{shared.q}, w.p.dk,
                                                    [&](int row) { return w.at(q, row); });
  int stage = 0;
  for (int key = 0; key < w.end_key; key += kKeys, stage = stage + 1 == kStages ? 0 : stage + 1) {
    if (key >= kStages * kKeys) barrier_sync(kKeysAreUsed + stage, kThreads);
    copy_keys<kKeys, dk>(shared.k[stage], k, w.tile, key, w.p.dk);
    cp_async_wait_all();
    fence_async_proxy();
    barrier_arrive(kKeysAreThere + stage, kThreads);
  }
}

/// Adds the blocks [first_block, end_block), to which compressed rows from `key` on are the last, to the list of a
/// query, and keeps the sums that the next tile needs. sums: parts of the weights, `parts` rows.
__device__ __forceinline__ void add_blocks(const ImportanceRule& rule, int wanted, int first_block, int end_block,
                                           float* sums, int parts, int kept, int key, Scored* best) {
  const auto weight_of = [&](int row) {  // of all parts
    float sum = sums[kMaxKept + row - key];
    for (int part = 1; part < parts; ++part) sum += sums[part * kSumStride + kMaxKept + row - key];
    return sum;
  };
  for (int base = first_block; base < end_block; base += kWarpLanes) {
    const int block = base + lane_index();
    const float score = importance(rule, block, 0, key + kKeys, weight_of);
    query_tiles::insert_better(best, wanted, {score, block}, rule.initial_blocks <= block && block < end_block);
  }
  sync_warp();
  if (const int place = kMaxKept - 1 - lane_index(); lane_index() < kept)
    for (int part = 0; part < parts; ++part) sums[part * kSumStride + place] = sums[part * kSumStride + place + kKeys];
}

/// The consumers' part: the lists of the queries whose first rows a warp has.
template <class T, int dk>
__device__ __forceinline__ void select_by_importance(const Work& w, SharedTiles<T, dk>& shared,
                                                     const ImportanceRule& rule, const Rows<const float>& lse,
                                                     Rows<std::int32_t> selection) {
  const Problem& p = w.p;
  const int first_row = warp_index() * kWarpRows, warpgroup = first_row / kWarpgroupRows;
  const int end_row = first_row + kWarpRows < w.tile.count ? first_row + kWarpRows : w.tile.count;
  const Panels<T, kImportanceRows> queries{shared.q};
  const int rows_of_query = p.group, rows_of_sum = rows_of_query < kWarpRows ? rows_of_query : kWarpRows;
  const QueryRoom of_queries(rows_of_query, rule.slots);
  void* room = &shared + 1;
  float* my_sums = of_queries.sums(room, 0) + first_row / rows_of_sum * kSumStride;

  // phase 1 - what the warp owns
  const int first_query = (first_row + rows_of_query - 1) / rows_of_query;  // those that begin among the warp's rows
  const int end_query = (end_row + rows_of_query - 1) / rows_of_query;
  const auto candidates_at = [&](int query) {
    const std::int64_t i = w.tile.query(p, query * rows_of_query);
    return candidates_of(rule, num_visible_tokens(p, w.tile.sequence, i));
  };
  Wish lane_wish{0, 0, 0};  // of a lane's query
  if (const int query = first_query + lane_index(); query < end_query) {
    const Candidates candidates = candidates_at(query);
    lane_wish = {keys_of(p, w.tile.sequence, w.tile.query(p, query * rows_of_query)).end, candidates.end,
                 candidates.wanted};
  }
  for (int query = first_query; query < end_query; ++query)
    for (int place = lane_index(); place < rule.slots; place += kWarpLanes) of_queries.best(room, query)[place] = {};
  float row_lse[2];  // to base 2
  int row_end[2];    // of what the row sees
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane_row(half);
    const float* from = w.at(lse, row);
    const float given = from == nullptr ? -INFINITY : *from;
    row_lse[half] = given == -INFINITY ? INFINITY : given * kLog2E;
    row_end[half] = row < w.tile.count ? keys_of(p, w.tile.sequence, w.tile.query(p, row)).end : 0;
  }
  sync_warp();

  // phase 2 - the compressed rows that they see
  const float to_log2 = p.scale * kLog2E;
  const int kept = static_cast<int>(kept_of(rule));
  const auto sync_sums = [&] {
    if (rows_of_query > kWarpRows)
      barrier_sync(kSums + warpgroup, kWarpgroupThreads);
    else
      sync_warp();
  };
  Sums<1, kN> weights;
  const auto start_weights = [&](int stage) {
    barrier_sync(kKeysAreThere + stage, kThreads);
    wgmma_fence(weights[0]);
    start_product_of_rows<T, dk, kN>(weights, queries, warpgroup * kWarpgroupRows, Panels<T, kKeys>{shared.k[stage]});
    wgmma_commit();
  };
  const auto add_weights = [&](int key) {
    if (any(key < row_end[0] || key < row_end[1])) {
#pragma unroll
      for (auto& columns : weights[0])
#pragma unroll
        for (int number = 0; number < 4; ++number)
          columns[number] = exp2_approx(columns[number] * to_log2 - row_lse[number / 2]);
      if (!all(key + kKeys <= row_end[0] && key + kKeys <= row_end[1])) {
#pragma unroll
        for (int j = 0; j < 2 * kN; ++j)
#pragma unroll
          for (int number = 0; number < 4; ++number)
            if (key + 8 * j + lane_index() % 4 * 2 + number % 2 >= row_end[number / 2]) weights[0][j][number] = 0;
      }
      query_tiles::store_weights<kWarpRows, 1, kN>(weights, rows_of_sum, my_sums + kMaxKept, kSumStride);
    }
    sync_sums();
  };
  const auto add_to_lists = [&](int key) {
    const int first_block = rule.by_rows.of(key), complete = rule.by_rows.of(key + kKeys);
    for (int query = first_query; query < end_query; ++query) {
      const int from = query - first_query;
      const Wish wish{shuffle(lane_wish.seen_end, from), shuffle(lane_wish.end, from), shuffle(lane_wish.wanted, from)};
      const bool is_last = wish.seen_end <= key + kKeys;
      if (key < wish.seen_end && wish.wanted > 0)
        add_blocks(rule, wish.wanted, first_block, is_last || wish.end < complete ? wish.end : complete,
                   of_queries.sums(room, query), of_queries.sums_of_query, kept, key, of_queries.best(room, query));
    }
    sync_sums();
  };
  if (w.end_key > 0) {
    start_weights(0);
    wgmma_wait<0>(weights[0]);
    int key = 0;
    for (int stage = 0; key + kKeys < w.end_key; key += kKeys) {
      if (key + kStages * kKeys < w.end_key) barrier_arrive(kKeysAreUsed + stage, kThreads);
      add_weights(key);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      start_weights(stage);
      add_to_lists(key);
      wgmma_wait<0>(weights[0]);
    }
    add_weights(key);
    add_to_lists(key);
  }

  // phase 3 - the blocks of each query
  for (int query = first_query; query < end_query; ++query) {
    const std::int64_t token = w.tile.token(p, query * rows_of_query);
    query_tiles::store_selection(rule, candidates_at(query), of_queries.best(room, query),
                                 selection.at(token, w.tile.kv_head));
  }
}

template <class T, int dk>
__global__ void __launch_bounds__(kThreads, 1)
    select_tile(Problem p, Tiles tiles, ImportanceRule rule, int heads_of_group, Rows<const T> q, Rows<const T> k,
                Rows<const float> lse, Rows<std::int32_t> selection) {
  auto& shared = *dynamic_shared<SharedTiles<T, dk>>();
  const RowTile tile = query_tiles::row_tile<kImportanceRows>(p, tiles, block_index().x);
  const Work work{p, tile, heads_of_group, tile.seen(p).end};
  if (warp_index() >= kConsumers / kWarpLanes) {
    give_registers<kProducerRegisters>();
    if (work.end_key > 0) copy_tiles<T, dk>(work, shared, q, k);
  } else {
    take_registers<kConsumerRegisters>();
    select_by_importance<T, dk>(work, shared, rule, lse, selection);
  }
}

std::size_t shared_bytes(const Problem& p, const ImportanceRule& rule) {
  std::size_t bytes = QueryRoom(query_tiles::select_rows_of_query(p.group), rule.slots).bytes();
  with_gradient_features(p.dk, 1, [&]<class Features>(Features) { bytes += sizeof(SharedTiles<bf16, Features::kDk>); });
  return bytes;
}

}  // namespace

bool can_select(const Problem& p, const ImportanceRule& rule) {
  return has_warpgroups() && p.dk <= kMaxSelectDk && p.group <= kWarpgroupRows && kept_of(rule) <= kMaxKept &&
         shared_bytes(p, rule) <= max_shared_bytes();
}

template <class T>
void select_important_blocks(const Problem& p, const Tiles& row_tiles, const ImportanceRule& rule, Rows<const T> q,
                             Rows<const T> k, Rows<const float> lse, Rows<std::int32_t> selection, void* stream) {
  if (row_tiles.count == 0) return;
  Problem rows = p;
  rows.group = query_tiles::select_rows_of_query(p.group);
  rows.by_group = Divider(rows.group);
  with_gradient_features(p.dk, 1, [&]<class Features>(Features) {
    launch(select_tile<T, Features::kDk>, {{row_tiles.count * p.kv_heads}, {kThreads}, shared_bytes(p, rule)}, stream,
           rows, row_tiles, rule, p.group, q, k, lse, selection);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                \
  template void select_important_blocks<T>(const Problem&, const Tiles&, const ImportanceRule&, Rows<const T>, \
                                           Rows<const T>, Rows<const float>, Rows<std::int32_t>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warpgroup_tiles
