// The backward of attention to given blocks, with P = exp(scale q k^T - lse), delta = <do, o>, dS = P (do v^T - delta):
// dq = scale dS k, dk = scale dS^T q, dv = P^T do. One thread owns a query row of dq; another owns a key row of dk and
// dv and goes through all queries of its sequence and group that may see it, so that sums have an order.
#include <cmath>

#include "cuda/baseline/visit.cuh"

namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline {

namespace {

/// P and dS of one query row and key. A row that sees nothing has lse = -infinity and no key.
struct Weight {
  float p, d_score;
};

template <class T>
__device__ __forceinline__ Weight weight(const Attention& a, const BackwardRows<T>& rows, std::int64_t token, int h,
                                         std::int64_t key, int g, float delta) {
  const float p = expf(a.scale * dot(rows.q.at(token, h), rows.k.at(key, g), a.dk) - *rows.lse.at(token, h));
  return {p, p * (dot(rows.d_o.at(token, h), rows.v.at(key, g), a.dv) - delta)};
}

template <class T>
__global__ void query_gradients(Attention a, Blocks blocks, BackwardRows<T> rows, Rows<T> dq) {
  const std::int64_t row = global_thread();
  if (row >= a.num_queries * a.heads) return;
  const std::int64_t token = row / a.heads;
  const int h = static_cast<int>(row % a.heads), g = h / (a.heads / a.kv_heads);
  const Sequence s = sequence_of(a.sequences, a.sequences.q_offsets, token);
  const KeyRange visible = visible_keys(a, s, token - s.q_begin);
  const float delta = dot(rows.d_o.at(token, h), rows.o.at(token, h), a.dv);
  float sums[kMaxFeatures];
  for (int d = 0; d < a.dk; ++d) sums[d] = 0;
  for_each_key(blocks, token, h, a, visible, [&](std::int64_t j) {
    const float d_score = weight(a, rows, token, h, s.k_begin + j, g, delta).d_score;
    const T* key = rows.k.at(s.k_begin + j, g);
    for (int d = 0; d < a.dk; ++d) sums[d] += d_score * to_float(key[d]);
  });
  for (int d = 0; d < a.dk; ++d) dq.at(token, h)[d] = from_float<T>(a.scale * sums[d]);
}

/// Whether a query row attends to a block.
__device__ __forceinline__ bool attends_to(const Blocks& blocks, std::int64_t token, int h, const Attention& a,
                                           std::int64_t block) {
  const std::int32_t* selected = blocks_of(blocks, token, h, a);
  if (selected == nullptr) return true;
  for (std::int64_t slot = 0; slot < blocks.slots; ++slot)
    if (selected[slot] == block) return true;
  return false;
}

template <class T>
__global__ void key_gradients(Attention a, Blocks blocks, BackwardRows<T> rows, Rows<T> dk, Rows<T> dv) {
  const std::int64_t row = global_thread();
  if (row >= a.num_keys * a.kv_heads) return;
  const std::int64_t key = row / a.kv_heads;
  const int g = static_cast<int>(row % a.kv_heads), group = a.heads / a.kv_heads;
  const Sequence s = sequence_of(a.sequences, a.sequences.k_offsets, key);
  const std::int64_t j = key - s.k_begin, block = j / blocks.tokens;
  float dk_sums[kMaxFeatures], dv_sums[kMaxFeatures];
  for (int d = 0; d < a.dk; ++d) dk_sums[d] = 0;
  for (int d = 0; d < a.dv; ++d) dv_sums[d] = 0;
  for (std::int64_t i = 0; i < s.num_queries; ++i) {
    if (!visible_keys(a, s, i).contains(j)) continue;
    const std::int64_t token = s.q_begin + i;
    for (int h = g * group; h < (g + 1) * group; ++h) {
      if (!attends_to(blocks, token, h, a, block)) continue;
      const T* d_o = rows.d_o.at(token, h);
      const Weight w = weight(a, rows, token, h, key, g, dot(d_o, rows.o.at(token, h), a.dv));
      const T* query = rows.q.at(token, h);
      for (int d = 0; d < a.dk; ++d) dk_sums[d] += w.d_score * to_float(query[d]);
      for (int d = 0; d < a.dv; ++d) dv_sums[d] += w.p * to_float(d_o[d]);
    }
  }
  for (int d = 0; d < a.dk; ++d) dk.at(key, g)[d] = from_float<T>(a.scale * dk_sums[d]);
  for (int d = 0; d < a.dv; ++d) dv.at(key, g)[d] = from_float<T>(dv_sums[d]);
}

}  // namespace

template <class T>
void attend_backward(const Attention& a, const Blocks& blocks, const BackwardRows<T>& rows, Rows<T> dq, Rows<T> dk,
                     Rows<T> dv, void* stream) {
  launch_rows(query_gradients<T>, a.num_queries * a.heads, stream, a, blocks, rows, dq);
  launch_rows(key_gradients<T>, a.num_keys * a.kv_heads, stream, a, blocks, rows, dk, dv);
}

#define ATTNSPEC_INSTANTIATE(T)                                                                                        \
  template void attend_backward<T>(const Attention&, const Blocks&, const BackwardRows<T>&, Rows<T>, Rows<T>, Rows<T>, \
                                   void*);
ATTNSPEC_INSTANTIATE(bf16)
ATTNSPEC_INSTANTIATE(fp16)
ATTNSPEC_INSTANTIATE(float)

}  // namespace attnspec::cuda::inline ATTNSPEC_TARGET::baseline
