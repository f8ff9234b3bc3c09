// A complete CUDA kernel: the forward of dense attention in bf16 and fp32, one warp per query row, fp32 inside.
//
// A lane owns every 32nd feature of v; all lanes hold the score. The softmax is online: one pass over the keys with a
// running maximum. Grid: query tokens x H. dk and dv at most 256.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "verify/abi/kernel_abi.h"

namespace {

constexpr int kLanes = 32, kMaxDim = 256, kOwned = kMaxDim / kLanes;

/// A tensor [tokens, heads, dim] as kernels take it: DLTensor's shape and strides are in host memory.
template <class T>
struct View {
  T* data;
  int64_t token_stride, head_stride;

  explicit View(const DLTensor& t)
      : data(static_cast<T*>(t.data)), token_stride(t.strides[0]), head_stride(t.strides[1]) {}
  __device__ T* row(int64_t token, int64_t head) const { return data + token * token_stride + head * head_stride; }
};

template <class T>
struct Dense {
  View<T> q, k, v, o;
  View<float> lse;
  int dk, dv, group;
  float scale;
};

/// One sequence: query tokens from q_begin, keys from k_begin.
struct Sequence {
  int64_t q_begin, num_queries, k_begin, num_keys;
  bool causal;
};

__device__ float to_float(float x) { return x; }
__device__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void store(float* to, float x) { *to = x; }
__device__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

__device__ float sum_over_warp(float x) {
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
  return x;
}

template <class T>
__global__ void attend_warp_per_query(Dense<T> p, Sequence s) {
  const int64_t i = blockIdx.x, token = s.q_begin + i, h = blockIdx.y, g = h / p.group;
  const int64_t visible = s.causal ? max(int64_t{0}, i + s.num_keys - s.num_queries + 1) : s.num_keys;
  const int lane = static_cast<int>(threadIdx.x);
  float largest = -INFINITY, sum = 0, o[kOwned] = {};
  for (int64_t j = 0; j < visible; ++j) {
    const T *q = p.q.row(token, h), *k = p.k.row(s.k_begin + j, g), *v = p.v.row(s.k_begin + j, g);
    float score = 0;
    for (int d = lane; d < p.dk; d += kLanes) score += to_float(q[d]) * to_float(k[d]);
    score = p.scale * sum_over_warp(score);
    const float before = largest;
    largest = fmaxf(largest, score);
    const float kept = expf(before - largest), weight = expf(score - largest);
    sum = sum * kept + weight;
    for (int n = 0, d = lane; d < p.dv; ++n, d += kLanes) o[n] = o[n] * kept + weight * to_float(v[d]);
  }
  for (int n = 0, d = lane; d < p.dv; ++n, d += kLanes) store(p.o.row(token, h) + d, sum > 0 ? o[n] / sum : 0);
  if (lane == 0) *p.lse.row(token, h) = sum > 0 ? largest + logf(sum) : -INFINITY;
}

template <class T>
const char* launch(const AttnspecDense* p) {
  const Dense<T> views{View<T>(p->q),
                       View<T>(p->k),
                       View<T>(p->v),
                       View<T>(p->o),
                       View<float>(p->lse),
                       static_cast<int>(p->q.shape[2]),
                       static_cast<int>(p->v.shape[2]),
                       static_cast<int>(p->q.shape[1] / p->k.shape[1]),
                       static_cast<float>(p->call.scale)};
  for (int64_t n = 0; n < p->call.num_sequences; ++n) {
    const int64_t *q = p->call.q_offsets + n, *k = p->call.k_offsets + n;
    const Sequence s{q[0], q[1] - q[0], k[0], k[1] - k[0], p->call.causal != 0};
    const dim3 grid(static_cast<unsigned>(s.num_queries), static_cast<unsigned>(p->q.shape[1]));
    if (s.num_queries > 0)
      attend_warp_per_query<T><<<grid, kLanes, 0, static_cast<cudaStream_t>(p->call.stream)>>>(views, s);
  }
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

const char* dense(const AttnspecDense* p) {
  return p->q.dtype.bits == 32 ? launch<float>(p) : launch<__nv_bfloat16>(p);
}

}  // namespace

const AttnspecKernel* attnspec_kernel() {
  static const AttnspecKernel kernel = [] {
    AttnspecKernel k{};
    k.struct_size = sizeof k;
    k.abi_version = ATTNSPEC_ABI_VERSION;
    k.device_type = kDLCUDA;
    k.name = "dense";
    k.summary = "dense attention, one warp per query row";
    k.arithmetic = "fp32_weights";
    k.operators = ATTNSPEC_DENSE;
    k.promises = ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
    k.dense = dense;
    k.limits.dtypes = ATTNSPEC_BF16 | ATTNSPEC_FP32;
    k.limits.dk.largest = k.limits.dv.largest = kMaxDim;
    return k;
  }();
  return &kernel;
}
