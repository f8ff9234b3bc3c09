// Dense attention, forward: o = softmax(scale q k^T) v over the keys that a query sees, and its lse.
//
// A warp owns one query row of one head. A lane owns every 32nd feature; all lanes hold the score, the largest score so
// far and the sum of weights. Grid: query tokens x H, one warp a block. No shared memory. dk and dv at most 256.
#include <cmath>

#include "cuda/calls.hpp"
#include "cuda/primitives/warp.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::warp_per_row {

namespace {

constexpr int kMaxFeatures = 256, kOwned = kMaxFeatures / kWarpLanes;

template <class T>
struct Dense {
  Sequences sequences;
  Rows<const T> q, k, v;  // [query tokens, H, dk], [key tokens, Hkv, dk], [key tokens, Hkv, dv]
  Rows<T> o;              // [query tokens, H, dv]
  Rows<float> lse;        // [query tokens, H, 1]
  int dk, dv, group;
  float scale;
};

template <class T>
__global__ void attend_row(Dense<T> p) {
  const std::int64_t token = block_index().x;
  const int h = block_index().y, lane = thread_index().x;
  const Sequence s = sequence_of(p.sequences, p.sequences.q_offsets, token);
  const std::int64_t num_keys = num_visible_keys(p.sequences, s, token - s.q_begin);
  const T* query = p.q.at(token, h);
  float largest = -INFINITY, sum = 0, sums[kOwned] = {};
  for (std::int64_t j = s.k_begin; j < s.k_begin + num_keys; ++j) {
    const T *key = p.k.at(j, h / p.group), *value = p.v.at(j, h / p.group);
    float score = 0;
    for (int d = lane; d < p.dk; d += kWarpLanes) score += to_float(query[d]) * to_float(key[d]);
    score = p.scale * sum_lanes(score);
    const float before = largest;
    largest = fmaxf(largest, score);
    const float kept = expf(before - largest), weight = expf(score - largest);
    sum = sum * kept + weight;
    for (int i = 0, d = lane; d < p.dv; ++i, d += kWarpLanes) sums[i] = sums[i] * kept + weight * to_float(value[d]);
  }
  for (int i = 0, d = lane; d < p.dv; ++i, d += kWarpLanes)
    p.o.at(token, h)[d] = from_float<T>(sum > 0 ? sums[i] / sum : 0);
  if (lane == 0) *p.lse.at(token, h) = sum > 0 ? largest + logf(sum) : -INFINITY;
}

template <class T>
void attend(const AttnspecDense& p, const Offsets& offsets) {
  Dense<T> params{{offsets.q, offsets.k, p.call.num_sequences, p.call.causal != 0},
                  rows_of<const T>(p.q),
                  rows_of<const T>(p.k),
                  rows_of<const T>(p.v),
                  rows_of<T>(p.o),
                  rows_of<float>(p.lse),
                  static_cast<int>(p.q.shape[2]),
                  static_cast<int>(p.v.shape[2]),
                  static_cast<int>(p.q.shape[1] / p.k.shape[1]),
                  static_cast<float>(p.call.scale)};
  LaunchShape shape;
  shape.grid = {static_cast<int>(p.q.shape[0]), static_cast<int>(p.q.shape[1])};
  shape.block.x = kWarpLanes;
  if (p.q.shape[0] > 0) launch(attend_row<T>, shape, p.call.stream, params);
}

const char* dense(const AttnspecDense* p) {
  return reason_of([&] {
    Buffers buffers;
    add_tensors(*p, buffers);
    Workspace workspace(p->call.workspace);
    const Offsets offsets = take_offsets(workspace, p->call);
    copy_offsets(p->call, offsets);
    with_dtype(p->q, [&](auto zero) { attend<decltype(zero)>(*p, offsets); });
  });
}

/// A call's params begin with its AttnspecCall.
std::int64_t workspace_bytes(std::uint32_t, std::int32_t, const void* params) {
  Workspace none;
  take_offsets(none, *static_cast<const AttnspecCall*>(params));
  return none.bytes();
}

AttnspecKernel declare() {
  AttnspecKernel kernel = named_kernel("warp_per_row", "dense forward; a warp for each query row");
  kernel.arithmetic = "fp32_weights";
  kernel.operators = ATTNSPEC_DENSE;
  kernel.promises = ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.dense = dense;
  kernel.limits.dk.largest = kernel.limits.dv.largest = kMaxFeatures;
  return kernel;
}

}  // namespace

const AttnspecKernel& kernel() {
  static const AttnspecKernel declared = declare();
  return declared;
}

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::warp_per_row
