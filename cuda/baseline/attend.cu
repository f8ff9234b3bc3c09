// Attention to given blocks: o = softmax(scale q k^T) v over the visible keys of a query's blocks, and its lse. A
// thread owns one query row: it goes through its keys twice, for the largest score and then for weights and their sum.
#include <cmath>

#include "cuda/baseline/visit.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

template <class T>
__global__ void attend_rows(Attention a, Blocks blocks, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
                            Rows<float> lse) {
  const std::int64_t row = global_thread();
  if (row >= a.num_queries * a.heads) return;
  const std::int64_t token = row / a.heads;
  const int h = static_cast<int>(row % a.heads), g = h / (a.heads / a.kv_heads);
  const Sequence s = sequence_of(a.sequences, a.sequences.q_offsets, token);
  const KeyRange visible = visible_keys(a, s, token - s.q_begin);
  const T* query = q.at(token, h);
  float largest = -INFINITY, sum = 0, sums[kMaxFeatures];
  for_each_key(blocks, token, h, a, visible,
               [&](std::int64_t j) { largest = fmaxf(largest, a.scale * dot(query, k.at(s.k_begin + j, g), a.dk)); });
  for (int d = 0; d < a.dv; ++d) sums[d] = 0;
  for_each_key(blocks, token, h, a, visible, [&](std::int64_t j) {
    const float weight = expf(a.scale * dot(query, k.at(s.k_begin + j, g), a.dk) - largest);
    sum += weight;
    const T* value = v.at(s.k_begin + j, g);
    for (int d = 0; d < a.dv; ++d) sums[d] += weight * to_float(value[d]);
  });
  for (int d = 0; d < a.dv; ++d) o.at(token, h)[d] = from_float<T>(sum > 0 ? sums[d] / sum : 0);
  *lse.at(token, h) = sum > 0 ? largest + logf(sum) : -INFINITY;
}

}  // namespace

template <class T>
void attend(const Attention& a, const Blocks& blocks, Rows<const T> q, Rows<const T> k, Rows<const T> v, Rows<T> o,
            Rows<float> lse, void* stream) {
  launch_rows(attend_rows<T>, a.num_queries * a.heads, stream, a, blocks, q, k, v, o, lse);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                  \
  template void attend<T>(const Attention&, const Blocks&, Rows<const T>, Rows<const T>, Rows<const T>, Rows<T>, \
                          Rows<float>, void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)
ATTNSPEC_INSTANTIATE(float)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
