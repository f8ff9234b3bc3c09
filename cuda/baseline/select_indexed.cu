// The selectors with an indexer: MSA (equations Y1 to Y4), DSA (V1 to V3) and QSA (Q1 to Q4). A thread owns one row of
// the selection: it looks for the best candidate that comes after the last it took, so that it needs no list, and
// computes every score anew. Of equal scores the earlier candidate wins.
#include <cmath>

#include "cuda/baseline/calls.hpp"
#include "cuda/baseline/index_calls.hpp"
#include "cuda/baseline/visit.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

/// Sizes of a call.
struct Indexer {
  Sequences sequences;
  std::int64_t num_queries, block, top_k, slots;
  int heads, features;
};

/// Writes the `wanted` best of the candidates 0 .. count - 1 into a row, from slot `taken` on, and -1 behind them.
template <class Score>
__device__ __forceinline__ void take_best(std::int32_t* row, std::int64_t taken, std::int64_t wanted,
                                          std::int64_t count, std::int64_t slots, const Score& score) {
  Candidate last{INFINITY, -1};
  const std::int64_t end = taken + (wanted < count ? wanted : count);
  for (; taken < end; ++taken) {
    Candidate best{-INFINITY, count};
    for (std::int64_t b = 0; b < count; ++b) {
      const Candidate candidate{score(b), b};
      if (last.is_before(candidate) && candidate.is_before(best)) best = candidate;
    }
    row[taken] = static_cast<std::int32_t>(best.block);
    last = best;
  }
  for (; taken < slots; ++taken) row[taken] = -1;
}

/// The sum over the index heads of weight times ReLU of <q, k>. w: nullptr for weights of 1.
template <class T>
__device__ __forceinline__ float index_score(const Indexer& x, Rows<const T> q, std::int64_t token, const float* w,
                                             const T* k) {
  float sum = 0;
  for (int h = 0; h < x.heads; ++h) {
    const float product = dot(q.at(token, h), k, x.features);
    if (product > 0) sum += (w == nullptr ? 1 : w[h]) * product;
  }
  return sum;
}

template <class T>
__global__ void select_msa(Indexer x, Rows<const T> q, Rows<const T> k, Rows<std::int32_t> selection) {
  const std::int64_t number = global_thread();
  if (number >= x.num_queries * x.heads) return;
  const Place place = place_of(number, x.heads, 1);
  const Sequence s = sequence_of(x.sequences, x.sequences.q_offsets, place.row);
  const std::int64_t visible = num_visible_keys(x.sequences, s, place.row - s.q_begin);
  std::int32_t* row = selection.at(place.row, place.head);
  const std::int64_t own = (visible + x.block - 1) / x.block - 1;
  if (visible > 0) row[0] = static_cast<std::int32_t>(own);
  const T* query = q.at(place.row, place.head);
  take_best(row, visible > 0 ? 1 : 0, x.top_k - 1, visible > 0 ? own : 0, x.slots, [&](std::int64_t b) {
    float best = -INFINITY;
    for (std::int64_t j = b * x.block; j < (b + 1) * x.block; ++j) {
      const float score = dot(query, k.at(s.k_begin + j, 0), x.features);
      best = score > best ? score : best;
    }
    return best;
  });
}

template <class T>
__global__ void select_dsa(Indexer x, Rows<const T> q, Rows<const T> k, Rows<const float> w,
                           Rows<std::int32_t> selection) {
  const std::int64_t token = global_thread();
  if (token >= x.num_queries) return;
  const Sequence s = sequence_of(x.sequences, x.sequences.q_offsets, token);
  const std::int64_t visible = num_visible_keys(x.sequences, s, token - s.q_begin);
  take_best(selection.at(token, 0), 0, x.top_k, visible, x.slots,
            [&](std::int64_t j) { return index_score(x, q, token, w.at(token, 0), k.at(s.k_begin + j, 0)); });
}

/// row_offsets: the first row of kbar of each sequence.
template <class T>
__global__ void select_qsa(Indexer x, const std::int64_t* row_offsets, Rows<const T> q, Rows<const T> kbar,
                           Rows<std::int32_t> selection) {
  const std::int64_t token = global_thread();
  if (token >= x.num_queries) return;
  const Sequence s = sequence_of(x.sequences, x.sequences.q_offsets, token);
  const std::int64_t visible = num_visible_keys(x.sequences, s, token - s.q_begin), complete = visible / x.block;
  std::int32_t* row = selection.at(token, 0);
  const std::int64_t tail = visible % x.block == 0 ? 0 : 1;
  if (tail == 1) row[0] = static_cast<std::int32_t>(complete);
  take_best(row, tail, x.top_k, complete, x.slots,
            [&](std::int64_t b) { return index_score(x, q, token, nullptr, kbar.at(row_offsets[s.index] + b, 0)); });
}

struct Scratch {
  Offsets offsets;
  std::int64_t* row_offsets;
  std::int64_t bytes;
};

Scratch lay_out(const AttnspecCall& call) {
  Workspace workspace(call.workspace);
  Scratch scratch{};
  scratch.offsets = take_offsets(workspace, call);
  scratch.row_offsets = workspace.take<std::int64_t>(call.num_sequences + 1);
  scratch.bytes = workspace.bytes();
  return scratch;
}

/// The row of kbar at which each sequence begins.
std::vector<std::int64_t> complete_blocks(const AttnspecCall& call, std::int64_t block) {
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t s = 0; s < call.num_sequences; ++s)
    offsets.push_back(offsets.back() + (call.k_offsets[s + 1] - call.k_offsets[s]) / block);
  return offsets;
}

/// Calls launch(indexer, queries, keys, selection) in the format of the queries.
template <class Params, class Launch>
const char* select(const Params& p, const char* keys_name, const DLTensor& keys, std::int64_t block,
                   const Launch& launch) {
  return reason_of([&] {
    Buffers buffers;
    buffers.add("qi", p.qi), buffers.add(keys_name, keys), buffers.add("selection", p.selection);
    if constexpr (requires { p.w; }) buffers.add("w", p.w);
    buffers.add("workspace", p.call.workspace, p.call.workspace_bytes);
    with_dtype(p.qi, [&](auto zero) {
      using T = decltype(zero);
      const Indexer indexer{sequences_of(p.call, lay_out(p.call).offsets),
                            p.qi.shape[0],
                            block,
                            p.top_k,
                            p.selection.shape[2],
                            static_cast<int>(p.qi.shape[1]),
                            static_cast<int>(p.qi.shape[2])};
      launch(indexer, rows_of<const T>(p.qi), rows_of<const T>(keys), rows_of<std::int32_t>(p.selection));
    });
  });
}

}  // namespace

const char* msa_select(const AttnspecMsaSelect* p) {
  return select(*p, "ki", p->ki, p->block, [&]<class T>(const Indexer& x, Rows<const T> q, Rows<const T> k, auto to) {
    launch_rows(select_msa<T>, x.num_queries * x.heads, p->call.stream, x, q, k, to);
  });
}

const char* dsa_select(const AttnspecDsaSelect* p) {
  return select(*p, "ki", p->ki, 1, [&]<class T>(const Indexer& x, Rows<const T> q, Rows<const T> k, auto to) {
    launch_rows(select_dsa<T>, x.num_queries, p->call.stream, x, q, k, rows_of<const float>(p->w), to);
  });
}

const char* qsa_select(const AttnspecQsaSelect* p) {
  return select(*p, "kbar", p->kbar, p->block,
                [&]<class T>(const Indexer& x, Rows<const T> q, Rows<const T> k, auto to) {
                  const std::vector<std::int64_t> offsets = complete_blocks(p->call, p->block);
                  std::int64_t* rows = lay_out(p->call).row_offsets;
                  copy_to_device(rows, offsets.data(), offsets.size() * sizeof(std::int64_t), p->call.stream);
                  launch_rows(select_qsa<T>, x.num_queries, p->call.stream, x, rows, q, k, to);
                });
}

std::int64_t index_workspace_bytes(const AttnspecCall& call) { return lay_out(call).bytes; }

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
