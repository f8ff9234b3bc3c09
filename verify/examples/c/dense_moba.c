/* A complete kernel in C, on host memory: dense attention with its gradients, and MoBA forward; bf16 and fp32.
 *
 * Everything is computed in fp32 and rounded once where it is stored: weights are not rounded to the input's format, so
 * the kernel declares fp32_weights. */
#include <math.h>
#include <string.h>

#include "verify/abi/kernel_abi.h"

/* ---- Elements of a tensor [tokens, heads, dim] ---- */

static char* address(const DLTensor* t, int64_t token, int64_t head, int64_t d) {
  return (char*)t->data + (token * t->strides[0] + head * t->strides[1] + d) * (t->dtype.bits / 8);
}

/* Element d of a row whose elements have so many bits. */
static inline float element(const char* row, int num_bits, int64_t d) {
  uint32_t bits = 0;
  float value;
  if (num_bits == 32) {
    memcpy(&bits, row + 4 * d, 4);
  } else { /* bf16 is the upper half of an fp32 */
    uint16_t upper;
    memcpy(&upper, row + 2 * d, 2);
    bits = (uint32_t)upper << 16;
  }
  memcpy(&value, &bits, 4);
  return value;
}

static float load(const DLTensor* t, int64_t token, int64_t head, int64_t d) {
  return element(address(t, token, head, 0), t->dtype.bits, d);
}

/* sum[d] += factor * t[token, head, d] */
static void add_row(const DLTensor* t, int64_t token, int64_t head, float factor, float* sum) {
  const char* row = address(t, token, head, 0);
  const int num_bits = t->dtype.bits;
  for (int64_t d = 0; d < t->shape[2]; ++d) sum[d] += factor * element(row, num_bits, d);
}

/* Rounds to the nearest bf16, ties to even. Infinity stays; the kernel makes no NaN. */
static void store(const DLTensor* t, int64_t token, int64_t head, int64_t d, float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (t->dtype.bits == 32) {
    memcpy(address(t, token, head, d), &bits, 4);
  } else {
    const uint16_t upper = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    memcpy(address(t, token, head, d), &upper, 2);
  }
}

static float dot(const DLTensor* a, int64_t a_token, int64_t a_head, const DLTensor* b, int64_t b_token,
                 int64_t b_head) {
  enum { kSums = 8 }; /* of every eighth product */
  const char *x = address(a, a_token, a_head, 0), *y = address(b, b_token, b_head, 0);
  const int x_bits = a->dtype.bits, y_bits = b->dtype.bits;
  float sums[kSums] = {0};
  int64_t d = 0;
  for (; d + kSums <= a->shape[2]; d += kSums)
    for (int i = 0; i < kSums; ++i) sums[i] += element(x, x_bits, d + i) * element(y, y_bits, d + i);
  for (; d < a->shape[2]; ++d) sums[0] += element(x, x_bits, d) * element(y, y_bits, d);
  for (int i = 1; i < kSums; ++i) sums[0] += sums[i];
  return sums[0];
}

/* ---- Sequences ---- */

typedef struct Sequence {
  int64_t q_begin, num_queries, k_begin, num_keys;
} Sequence;

static Sequence sequence(const AttnspecCall* call, int64_t s) {
  const int64_t *q = call->q_offsets + s, *k = call->k_offsets + s;
  return (Sequence){q[0], q[1] - q[0], k[0], k[1] - k[0]};
}

/* How many keys query i sees: those up to its position, which is counted from the last. */
static int64_t visible_keys(const AttnspecCall* call, Sequence s, int64_t i) {
  const int64_t position = i + s.num_keys - s.num_queries;
  return !call->causal ? s.num_keys : position < 0 ? 0 : position + 1;
}

/* Floats for one sequence: T weights, and T rows of k and v, or of mean keys and their scores. */
static int64_t workspace_bytes(uint32_t op, int32_t is_backward, const void* params) {
  const AttnspecCall* call = params;
  const AttnspecDense* dense = params;
  const AttnspecMoba* moba = params;
  const int64_t dk = op == ATTNSPEC_DENSE ? dense->k.shape[2] : moba->k.shape[2];
  const int64_t dv = op == ATTNSPEC_DENSE ? dense->v.shape[2] : moba->v.shape[2];
  int64_t longest = 0;
  (void)is_backward;
  for (int64_t s = 0; s < call->num_sequences; ++s)
    if (sequence(call, s).num_keys > longest) longest = sequence(call, s).num_keys;
  return (longest + 1) * (dk + dv + 2) * (int64_t)sizeof(float);
}

/* ---- Forward ---- */

typedef struct Tensors {
  const DLTensor *q, *k, *v, *o, *lse;
} Tensors;

/* o and lse of one query row over some blocks of the keys it sees; -1 and blocks it does not see add nothing. */
static void attend(const Tensors* t, int64_t token, int64_t h, Sequence s, int64_t visible, const int32_t* blocks,
                   int64_t slots, int64_t block, float scale, float* weights) {
  const int64_t g = h / (t->q->shape[1] / t->k->shape[1]), dv = t->v->shape[2];
  enum { kFeatures = 64 };
  float largest = -INFINITY, sum = 0;
  for (int pass = 0; pass < 2; ++pass) { /* scores, then weights */
    for (int64_t slot = 0; slot < slots; ++slot) {
      if (blocks[slot] < 0) continue;
      for (int64_t j = blocks[slot] * block; j < visible && j < (blocks[slot] + 1) * block; ++j) {
        if (pass == 0) {
          weights[j] = scale * dot(t->q, token, h, t->k, s.k_begin + j, g);
          if (weights[j] > largest) largest = weights[j];
        } else {
          weights[j] = expf(weights[j] - largest);
          sum += weights[j];
        }
      }
    }
  }
  for (int64_t first = 0; first < dv; first += kFeatures) { /* so many features of o at a time */
    const int64_t features = dv - first < kFeatures ? dv - first : kFeatures;
    float o[kFeatures] = {0};
    for (int64_t slot = 0; slot < slots; ++slot) {
      if (blocks[slot] < 0) continue;
      for (int64_t j = blocks[slot] * block; j < visible && j < (blocks[slot] + 1) * block; ++j) {
        const char* v = address(t->v, s.k_begin + j, g, first);
        const int num_bits = t->v->dtype.bits;
        for (int64_t d = 0; d < features; ++d) o[d] += weights[j] * element(v, num_bits, d);
      }
    }
    for (int64_t d = 0; d < features; ++d) store(t->o, token, h, first + d, sum > 0 ? o[d] / sum : 0);
  }
  store(t->lse, token, h, 0, sum > 0 ? largest + logf(sum) : -INFINITY);
}

static const char* dense(const AttnspecDense* p) {
  const Tensors tensors = {&p->q, &p->k, &p->v, &p->o, &p->lse};
  const int32_t whole = 0; /* one block, the sequence */
  for (int64_t n = 0; n < p->call.num_sequences; ++n) {
    const Sequence s = sequence(&p->call, n);
    for (int64_t i = 0; i < s.num_queries; ++i)
      for (int64_t h = 0; h < p->q.shape[1]; ++h)
        attend(&tensors, s.q_begin + i, h, s, visible_keys(&p->call, s, i), &whole, 1, s.num_keys, (float)p->call.scale,
               p->call.workspace);
  }
  return NULL;
}

/* Mean keys of every block, [blocks, dk]. */
static void pool(const DLTensor* k, Sequence s, int64_t g, int64_t block, float* means) {
  const int64_t dk = k->shape[2];
  for (int64_t begin = 0; begin < s.num_keys; begin += block, means += dk) {
    const int64_t end = begin + block < s.num_keys ? begin + block : s.num_keys;
    for (int64_t d = 0; d < dk; ++d) {
      float sum = 0;
      for (int64_t j = begin; j < end; ++j) sum += load(k, s.k_begin + j, g, d);
      means[d] = sum / (float)(end - begin);
    }
  }
}

/* The own block of the query and, of the blocks before it, the best by score; without causality the best of all. Every
 * chosen block leaves the competition with score -infinity. */
static void choose(float* scores, int64_t num_blocks, int64_t own, int causal, int32_t* blocks, int64_t slots) {
  const int64_t candidates = causal ? own : num_blocks;
  for (int64_t slot = 0; slot < slots; ++slot) {
    blocks[slot] = -1;
    if (causal && slot == 0) {
      blocks[slot] = (int32_t)own; /* -1 where the query sees nothing */
      continue;
    }
    for (int64_t b = 0; b < candidates; ++b)
      if (scores[b] > -INFINITY && (blocks[slot] < 0 || scores[b] > scores[blocks[slot]])) blocks[slot] = (int32_t)b;
    if (blocks[slot] >= 0) scores[blocks[slot]] = -INFINITY;
  }
}

static const char* moba(const AttnspecMoba* p) {
  const Tensors tensors = {&p->q, &p->k, &p->v, &p->o, &p->lse};
  const int64_t heads = p->q.shape[1], dk = p->q.shape[2], slots = p->selection.shape[2];
  for (int64_t n = 0; n < p->call.num_sequences; ++n) {
    const Sequence s = sequence(&p->call, n);
    const int64_t num_blocks = (s.num_keys + p->block - 1) / p->block;
    float *weights = p->call.workspace, *scores = weights + s.num_keys, *means = scores + num_blocks;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t g = h / (heads / p->k.shape[1]);
      pool(&p->k, s, g, p->block, means);
      for (int64_t i = 0; i < s.num_queries; ++i) {
        const int64_t token = s.q_begin + i, visible = visible_keys(&p->call, s, i);
        int32_t* blocks = (int32_t*)p->selection.data + token * p->selection.strides[0] + h * p->selection.strides[1];
        for (int64_t b = 0; b < num_blocks; ++b) {
          const char* q = address(&p->q, token, h, 0);
          scores[b] = 0;
          for (int64_t d = 0; d < dk; ++d) scores[b] += element(q, p->q.dtype.bits, d) * means[b * dk + d];
        }
        choose(scores, num_blocks, visible > 0 ? (visible - 1) / p->block : -1, p->call.causal, blocks, slots);
        attend(&tensors, token, h, s, visible, blocks, slots, p->block, (float)p->call.scale, weights);
      }
    }
  }
  return NULL;
}

/* ---- Backward of dense ---- */

/* Adds one query row to dk and dv of its sequence and key/value head, [keys, dk] and [keys, dv], and stores its dq. */
static void attend_backward(const AttnspecDenseBackward* p, int64_t token, int64_t h, int64_t g, Sequence s,
                            int64_t visible, float* dq, float* dk, float* dv) {
  const AttnspecDense* f = p->forward;
  const int64_t features = f->k.shape[2], values = f->v.shape[2];
  const float scale = (float)f->call.scale, lse = load(&f->lse, token, h, 0);
  const float delta = dot(&p->d_o, token, h, &f->o, token, h);
  for (int64_t d = 0; d < features; ++d) dq[d] = 0;
  for (int64_t j = 0; j < visible; ++j) {
    const float weight = expf(scale * dot(&f->q, token, h, &f->k, s.k_begin + j, g) - lse);
    const float d_score = weight * (dot(&p->d_o, token, h, &f->v, s.k_begin + j, g) - delta);
    add_row(&f->k, s.k_begin + j, g, d_score, dq);
    add_row(&f->q, token, h, d_score, dk + j * features);
    add_row(&p->d_o, token, h, weight, dv + j * values);
  }
  for (int64_t d = 0; d < features; ++d) store(&p->dq, token, h, d, scale * dq[d]);
}

static const char* dense_backward(const AttnspecDenseBackward* p) {
  const AttnspecDense* f = p->forward;
  const int64_t group = f->q.shape[1] / f->k.shape[1], features = f->k.shape[2], values = f->v.shape[2];
  for (int64_t n = 0; n < f->call.num_sequences; ++n) {
    const Sequence s = sequence(&f->call, n);
    float *dq = f->call.workspace, *dk = dq + features, *dv = dk + s.num_keys * features;
    for (int64_t g = 0; g < f->k.shape[1]; ++g) {
      memset(dk, 0, (size_t)(s.num_keys * (features + values)) * sizeof(float));
      for (int64_t h = g * group; h < (g + 1) * group; ++h)
        for (int64_t i = 0; i < s.num_queries; ++i)
          attend_backward(p, s.q_begin + i, h, g, s, visible_keys(&f->call, s, i), dq, dk, dv);
      for (int64_t j = 0; j < s.num_keys; ++j) {
        for (int64_t d = 0; d < features; ++d)
          store(&p->dk, s.k_begin + j, g, d, (float)f->call.scale * dk[j * features + d]);
        for (int64_t d = 0; d < values; ++d) store(&p->dv, s.k_begin + j, g, d, dv[j * values + d]);
      }
    }
  }
  return NULL;
}

/* ---- The declaration ---- */

static const AttnspecKernel kernel = {
    .struct_size = sizeof(AttnspecKernel),
    .abi_version = ATTNSPEC_ABI_VERSION,
    .device_type = kDLCPU,
    .name = "dense_moba",
    .summary = "dense attention and MoBA, one row after the other",
    .arithmetic = "fp32_weights",
    .operators = ATTNSPEC_DENSE | ATTNSPEC_MOBA,
    .promises =
        ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT,
    .workspace_bytes = workspace_bytes,
    .dense = dense,
    .dense_backward = dense_backward,
    .moba = moba,
    .limits = {.dtypes = ATTNSPEC_BF16 | ATTNSPEC_FP32, .gates = ATTNSPEC_GATE_TOP_K},
};

const AttnspecKernel* attnspec_kernel(void) { return &kernel; }
