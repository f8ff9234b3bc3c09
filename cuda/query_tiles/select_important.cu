// NSA's selection: the importance of a block to a query is p' = sum over the heads of the group and the compressed rows
// i that overlap it of |tokens in both| / stride exp(scale <q, k_i> - lse). The first blocks of the sequence and the
// query's own with those before it are forced; the others that begin at the query or before follow by their importance,
// of equal ones the earlier. Neither scores nor importances are written to memory.
//
// q [query tokens, H, dk], k [compressed rows, Hkv, dk], rows on multiples of 16 bytes; lse [query tokens, H, 1];
// selection [query tokens, Hkv, slots]. A query has 2^n rows here, those behind the heads of its group empty, so that
// the rows of a query lie in one tile and lanes add them in the order of a tree. A thread block of 4 warps owns 128
// rows and goes through the compressed rows that some of them see, a tile at a time: a warp makes the weights of 32
// rows on tensor cores, adds those of a query, and, for each query whose first row it has, adds compressed rows to
// blocks and merges the complete ones into the query's list of the best. A block that the next tile completes is
// carried. Shared memory: SharedTiles, then the sums and lists of its queries: 67 KB for 128 features, 16 heads and 16
// slots.
#include <cmath>
#include <cstdint>

#include "cuda/primitives/launch.cuh"
#include "cuda/primitives/warp.cuh"
#include "cuda/query_tiles/best_blocks.cuh"
#include "cuda/query_tiles/candidates.cuh"
#include "cuda/query_tiles/tiles.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles {

namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpLanes, kWarpRows = kSelectRows / kWarps;
constexpr int kKeys = 64, kM = kWarpRows / 16, kN = kKeys / 16;
constexpr int kSumStride = kKeys + 4;  // so that the sums of neighbouring queries lie in different banks

/// Dynamic shared memory, with a QueryRoom behind it.
template <class T, int dk>
struct SharedTiles {
  T q[kSelectRows * padded(dk)], k[2][kKeys * padded(dk)];
};

/// What the queries of a tile have in shared memory.
struct QueryRoom {
  int queries, sums_of_query, slots;  // in a tile; sums, of at most a warp's rows; places of a list

  __host__ __device__ QueryRoom(int rows_of_query, int slots_of_query)
      : queries(kSelectRows / rows_of_query),
        sums_of_query(rows_of_query > kWarpRows ? rows_of_query / kWarpRows : 1),
        slots(slots_of_query) {}

  /// Over the rows of a query, of each compressed row of a tile: [sums_of_query][kSumStride].
  __device__ __forceinline__ float* sums(void* room, int query) const {
    return static_cast<float*>(room) + query * sums_of_query * kSumStride;
  }
  /// Importances of the two blocks that were not complete before a tile.
  __device__ __forceinline__ float* carried(void* room, int query) const { return sums(room, queries) + 2 * query; }
  /// The best blocks so far, [slots].
  __device__ __forceinline__ Scored* best(void* room, int query) const {
    return reinterpret_cast<Scored*>(carried(room, queries)) + query * slots;
  }
  std::size_t bytes() const {
    const std::size_t of_query = (sums_of_query * kSumStride + 2) * sizeof(float);
    return static_cast<std::size_t>(queries) * (of_query + static_cast<std::size_t>(slots) * sizeof(Scored));
  }
};

/// Adds the compressed rows [key, key + kKeys) of a query, which sees those before seen_end, to its blocks. sums:
/// parts of their weights, `parts` rows.
__device__ __forceinline__ void add_to_blocks(const ImportanceRule& rule, const Candidates& candidates,
                                              const float* sums, int parts, int key, int seen_end, float* carried,
                                              Scored* best) {
  const int end = key + kKeys, first_block = rule.by_rows.of(key), next_first = rule.by_rows.of(end);
  const bool is_last = seen_end <= end;
  const auto weight_of = [&](int row) {  // of all parts
    float sum = sums[row - key];
    for (int part = 1; part < parts; ++part) sum += sums[part * kSumStride + row - key];
    return sum;
  };
  const float before[2] = {carried[0], carried[1]};
  sync_warp();
  for (int base = first_block; base < next_first + 2; base += kWarpLanes) {
    const int block = base + lane_index(), place = block - first_block, left = block - next_first;
    const float score = (place == 0   ? before[0]
                         : place == 1 ? before[1]
                                      : 0) +
                        importance(rule, block, key, end, weight_of);
    if (left == 0 || left == 1) carried[left] = score;
    const bool is_candidate = (is_last || left < 0) && rule.initial_blocks <= block && block < candidates.end;
    insert_better(best, candidates.wanted, {score, block}, is_candidate);
  }
  sync_warp();
}

template <class T, int dk>
__global__ void __launch_bounds__(kThreads, 3)
    select_tile(Problem p, Tiles tiles, ImportanceRule rule, int heads_of_group, Rows<const T> q, Rows<const T> k,
                Rows<const float> lse, Rows<std::int32_t> selection) {
  auto& shared = *dynamic_shared<SharedTiles<T, dk>>();
  const int rows_of_query = p.group;
  const QueryRoom of_queries(rows_of_query, rule.slots);
  void* room = &shared + 1;

  // phase 1 - what the thread block and the warp own
  const RowTile tile = row_tile<kSelectRows>(p, tiles, block_index().x);
  const WarpRows mine(p, tile, kWarpRows);
  const auto row_at = [&](const auto& from, int row) {
    const int head = row & (rows_of_query - 1);
    return row < tile.count && head < heads_of_group ? from.at(tile.token(p, row), tile.kv_head * heads_of_group + head)
                                                     : nullptr;
  };
  const SharedTile<T, dk> query_rows{shared.q};
  copy_rows<kThreads, kSelectRows, dk>(query_rows, p.dk, [&](int row) { return row_at(q, row); });
  for (int place = thread_number(); place < of_queries.queries * rule.slots; place += kThreads)
    of_queries.best(room, 0)[place] = {};
  for (int place = thread_number(); place < of_queries.queries * 2; place += kThreads)
    of_queries.carried(room, 0)[place] = 0;
  float row_lse[kM][2];  // to base 2
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* from = row_at(lse, mine.from + 16 * i + lane_row(half));
      const float given = from == nullptr ? -INFINITY : *from;
      row_lse[i][half] = given == -INFINITY ? INFINITY : given * kLog2E;
    }

  // phase 2 - the compressed rows that they see
  const int rows_of_sum = rows_of_query < kWarpRows ? rows_of_query : kWarpRows;
  const float to_log2 = p.scale * kLog2E;
  const int first_query = (mine.from + rows_of_query - 1) / rows_of_query;  // those that begin among the warp's rows
  const int end_query = (mine.to + rows_of_query - 1) / rows_of_query;
  const auto copy_keys = [&](int key, int stage) {
    const SharedTile<T, dk> keys{shared.k[stage]};
    copy_rows<kThreads, kKeys, dk>(keys, p.dk, rows_from(k, tile.sequence, tile.kv_head, key));
  };
  const auto add_keys = [&](int key, int stage) {
    if (mine.some_see(key, kKeys)) {
      const SharedTile<T, dk> keys{shared.k[stage]};
      Sums<kM, kN> weights;
      clear<kM, kN>(weights);
      multiply_by_rows<T, dk, kM, kN>(weights, query_rows.down(mine.from, 0), keys.beside(0, 0));
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (auto& columns : weights[i])
#pragma unroll
          for (int number = 0; number < 4; ++number)
            columns[number] = exp2_approx(columns[number] * to_log2 - row_lse[i][number / 2]);
      mine.template for_each_unseen<kM, kN>(key, [&](int i, int j, int number) { weights[i][j][number] = 0; });
      store_weights<kWarpRows, kM, kN>(weights, rows_of_sum,
                                       of_queries.sums(room, 0) + mine.from / rows_of_sum * kSumStride, kSumStride);
    }
    if (rows_of_query > kWarpRows)
      sync_threads();
    else
      sync_warp();
    for (int query = first_query; query < end_query; ++query) {
      const std::int64_t i = tile.query(p, query * rows_of_query);
      const int seen_end = keys_of(p, tile.sequence, i).end;
      const Candidates candidates = candidates_of(rule, num_visible_tokens(p, tile.sequence, i));
      if (key < seen_end && candidates.wanted > 0)
        add_to_blocks(rule, candidates, of_queries.sums(room, query), of_queries.sums_of_query, key, seen_end,
                      of_queries.carried(room, query), of_queries.best(room, query));
    }
  };
  walk<kKeys>(0, tile.seen(p).end, copy_keys, add_keys);
  sync_threads();

  // phase 3 - the blocks of each query: forced ones, then its list
  for (int query = warp_index(); query * rows_of_query < tile.count; query += kWarps) {
    const int row = query * rows_of_query;
    const Candidates candidates = candidates_of(rule, num_visible_tokens(p, tile.sequence, tile.query(p, row)));
    store_selection(rule, candidates, of_queries.best(room, query), selection.at(tile.token(p, row), tile.kv_head));
  }
}

}  // namespace

int select_rows_of_query(int group) {
  int rows = 1;
  while (rows < group) rows *= 2;
  return rows;
}

std::size_t select_shared_bytes(int dk, int group, int slots) {
  std::size_t bytes = QueryRoom(select_rows_of_query(group), slots).bytes();
  with_features(dk, 1, [&]<class Features>(Features) { bytes += sizeof(SharedTiles<bf16, Features::kDk>); });
  return bytes;
}

template <class T>
void select_important_blocks(const Problem& p, const Tiles& row_tiles, const ImportanceRule& rule, Rows<const T> q,
                             Rows<const T> k, Rows<const float> lse, Rows<std::int32_t> selection, void* stream) {
  if (row_tiles.count == 0) return;
  Problem rows = p;
  rows.group = select_rows_of_query(p.group);
  rows.by_group = Divider(rows.group);
  with_features(p.dk, 1, [&]<class Features>(Features) {
    constexpr int kDk = Features::kDk;
    const LaunchShape shape{{row_tiles.count * p.kv_heads}, {kThreads}, select_shared_bytes(p.dk, p.group, rule.slots)};
    launch(select_tile<T, kDk>, shape, stream, rows, row_tiles, rule, p.group, q, k, lse, selection);
  });
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                \
  template void select_important_blocks<T>(const Problem&, const Tiles&, const ImportanceRule&, Rows<const T>, \
                                           Rows<const T>, Rows<const float>, Rows<std::int32_t>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::query_tiles
